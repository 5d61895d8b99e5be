//! The test's interface: its counters in /sys, and its offloads switched off.

use std::{fs, net::UdpSocket, os::fd::AsRawFd as _};

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::namespace::{Cable, FAR, INTERFACE, NEAR, Namespace};

use super::LINK;

/// Bytes and packets that the cable's interface has received and sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counters {
    pub(super) received: [u64; 2],
    pub(super) sent: [u64; 2],
}

impl Counters {
    pub(super) fn of(namespace: &Namespace) -> Result<Self> {
        // /sys shows the network namespace in which it was mounted; /proc that of the thread.
        let text = namespace.run(|| fs::read_to_string("/proc/thread-self/net/dev").context("could not read the counters"))?;
        let line = text.lines().find_map(|line| line.trim().strip_prefix(INTERFACE)?.strip_prefix(':')).context("no cable")?;
        let n: Vec<u64> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        ensure!(n.len() >= 10, "{line}");
        Ok(Self { received: [n[0], n[1]], sent: [n[8], n[9]] })
    }

    /// What was added since, as IP has it: bytes and packets.
    pub(super) fn since(self, before: Self) -> [[u64; 2]; 2] {
        let of = |now: [u64; 2], then: [u64; 2]| {
            let packets = now[1] - then[1];
            [now[0] - then[0] - packets * LINK, packets]
        };
        [of(self.received, before.received), of(self.sent, before.sent)]
    }
}

/// A cable on which nothing is but what a test sends: both ends know each other's hardware address, and there is no IPv6 that
/// would look for neighbours. Large packets are cut into segments before they reach the cable, so that its counters count those.
pub(super) fn quiet_cable() -> Result<Cable> {
    let cable = Cable::new()?.without_ipv6()?;
    let hardware = |namespace: &Namespace| -> Result<String> {
        let shown = namespace.run(|| {
            let output = std::process::Command::new("ip").args(["link", "show", "dev", INTERFACE]).output();
            Ok(String::from_utf8_lossy(&output.context("could not start ip")?.stdout).into_owned())
        })?;
        let words: Vec<&str> = shown.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "link/ether").context("no hardware address")?;
        Ok((*words.get(at + 1).context("no hardware address")?).to_owned())
    };
    let (near, far) = (hardware(&cable.near)?, hardware(&cable.far)?);
    for (namespace, address, other) in [(&cable.near, FAR, far), (&cable.far, NEAR, near)] {
        namespace.ip(&format!("neigh replace {address} lladdr {other} dev {INTERFACE} nud permanent"))?;
        namespace.run(|| [SET_TSO, SET_GSO, SET_GRO].into_iter().try_for_each(switch_off))?;
    }
    Ok(cable)
}

/// Of linux/ethtool.h.
const SET_TSO: u32 = 0x1f;

const SET_GSO: u32 = 0x24;

const SET_GRO: u32 = 0x2c;

/// Switches a feature of the cable off, as `ethtool -K` does.
fn switch_off(command: u32) -> Result<()> {
    const SIOCETHTOOL: nix::libc::c_ulong = 0x8946;
    #[repr(C)]
    struct Value {
        command: u32,
        value: u32,
    }
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        data: *mut Value,
        rest: [u64; 2],
    }
    let socket = UdpSocket::bind("127.0.0.1:0").context("could not make a socket")?;
    let mut value = Value { command, value: 0 };
    let mut request = Request { name: [0; 16], data: &raw mut value, rest: [0; 2] };
    request.name[..INTERFACE.len()].copy_from_slice(INTERFACE.as_bytes());
    // SAFETY: a struct ifreq whose data is a struct ethtool_value; both live until the call returns.
    let result = unsafe { nix::libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    nix::errno::Errno::result(result).map(drop).context("could not switch off a feature of the interface")
}
