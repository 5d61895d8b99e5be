//! The reader against a hand-made sample, damage of every kind, and the running kernel.

use super::*;

/// Writes BTF.
#[derive(Default)]
struct Sample {
    types: Vec<u32>,
    count: u32,
    strings: Vec<u8>,
}

impl Sample {
    fn new() -> Self {
        Self { strings: vec![0], ..Self::default() }
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
        at
    }

    /// Adds a type with `len` things in `payload` and returns its id.
    fn add(&mut self, kind: u32, name: &str, flag: bool, len: u32, size_or_type: u32, payload: &[u32]) -> u32 {
        let name = self.name(name);
        self.types.extend([name, u32::from(flag) << 31 | kind << 24 | len, size_or_type]);
        self.types.extend(payload);
        self.count += 1;
        self.count
    }

    /// Adds a struct or union of `(name, type, bit offset)`; with `flag` the upper byte of the offset is a bitfield's size.
    fn group(&mut self, kind: u32, name: &str, flag: bool, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        let payload: Vec<u32> = members.iter().flat_map(|&(name, id, bits)| [self.name(name), id, bits]).collect();
        self.add(kind, name, flag, members.len() as u32, size, &payload)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        let types = self.types.len() as u32 * 4;
        for field in [HEADER_LEN as u32, 0, types, types, self.strings.len() as u32].iter().chain(&self.types) {
            bytes.extend(field.to_ne_bytes());
        }
        bytes.extend(&self.strings);
        bytes
    }

    fn parse(&self) -> Btf {
        Btf::parse(self.bytes()).expect("a sample that is right")
    }
}

/// Every kind there is, and every way a member can be hidden.
fn sample() -> Sample {
    let mut s = Sample::new();
    let int = s.add(kind::INT, "unsigned int", false, 0, 4, &[32]);
    let long = s.add(kind::INT, "unsigned long", false, 0, 8, &[64]);
    let double = s.add(kind::FLOAT, "double", false, 0, 8, &[]);
    let pointer = s.add(kind::PTR, "", false, 0, int, &[]);
    let array = s.add(kind::ARRAY, "", false, 0, 0, &[long, int, 3]);
    let matrix = s.add(kind::ARRAY, "", false, 0, 0, &[array, int, 2]);
    let either = s.group(kind::UNION, "", false, 8, &[("low", int, 0), ("whole", long, 0)]);
    let tagged = s.add(kind::TYPE_TAG, "rcu", false, 0, either, &[]);
    let inner = s.group(kind::STRUCT, "inner", false, 24, &[("x", int, 0), ("", tagged, 64), ("last", long, 128)]);
    let alias = s.add(kind::TYPEDEF, "inner_t", false, 0, inner, &[]);
    let constant = s.add(kind::CONST, "", false, 0, alias, &[]);
    let volatile = s.add(kind::VOLATILE, "", false, 0, constant, &[]);
    let restrict = s.add(kind::RESTRICT, "", false, 0, volatile, &[]);
    let unnamed = s.group(kind::STRUCT, "", false, 16, &[("deep", int, 32), ("", either, 64)]);
    s.group(
        kind::STRUCT,
        "outer",
        true,
        160,
        &[
            ("first", int, 0),
            ("one_bit", int, 1 << 24 | 32),
            ("", int, 3 << 24 | 33),
            ("a_byte", int, 8 << 24 | 40),
            ("in", restrict, 64),
            ("to", pointer, 256),
            ("", unnamed, 320),
            ("many", matrix, 448),
            ("float", double, 832),
        ],
    );
    let nibble = s.add(kind::INT, "unsigned int", false, 0, 4, &[4]);
    s.group(kind::STRUCT, "old", false, 8, &[("nibble", nibble, 0), ("word", int, 32)]);
    let (a, b) = (s.name("LESS"), s.name("MORE"));
    s.add(kind::ENUM, "signed", true, 2, 4, &[a, u32::MAX, b, 7]);
    s.add(kind::ENUM, "unsigned", false, 1, 4, &[b, u32::MAX]);
    s.add(kind::ENUM64, "wide", true, 2, 8, &[a, u32::MAX, u32::MAX, b, 1, 2]);
    s.add(kind::FWD, "elsewhere", false, 0, 0, &[]);
    let proto = s.add(kind::FUNC_PROTO, "", false, 1, int, &[0, int]);
    s.add(kind::FUNC, "function", false, 1, proto, &[]);
    let variable = s.add(kind::VAR, "variable", false, 0, int, &[1]);
    s.add(kind::DATASEC, ".data", false, 1, 4, &[variable, 0, 4]);
    s.add(kind::DECL_TAG, "tag", false, 0, variable, &[u32::MAX]);
    s
}

const OFFSETS: &[(&str, &str, u32, u32)] = &[
    ("inner", "x", 0, 4),
    ("inner", "low", 8, 4),
    ("inner", "whole", 8, 8),
    ("inner", "last", 16, 8),
    ("outer", "first", 0, 4),
    ("outer", "in", 8, 24),
    ("outer", "in.x", 8, 4),
    ("outer", "in.whole", 16, 8),
    ("outer", "in.last", 24, 8),
    ("outer", "to", 32, 8),
    ("outer", "deep", 44, 4),
    ("outer", "low", 48, 4),
    ("outer", "many", 56, 48),
    ("outer", "float", 104, 8),
    ("old", "word", 4, 4),
];

#[test]
fn members_are_found_through_anonymous_structs_typedefs_and_paths() {
    let btf = sample().parse();
    for &(type_name, member, offset, size) in OFFSETS {
        assert_eq!(btf.offset(type_name, member).ok(), Some(offset), "{type_name}.{member}");
        assert_eq!(btf.member_size(type_name, member).ok(), Some(size), "size of {type_name}.{member}");
        assert!(btf.has_member(type_name, member));
    }
}

#[test]
fn what_has_no_offset_says_why() {
    let btf = sample().parse();
    for (type_name, member, message) in [
        ("outer", "one_bit", "in this kernel outer.one_bit is a bitfield, which has no offset in bytes"),
        ("outer", "a_byte", "in this kernel outer.a_byte is a bitfield, which has no offset in bytes"),
        ("old", "nibble", "in this kernel old.nibble is a bitfield, which has no offset in bytes"),
        ("outer", "absent", "in this kernel outer has no member absent"),
        ("outer", "in.absent", "in this kernel outer has no member in.absent"),
        ("outer", "in.x.y", "in this kernel outer.in.x is not a struct that lies inside outer"),
        ("outer", "to.x", "in this kernel outer.to is not a struct that lies inside outer"),
        ("outer", "", "in this kernel outer has no member "),
        ("outer", "in.", "in this kernel outer has no member in."),
        ("elsewhere", "x", "this kernel has no struct or union elsewhere"),
        ("signed", "LESS", "this kernel has no struct or union signed"),
        ("", "low", "this kernel has no struct or union "),
    ] {
        assert_eq!(btf.offset(type_name, member).expect_err(message).to_string(), message);
    }
    assert!(btf.has_member("outer", "one_bit"));
    assert!(!btf.has_member("outer", "absent"));
}

#[test]
fn enums_keep_sign_and_width() {
    let btf = sample().parse();
    let values = |name| btf.enum_names(name).expect("an enum");
    assert_eq!(values("signed"), [(-1, "LESS".to_owned()), (7, "MORE".to_owned())]);
    assert_eq!(values("unsigned"), [(i64::from(u32::MAX), "MORE".to_owned())]);
    assert_eq!(values("wide"), [(-1, "LESS".to_owned()), ((2 << 32) + 1, "MORE".to_owned())]);
    assert_eq!(btf.enum_names("outer").expect_err("a struct").to_string(), "this kernel has no enum outer");
}

#[test]
fn types_of_one_name_must_agree() {
    let mut s = Sample::new();
    let int = s.add(kind::INT, "int", false, 0, 4, &[32]);
    s.group(kind::STRUCT, "twice", false, 8, &[("same", int, 0), ("moved", int, 32)]);
    s.group(kind::STRUCT, "twice", false, 16, &[("same", int, 0), ("moved", int, 64), ("only", int, 96)]);
    let btf = s.parse();
    assert_eq!(btf.offset("twice", "same").ok(), Some(0));
    assert_eq!(btf.offset("twice", "only").ok(), Some(12));
    assert!(matches!(btf.offset("twice", "moved"), Err(BtfError::Ambiguous { .. })));
}

#[test]
fn types_that_never_end_are_errors() {
    let mut s = Sample::new();
    s.add(kind::TYPEDEF, "forward", false, 0, 2, &[]);
    s.add(kind::TYPEDEF, "back", false, 0, 1, &[]);
    s.add(kind::ARRAY, "", false, 0, 0, &[3, 3, u32::MAX]);
    s.group(kind::STRUCT, "s", false, 8, &[("cycle", 1, 0), ("array", 3, 0), ("", 5, 0), ("void", 0, 0)]);
    // Contains itself twice: without a bound, 2^n visits.
    s.group(kind::STRUCT, "itself", false, 8, &[("", 5, 0xff_ffff), ("", 5, 0xff_ffff)]);
    let btf = s.parse();
    for (type_name, member) in [("s", "cycle.x"), ("s", "x"), ("itself", "x"), ("s", "void.x")] {
        assert!(matches!(btf.offset(type_name, member), Err(BtfError::Malformed { .. })), "{type_name}.{member}");
    }
    for member in ["cycle", "array", "void"] {
        assert!(matches!(btf.member_size("s", member), Err(BtfError::Malformed { .. })), "size of s.{member}");
    }
}

#[test]
fn a_file_that_is_not_ours_is_refused() {
    let bytes = sample().bytes();
    let mut foreign = bytes.clone();
    foreign.swap(0, 1);
    assert!(matches!(Btf::parse(foreign), Err(BtfError::ForeignEndian)));
    let mut version = bytes.clone();
    version[2] = 2;
    assert!(matches!(Btf::parse(version), Err(BtfError::Malformed { at: 2, .. })));
    let mut newer = sample();
    let id = newer.add(20, "new", false, 0, 0, &[]);
    let error = Btf::parse(newer.bytes()).err().expect("an unknown kind").to_string();
    assert!(error.contains("kind 20") && error.contains(&format!("type {id}")), "{error}");
}

#[test]
fn a_longer_header_is_understood() {
    let mut bytes = sample().bytes();
    bytes[4..8].copy_from_slice(&32_u32.to_ne_bytes());
    bytes.splice(24..24, [0xaa; 8]);
    let btf = Btf::parse(bytes).expect("a header with fields of a later version");
    assert_eq!(btf.offset("outer", "in.last").ok(), Some(24));
}

/// Asks for everything, so that no part of the file goes unread.
fn ask(btf: &Btf) {
    for &(type_name, member, ..) in OFFSETS {
        let _ = (btf.offset(type_name, member), btf.member_size(type_name, member));
    }
    for name in ["signed", "unsigned", "wide"] {
        let _ = btf.enum_names(name);
    }
    let _ = (btf.offset("outer", "absent"), btf.offset("outer", "in.absent"));
}

#[test]
fn a_truncated_file_is_an_error_wherever_it_ends() {
    let bytes = sample().bytes();
    for len in 0..bytes.len() {
        assert!(Btf::parse(bytes[..len].to_vec()).is_err(), "{len} bytes of {}", bytes.len());
    }
}

#[test]
fn no_damaged_byte_makes_it_panic_or_hang() {
    let bytes = sample().bytes();
    for at in 0..bytes.len() {
        for value in [0, 1, 2, 4, 5, 8, 0x7f, 0x80, 0xff, bytes[at] ^ 1, bytes[at].wrapping_add(1), bytes[at].wrapping_sub(1)] {
            let mut damaged = bytes.clone();
            damaged[at] = value;
            if let Ok(btf) = Btf::parse(damaged) {
                ask(&btf);
            }
        }
    }
}

/// The running kernel's types, or `None` where it shows none: then there is nothing to compare.
fn running() -> Option<Btf> {
    match Btf::from_sys() {
        Err(error @ BtfError::Read { .. }) => {
            eprintln!("skipped: {error}");
            None
        }
        other => Some(other.expect("the types of the running kernel")),
    }
}

#[test]
fn the_running_kernel_agrees_with_what_is_known_of_it() {
    let Some(btf) = running() else { return };
    // Layouts that the C ABI, wire formats or the kernel's headers fix.
    for (type_name, member, offset, size) in [
        ("list_head", "next", 0, 8),
        ("list_head", "prev", 8, 8),
        ("hlist_node", "pprev", 8, 8),
        ("timespec64", "tv_nsec", 8, 8),
        ("ethhdr", "h_proto", 12, 2),
        ("iphdr", "tot_len", 2, 2),
        ("iphdr", "protocol", 9, 1),
        ("iphdr", "saddr", 12, 4),
        ("iphdr", "daddr", 16, 4),
        ("ipv6hdr", "daddr", 24, 16),
        ("tcphdr", "dest", 2, 2),
        ("tcphdr", "seq", 4, 4),
        ("udphdr", "check", 6, 2),
        ("task_struct", "comm", btf.offset("task_struct", "comm").expect("task_struct.comm"), 16),
    ] {
        assert_eq!(btf.offset(type_name, member).ok(), Some(offset), "{type_name}.{member}");
        assert_eq!(btf.member_size(type_name, member).ok(), Some(size), "size of {type_name}.{member}");
    }
    for (type_name, member) in [("task_struct", "sched_contributes_to_load"), ("iphdr", "ihl"), ("tcphdr", "doff")] {
        assert!(matches!(btf.offset(type_name, member), Err(BtfError::Bitfield { .. })), "{type_name}.{member}");
    }
    assert!(btf.has_member("task_struct", "pid"));
    assert!(!btf.has_member("task_struct", "no_such_member"));
    // Since 6.17 with the error.
    assert!([2, 3].contains(&btf.tracepoint_arguments("tcp_retransmit_skb")));
    assert_eq!((btf.tracepoint_arguments("block_rq_complete"), btf.tracepoint_arguments("no_such_tracepoint")), (3, 0));
    let programs = btf.enum_names("bpf_prog_type").expect("enum bpf_prog_type");
    assert!(programs.contains(&(2, "BPF_PROG_TYPE_KPROBE".to_owned())), "{programs:?}");
}

#[test]
fn in_the_running_kernel_a_path_is_the_sum_of_its_parts() {
    let Some(btf) = running() else { return };
    let offset = |type_name, member| btf.offset(type_name, member).expect(member);
    for (outer, member, inner, last) in [
        ("task_struct", "se", "sched_entity", "sum_exec_runtime"),
        ("task_struct", "sched_info", "sched_info", "run_delay"),
        ("cgroup", "self", "cgroup_subsys_state", "cgroup"),
    ] {
        let path = format!("{member}.{last}");
        let sum = offset(outer, member) + offset(inner, last);
        assert_eq!(btf.offset(outer, &path).ok(), Some(sum), "{outer}.{path}");
        assert!(offset(inner, last) + 8 <= btf.member_size(outer, member).expect(member), "{last} lies inside {member}");
    }
}

#[test]
fn any_bytes_are_types_or_refused() {
    crate::fuzzing::hammer("btf", |bytes| {
        let Ok(btf) = Btf::parse(bytes.to_vec()) else { return };
        for (type_name, member) in [("outer", "x"), ("outer", "in.deep"), ("inner", "last"), ("task_struct", "se.exec_start")] {
            let _ = (btf.offset(type_name, member), btf.member_size(type_name, member), btf.has_member(type_name, member));
        }
        let _ = (
            btf.typedef_id("inner_t"),
            btf.function_id("f"),
            btf.enum_names("e"),
            btf.tracepoint_takes("sched_switch", 1, "inner"),
            btf.tracepoint_arguments("sched_switch"),
        );
    });
}

/// Writes the corpus of the test above: `cargo test -p podmeter the_samples_for -- --ignored`.
#[test]
#[ignore = "writes files of the tree"]
fn the_samples_for_mutation_are_written() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/btf");
    std::fs::create_dir_all(&directory).expect("made");
    let whole = sample().bytes();
    let none = Sample::new().bytes();
    let mut cut = whole.clone();
    cut.truncate(whole.len() / 2);
    let mut circle = Sample::new();
    circle.group(kind::STRUCT, "outer", false, 8, &[("", 1, 0)]);
    let mut typedefs = Sample::new();
    typedefs.add(kind::TYPEDEF, "inner_t", false, 0, 2, &[]);
    typedefs.add(kind::TYPEDEF, "inner_t", false, 0, 1, &[]);
    typedefs.group(kind::STRUCT, "outer", false, 8, &[("x", 1, 0)]);
    let samples = [("whole", whole), ("none", none), ("cut", cut), ("circle", circle.bytes()), ("typedefs", typedefs.bytes())];
    for (name, bytes) in samples {
        std::fs::write(directory.join(name), bytes).expect("written");
    }
}
