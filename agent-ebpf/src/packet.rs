//! Packets as a cgroup's programs see them: from the network header on.

use agent_common::dns::{NO_PORT, PORTS_LEN};
use aya_ebpf::{bindings::bpf_sock, helpers::generated::bpf_sk_fullsock, programs::SkBuffContext};

/// 1 when a port is one of these, which fill up with [`NO_PORT`]. Without a branch on the port: the verifier would follow both ways. Of
/// those on what is frozen it knows the way, and takes what is behind the last port out of the program.
///
/// # Safety
/// `ports` must point into a frozen global.
#[inline(always)]
pub unsafe fn is_one_of(ports: *const [u64; PORTS_LEN], port: u16) -> u64 {
    let mut found = 0;
    for i in 0..PORTS_LEN {
        // SAFETY: the caller's word for it.
        let one = unsafe { core::ptr::read_volatile(ports.cast::<u64>().add(i)) };
        if one == NO_PORT {
            break;
        }
        // Numbers below 2^33: only of 0 does one less have the highest bit.
        found |= (one ^ port as u64).wrapping_sub(1) >> 63;
    }
    found
}

/// The lowest and the highest protocol number of those in [`receives_copies`].
const LOWEST: u32 = TCP as u32;
const HIGHEST: u32 = 136;

/// The part of a packet that programs can read as memory, from the network header on. The headers of nearly all packets are in it, and
/// a load takes a tenth of what the helper takes that reads all packets.
#[derive(Clone, Copy)]
pub struct Linear {
    data: *const u8,
    end: *const u8,
}

impl Linear {
    /// Of a packet.
    #[inline(always)]
    pub fn of(ctx: &SkBuffContext) -> Self {
        let skb = ctx.skb.skb;
        // SAFETY: fields of the context, which the verifier turns into pointers.
        unsafe {
            let data = core::ptr::read_volatile(&raw const (*skb).data) as usize as *const u8;
            let end = core::ptr::read_volatile(&raw const (*skb).data_end) as usize as *const u8;
            Self { data, end }
        }
    }

    /// Whether its first `len` bytes are there: from then on the verifier allows loads from them.
    #[inline(always)]
    pub fn reaches(&self, len: usize) -> bool {
        self.data.wrapping_add(len) <= self.end
    }

    /// What begins at `at`.
    #[inline(always)]
    pub fn from(&self, at: u32) -> Self {
        Self { data: self.data.wrapping_add(at as usize), end: self.end }
    }

    /// One byte.
    ///
    /// # Safety
    /// The packet must be known to reach beyond it.
    #[inline(always)]
    pub unsafe fn byte(&self, at: usize) -> u8 {
        // SAFETY: the caller's promise, which the verifier checks.
        unsafe { core::ptr::read_volatile(self.data.add(at)) }
    }

    /// Four bytes as they are on the wire.
    ///
    /// # Safety
    /// The packet must be known to reach beyond them.
    #[inline(always)]
    pub unsafe fn word<const AT: u32>(&self) -> u32 {
        let word: u64;
        // SAFETY: the caller's promise, which the verifier checks. By an instruction, since a packet may begin at any address, which
        // the processors of these kernels can load words from.
        unsafe {
            core::arch::asm!("{word} = *(u32 *)({data} + {at})", word = out(reg) word, data = in(reg) self.data, at = const AT,
                options(pure, readonly, nostack));
        }
        word as u32
    }

    /// Eight bytes as they are on the wire, the first one lowest.
    ///
    /// # Safety
    /// The packet must be known to reach beyond them.
    #[inline(always)]
    pub unsafe fn two_words(&self) -> u64 {
        // SAFETY: the caller's promise.
        unsafe { two_words_at(self.data) }
    }
}

/// Eight bytes at any address, the first one lowest.
///
/// # Safety
/// They must be readable, which the verifier checks.
#[inline(always)]
pub unsafe fn two_words_at(at: *const u8) -> u64 {
    let words: u64;
    // SAFETY: the caller's promise. By an instruction, as for `Linear::word`.
    unsafe {
        core::arch::asm!("{words} = *(u64 *)({at} + 0)", words = out(reg) words, at = in(reg) at, options(pure, readonly, nostack));
    }
    u64::from_le(words)
}

/// Whether what a socket receives are copies of what other sockets receive: a raw socket of a protocol that has sockets of its own.
///
/// The kernel gives every raw socket of a packet's protocol a copy before it looks for the one that the packet is for
/// (`raw_local_deliver`, `raw6_local_deliver`). Of ICMP, OSPF and the like a raw socket is the receiver.
///
/// # Safety
/// `socket` must be a full socket, which the verifier knows.
#[inline(always)]
pub unsafe fn receives_copies(socket: *const bpf_sock) -> bool {
    const SOCK_RAW: u32 = 3;
    const TCP: u32 = LOWEST;
    const UDP: u32 = 17;
    const DCCP: u32 = 33;
    const SCTP: u32 = 132;
    const UDPLITE: u32 = HIGHEST;
    // SAFETY: fields of a socket, which the verifier checks.
    unsafe { (*socket).type_ == SOCK_RAW && matches!((*socket).protocol, TCP | UDP | DCCP | SCTP | UDPLITE) }
}

/// Whether a packet that comes in is a copy of one that comes in at another socket: see [`receives_copies`].
#[inline(always)]
pub fn is_copy(ctx: &SkBuffContext) -> bool {
    // SAFETY: a field of the context, which the verifier checks; the helper takes what it found there, if it is not null.
    unsafe {
        let sk = (*ctx.skb.skb).__bindgen_anon_2.sk;
        // A raw socket has its protocol for a port.
        if sk.is_null() || (*sk).src_port.wrapping_sub(LOWEST) > HIGHEST - LOWEST {
            return false;
        }
        let socket = bpf_sk_fullsock(sk);
        !socket.is_null() && receives_copies(socket)
    }
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A TCP segment, or several put together.
    Tcp,
    /// A UDP datagram.
    Udp,
}

/// Numbers of protocols.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A TCP or UDP packet.
#[derive(Clone, Copy)]
pub struct Packet {
    /// What it carries.
    pub protocol: Protocol,
    /// Its sender's port.
    pub source_port: u16,
    /// Its receiver's port.
    pub destination_port: u16,
    /// Where its payload begins.
    pub payload: u32,
    /// Bytes of payload.
    pub payload_len: u32,
    /// Of its first byte of payload; 0 for UDP.
    pub sequence: u32,
    v6: bool,
}

impl Packet {
    /// `None` for other protocols, and for what is cut.
    #[inline(always)]
    pub fn of(ctx: &SkBuffContext) -> Option<Self> {
        const V4: u32 = 20;
        const V6: u32 = 40;
        let (linear, len) = (Linear::of(ctx), ctx.skb.len());
        // SAFETY: in each case the packet reaches as far as is read.
        unsafe {
            if linear.reaches(28) && linear.byte(0) == 0x45 {
                if linear.byte(9) == UDP {
                    return Some(Self::udp(V4, len, false, linear.word::<20>(), linear.word::<24>()));
                }
                if linear.byte(9) == TCP && linear.reaches(34) {
                    let flags = [linear.byte(32), linear.byte(33)];
                    return Some(Self::tcp(V4, len, false, linear.word::<20>(), linear.word::<24>(), flags));
                }
            } else if linear.reaches(48) && linear.byte(0) >> 4 == 6 {
                if linear.byte(6) == UDP {
                    return Some(Self::udp(V6, len, true, linear.word::<40>(), linear.word::<44>()));
                }
                if linear.byte(6) == TCP && linear.reaches(54) {
                    let flags = [linear.byte(52), linear.byte(53)];
                    return Some(Self::tcp(V6, len, true, linear.word::<40>(), linear.word::<44>(), flags));
                }
            }
        }
        Self::read(ctx)
    }

    /// The same of one with options, extension headers, or headers that are not in its linear part.
    #[inline(always)]
    pub fn read(ctx: &SkBuffContext) -> Option<Self> {
        let first: u8 = ctx.load(0).ok()?;
        let v6 = first >> 4 == 6;
        let (mut protocol, mut at) = (0_u8, 40_u32);
        if v6 {
            protocol = ctx.load(6).ok()?;
            for _ in 0..4 {
                // Hop-by-hop options, routing, destination options: each with the kind of the next and its own length.
                if !matches!(protocol, 0 | 43 | 60) {
                    break;
                }
                let [next, len]: [u8; 2] = ctx.load(at as usize).ok()?;
                protocol = next;
                at += (len as u32 + 1) * 8;
            }
        } else if first >> 4 == 4 {
            protocol = ctx.load(9).ok()?;
            at = (first as u32 & 15) * 4;
        }
        let len = ctx.skb.len();
        match protocol {
            UDP => {
                let [ports, lengths]: [u32; 2] = ctx.load(at as usize).ok()?;
                Some(Self::udp(at, len, v6, ports, lengths))
            }
            TCP => {
                let [ports, sequence]: [u32; 2] = ctx.load(at as usize).ok()?;
                let flags: [u8; 2] = ctx.load(at as usize + 12).ok()?;
                Some(Self::tcp(at, len, v6, ports, sequence, flags))
            }
            _ => None,
        }
    }

    /// By its header at `at`, of a packet of `len` bytes.
    #[inline(always)]
    fn udp(at: u32, len: u32, v6: bool, ports: u32, lengths: u32) -> Self {
        let payload = at + 8;
        let claimed = (u32::from_be(lengths) >> 16).saturating_sub(8);
        let there = len.saturating_sub(payload);
        let payload_len = if claimed < there { claimed } else { there };
        let ports = u32::from_be(ports);
        Self {
            protocol: Protocol::Udp,
            source_port: (ports >> 16) as u16,
            destination_port: ports as u16,
            payload,
            payload_len,
            sequence: 0,
            v6,
        }
    }

    /// The same of TCP; `flags` begin with the header's length.
    #[inline(always)]
    fn tcp(at: u32, len: u32, v6: bool, ports: u32, sequence: u32, flags: [u8; 2]) -> Self {
        let payload = at + (flags[0] as u32 >> 4) * 4;
        let syn = flags[1] as u32 >> 1 & 1;
        let ports = u32::from_be(ports);
        Self {
            protocol: Protocol::Tcp,
            source_port: (ports >> 16) as u16,
            destination_port: ports as u16,
            payload,
            payload_len: len.saturating_sub(payload),
            sequence: u32::from_be(sequence).wrapping_add(syn),
            v6,
        }
    }

    /// A hash of its sender's address and port.
    #[inline(always)]
    pub fn source_hash(&self, ctx: &SkBuffContext) -> u32 {
        if self.v6 { hash(self.source_port, v6_address::<8>(ctx)) } else { hash(self.source_port, v4_address::<12>(ctx)) }
    }

    /// A hash of its receiver's address and port.
    #[inline(always)]
    pub fn destination_hash(&self, ctx: &SkBuffContext) -> u32 {
        if self.v6 {
            hash(self.destination_port, v6_address::<24>(ctx))
        } else {
            hash(self.destination_port, v4_address::<16>(ctx))
        }
    }

    /// Whether it goes to a group of receivers: 224.0.0.0/4, ff00::/8.
    #[inline(always)]
    pub fn goes_to_many(&self, ctx: &SkBuffContext) -> bool {
        if self.v6 {
            v4_address::<24>(ctx)[0].to_ne_bytes()[0] == 0xff
        } else {
            v4_address::<16>(ctx)[0].to_ne_bytes()[0] >> 4 == 0xe
        }
    }
}

/// Four bytes of a header as they are on the wire, at such a place of it; 0 where the packet is shorter.
#[inline(always)]
fn v4_address<const AT: u32>(ctx: &SkBuffContext) -> [u32; 1] {
    let linear = Linear::of(ctx);
    // SAFETY: it reaches so far.
    [if linear.reaches(AT as usize + 4) { unsafe { linear.word::<AT>() } } else { ctx.load(AT as usize).unwrap_or_default() }]
}

/// The same of sixteen bytes.
#[inline(always)]
fn v6_address<const AT: u32>(ctx: &SkBuffContext) -> [u32; 4] {
    let linear = Linear::of(ctx).from(AT);
    if linear.reaches(16) {
        // SAFETY: it reaches so far.
        unsafe { [linear.word::<0>(), linear.word::<4>(), linear.word::<8>(), linear.word::<12>()] }
    } else {
        ctx.load(AT as usize).unwrap_or_default()
    }
}

#[inline(always)]
fn hash<const N: usize>(port: u16, words: [u32; N]) -> u32 {
    const FACTOR: u32 = 0x9e37_79b1;
    let mut hash = port as u32;
    for word in words {
        hash = (hash ^ word).wrapping_mul(FACTOR).rotate_left(15);
    }
    hash
}
