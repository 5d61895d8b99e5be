//! The node's network interfaces, and how many connections the kernel tracks: `/proc/1/net` below the node's root, which is the network
//! namespace of the node's first process, whatever podmeter's own is.
//!
//! Each pod has an interface on the node, its end of a pair, by which nothing is learnt that the pod's own figures do not have: such
//! interfaces have no points, and the number of series does not grow with that of pods. [`Kinds`] has the rule.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use super::{
    kept_file::KeptFile,
    machine::{counted, whole},
    metrics::{
        CONNTRACK, CONNTRACK_LIMIT, NETWORK_DROPPED, NETWORK_ERRORS, NETWORK_IO, NETWORK_PACKETS, SOFTNET_DROPPED,
        SOFTNET_SQUEEZED,
    },
};
use crate::metric::{Metric, Point};

/// Interfaces that have points, at most: those that come first in the kernel's list, which is about that of their age.
const MOST: usize = 64;

/// The files, open, and which interfaces have points.
#[derive(Debug)]
pub(super) struct Interfaces {
    counts: KeptFile,
    softnet: KeptFile,
    conntrack: KeptFile,
    conntrack_limit: KeptFile,
    kinds: Kinds,
}

impl Interfaces {
    /// Of the node that has its root there. Opens nothing yet.
    pub(super) fn new(root: &Path) -> Self {
        let of_first = |file: &str| KeptFile::new(root.join("proc/1/net").join(file));
        Self {
            counts: of_first("dev"),
            softnet: of_first("softnet_stat"),
            conntrack: of_first("stat/nf_conntrack"),
            // Of podmeter's own network namespace: all have the limit of the first.
            conntrack_limit: KeptFile::new("/proc/sys/net/netfilter/nf_conntrack_max"),
            kinds: Kinds { directory: root.join("sys/class/net"), known: HashMap::new(), reading: 0 },
        }
    }

    /// Their points, and why some are missing.
    pub(super) fn read(&mut self, points: &mut Vec<Point>, missing: &mut Vec<String>) {
        match self.counts.read() {
            Ok(text) => {
                self.kinds.begin();
                // The numbers of a pod's end are not looked at: there may be a thousand.
                let own = text.lines().filter_map(named).filter(|(name, _)| self.kinds.is_of_the_node(name));
                own.filter_map(|(name, counts)| Counts::parse(name, counts)).take(MOST).for_each(|counts| counts.points(points));
                self.kinds.forget_others();
            }
            Err(error) => missing.push(format!("no interfaces: {error}")),
        }
        match self.softnet.read() {
            Ok(text) => {
                let (dropped, squeezed) = softnet(&text);
                points.extend(
                    counted(&SOFTNET_DROPPED, Some(dropped)).into_iter().chain(counted(&SOFTNET_SQUEEZED, Some(squeezed))),
                );
            }
            Err(error) => missing.push(format!("no packets dropped before any interface: {error}")),
        }
        // Where the kernel tracks no connections there is neither file, and nothing to miss.
        let tracked = self.conntrack.read().ok().and_then(|text| tracked(&text));
        let limit = self.conntrack_limit.read().ok().and_then(|text| text.trim().parse().ok());
        if let (Some(tracked), Some(limit)) = (tracked, limit) {
            points.extend(whole(&CONNTRACK, Some(tracked)).into_iter().chain(whole(&CONNTRACK_LIMIT, Some(limit))));
        }
    }
}

/// The name in a line of `/proc/net/dev`, and the rest of it; `None` for headings.
fn named(line: &str) -> Option<(&str, &str)> {
    // A name has no space in it, but may have a colon.
    let (name, rest) = line.trim_start().split_once(' ')?;
    Some((name.strip_suffix(':')?, rest))
}

/// What the kernel counts of one interface.
#[derive(Debug, PartialEq, Eq)]
struct Counts<'a> {
    name: &'a str,
    /// Bytes, packets, errors, drops.
    receive: [u64; 4],
    transmit: [u64; 4],
}

impl<'a> Counts<'a> {
    /// The numbers of a line of `/proc/net/dev`; `None` where they are others.
    fn parse(name: &'a str, rest: &str) -> Option<Self> {
        let mut words = rest.split_ascii_whitespace().map(|word| word.parse::<u64>().ok());
        let mut four = || Some([words.next()??, words.next()??, words.next()??, words.next()??]);
        let (receive, _fifo_frame_compressed_multicast, transmit) = (four()?, four()?, four()?);
        Some(Self { name, receive, transmit })
    }

    fn points(&self, points: &mut Vec<Point>) {
        const METRICS: [&Metric; 4] = [&NETWORK_IO, &NETWORK_PACKETS, &NETWORK_ERRORS, &NETWORK_DROPPED];
        for (direction, counts) in [("receive", self.receive), ("transmit", self.transmit)] {
            for (metric, count) in METRICS.into_iter().zip(counts) {
                let point = counted(metric, Some(count)).map(|point| point.with("network.io.direction", direction));
                points.extend(point.map(|point| point.with("network.interface.name", self.name.to_owned())));
            }
        }
    }
}

/// Which interfaces have points, by name, looked up once for each.
///
/// They are those with a device behind them, virtual machines' included, and of those that the kernel makes the kinds that carry a node's
/// traffic: bonds, bridges, VLANs, tunnels that say what they are. Not: loopback, pairs to a pod (veth, by whatever name: cali*, lxc*, eni*),
/// tap devices, and dummies.
#[derive(Debug)]
struct Kinds {
    /// `/sys/class/net` of the node.
    directory: PathBuf,
    /// Whether it is the node's own, and in which reading it was last there.
    known: HashMap<String, (bool, u32)>,
    reading: u32,
}

impl Kinds {
    /// What `DEVTYPE` says of interfaces without a device that have points all the same.
    const CARRIERS: [&str; 8] = ["bond", "bridge", "vlan", "vxlan", "geneve", "wireguard", "wlan", "macvlan"];

    /// How names begin that are a pod's end everywhere: not looked up.
    const OF_PODS: [&str; 5] = ["veth", "cali", "lxc", "lo", "tap"];

    fn is_of_the_node(&mut self, name: &str) -> bool {
        if Self::OF_PODS.iter().any(|of_pod| name.starts_with(of_pod)) {
            return false;
        }
        if let Some((is_own, reading)) = self.known.get_mut(name) {
            *reading = self.reading;
            return *is_own;
        }
        let is_own = Self::look_up(&self.directory.join(name));
        self.known.insert(name.to_owned(), (is_own, self.reading));
        is_own
    }

    /// Another reading.
    fn begin(&mut self) {
        self.reading = self.reading.wrapping_add(1);
    }

    /// A name that is gone may be another's next time.
    fn forget_others(&mut self) {
        let now = self.reading;
        self.known.retain(|_, (_, reading)| *reading == now);
    }

    fn look_up(directory: &Path) -> bool {
        let kind = fs::read_to_string(directory.join("uevent"));
        // Without sysfs only the name tells.
        let Ok(kind) = kind else { return true };
        let is_carrier = |line: &str| line.strip_prefix("DEVTYPE=").is_some_and(|kind| Self::CARRIERS.contains(&kind));
        kind.lines().any(is_carrier) || fs::symlink_metadata(directory.join("device")).is_ok()
    }
}

/// Packets dropped because a CPU's queue was full, and times that a CPU had more to do than it may at once. Hexadecimal, a line per CPU:
/// packets, dropped, times squeezed, ...
fn softnet(text: &str) -> (u64, u64) {
    let column = |at: usize| {
        let words = text.lines().filter_map(|line| line.split_ascii_whitespace().nth(at));
        words.filter_map(|word| u64::from_str_radix(word, 16).ok()).sum()
    };
    (column(1), column(2))
}

/// Entries of the table of connections: every line has their number first, in hexadecimal.
fn tracked(text: &str) -> Option<u64> {
    u64::from_str_radix(text.lines().nth(1)?.split_ascii_whitespace().next()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEV: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 10 1 0 0 0 0 0 0 10 1 0 0 0 0 0 0
  eth0: 1000 20 3 4 5 6 7 8 900 10 11 12 13 14 15 16
vethab@if3: 5 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0
   a:b: 5 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0
";

    #[test]
    fn a_line_has_bytes_packets_errors_and_drops_of_both_directions() {
        let found: Vec<_> = DEV.lines().filter_map(named).filter_map(|(name, counts)| Counts::parse(name, counts)).collect();
        assert_eq!(found.iter().map(|counts| counts.name).collect::<Vec<_>>(), ["lo", "eth0", "vethab@if3", "a:b"]);
        assert_eq!((found[1].receive, found[1].transmit), ([1000, 20, 3, 4], [900, 10, 11, 12]));
        let mut points = Vec::new();
        found[1].points(&mut points);
        assert_eq!(points.len(), 8);
        assert!(points.iter().all(|point| point.attributes.iter().any(|pair| pair == ("network.interface.name", "eth0"))));
    }

    #[test]
    fn only_interfaces_of_the_node_itself_have_points() {
        let net = tempfile::tempdir().expect("a directory");
        for (name, uevent, device) in [
            ("eth0", "INTERFACE=eth0\n", true),
            ("bond0", "DEVTYPE=bond\nINTERFACE=bond0\n", false),
            ("eni5f2", "INTERFACE=eni5f2\n", false),
            ("vlan7", "DEVTYPE=vlan\n", false),
        ] {
            fs::create_dir(net.path().join(name)).expect("made");
            fs::write(net.path().join(name).join("uevent"), uevent).expect("written");
            if device {
                fs::create_dir(net.path().join(name).join("device")).expect("made");
            }
        }
        let mut kinds = Kinds { directory: net.path().to_owned(), known: HashMap::new(), reading: 0 };
        let names = ["eth0", "bond0", "eni5f2", "vlan7", "veth1", "cali2", "lxc3", "lo", "unknown"];
        let own: Vec<_> = names.into_iter().filter(|name| kinds.is_of_the_node(name)).collect();
        assert_eq!(own, ["eth0", "bond0", "vlan7", "unknown"]);
        kinds.begin();
        assert!(kinds.is_of_the_node("bond0"));
        kinds.forget_others();
        assert_eq!(kinds.known.len(), 1);
    }

    #[test]
    fn hexadecimal_tables_are_added_up_or_read_once() {
        assert_eq!(softnet("000002f4 0000000a 00000001 0\n0000ffff 00000010 00000002 0\n"), (26, 3));
        assert_eq!(tracked("entries  searched\n0000001f  00000000\n0000001f  00000001\n"), Some(31));
        assert_eq!(tracked("entries\n"), None);
    }
}
