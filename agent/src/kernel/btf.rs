//! Where this kernel keeps what the programs read: offsets of struct members, out of the kernel's own type information (BTF).
//!
//! rustc emits no CO-RE relocations, so the offsets are looked up here, once at start, and handed to the programs as constants.
//! The bytes come from `/sys/kernel/btf/vmlinux`; the format is the kernel's `Documentation/bpf/btf.rst`. Nothing in them is
//! trusted: a damaged file gives an error. [`Btf`] keeps the file and about four bytes per type, and is dropped after start.

mod error;
mod member;

use std::path::Path;

pub use self::error::BtfError;

/// Where the kernel shows its types.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
/// `BTF_MAGIC`, in the byte order of the machine that wrote the file.
const MAGIC: u16 = 0xeb9f;
/// Bytes of `struct btf_header` that version 1 has always had. Later kernels may append to it: `hdr_len` says.
const HEADER_LEN: usize = 24;
/// Bytes of `struct btf_type` before what its kind appends.
const TYPE_LEN: usize = 12;
/// Modifiers and arrays followed from one type: the kernel's own bound (`MAX_RESOLVE_DEPTH`).
const MAX_DEPTH: usize = 32;
/// `BTF_KIND_*` of `include/uapi/linux/btf.h`.
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const PTR: u32 = 2;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const FWD: u32 = 7;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNC: u32 = 12;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const FLOAT: u32 = 16;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
}

/// The types of one kernel.
pub struct Btf {
    data: Vec<u8>,
    /// Position in `data` of each type, by id - 1: id 0 is `void` and has none.
    types: Vec<u32>,
    /// Position in `data` of the types that are asked for by name, about one in ten: structs, unions and enums.
    named: Vec<u32>,
    /// Bounds of the string section in `data`.
    strings: (usize, usize),
}

/// One type: `struct btf_type`.
#[derive(Clone, Copy)]
struct Type {
    /// Where it is in the file.
    at: usize,
    name: u32,
    kind: u32,
    /// Number of members, values, parameters.
    len: usize,
    /// `kind_flag`: bitfield sizes in a struct, signed values in an enum.
    flag: bool,
    /// Its size in bytes, or the type it refers to.
    size_or_type: u32,
}

impl Btf {
    /// The types of the running kernel.
    ///
    /// # Errors
    /// When the kernel shows none, or shows something that [`Btf::parse`] refuses.
    pub fn from_sys() -> Result<Self, BtfError> {
        Self::read(Path::new(VMLINUX))
    }

    fn read(path: &Path) -> Result<Self, BtfError> {
        let data = std::fs::read(path).map_err(|source| BtfError::Read { path: path.to_owned(), source })?;
        Self::parse(data)
    }

    /// Reads BTF: checks the header and finds where each type begins.
    ///
    /// # Errors
    /// When `data` is not BTF of this machine's byte order, is truncated, or has a kind of type that is not known.
    pub fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        let malformed = |what, at| BtfError::Malformed { what, at };
        let &[a, b, version, ..] = data.as_slice() else {
            return Err(malformed("no header", 0));
        };
        let magic = u16::from_ne_bytes([a, b]);
        if magic == MAGIC.swap_bytes() {
            return Err(BtfError::ForeignEndian);
        }
        if magic != MAGIC {
            return Err(malformed("no magic number", 0));
        }
        if version != 1 {
            return Err(malformed("a version other than 1", 2));
        }
        let field = |at| u32_at(&data, at).map(|v| v as usize);
        let header_len = field(4)?;
        if header_len < HEADER_LEN {
            return Err(malformed("a header that is too short", 4));
        }
        // A section's position counts from the end of the header.
        let section = |at| -> Result<(usize, usize), BtfError> {
            let start = header_len.checked_add(field(at)?);
            let end = start.and_then(|s| s.checked_add(field(at + 4).ok()?));
            match (start, end) {
                (Some(start), Some(end)) if end <= data.len() => Ok((start, end)),
                _ => Err(malformed("a section that ends behind the file", at)),
            }
        };
        let (mut at, end) = section(8)?;
        let strings = section(16)?;
        // The kernel's own rule. Every name then ends inside the section.
        if data[strings.0..strings.1].last() != Some(&0) {
            return Err(malformed("strings without an end", strings.1));
        }
        if u32::try_from(end).is_err() {
            return Err(malformed("more than 4 GiB of types", 12));
        }

        let (mut types, mut named) = (Vec::new(), Vec::new());
        while at < end {
            let t = type_at(&data, at)?;
            let payload = match t.kind {
                kind::INT | kind::VAR | kind::DECL_TAG => 4,
                kind::ARRAY => 12,
                kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * t.len,
                kind::ENUM | kind::FUNC_PROTO => 8 * t.len,
                kind::PTR | kind::FWD | kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT => 0,
                kind::FUNC | kind::FLOAT | kind::TYPE_TAG => 0,
                kind => return Err(BtfError::UnknownKind { kind, id: types.len() as u32 + 1 }),
            };
            types.push(at as u32);
            if t.name != 0 && matches!(t.kind, kind::STRUCT | kind::UNION | kind::ENUM | kind::ENUM64) {
                named.push(at as u32);
            }
            at += TYPE_LEN + payload;
            if at > end {
                return Err(malformed("a type that ends behind its section", t.at));
            }
        }
        types.shrink_to_fit();
        Ok(Self { data, types, named, strings })
    }

    /// Bytes from the start of struct or union `type_name` to `member`.
    ///
    /// Members of anonymous structs and unions inside count as its own, as in C. A path with dots (`se.sum_exec_runtime`) leads
    /// into named members.
    ///
    /// # Errors
    /// When this kernel has no such type or member, when the member is a bitfield, when the path leads through something that
    /// is no struct, and when several types of that name disagree.
    pub fn offset(&self, type_name: &str, member: &str) -> Result<u32, BtfError> {
        let found = self.member(type_name, member)?;
        // The C ABI puts everything but bitfields on whole bytes.
        if found.bitfield || found.bits % 8 != 0 {
            return Err(BtfError::Bitfield { type_name: type_name.to_owned(), member: member.to_owned() });
        }
        u32::try_from(found.bits / 8).map_err(|_| BtfError::Malformed { what: "an offset above 4 GiB", at: 0 })
    }

    /// [`Btf::offset`] of a member that a program loads `wanted` bytes from: a number of that size, or a pointer.
    ///
    /// # Errors
    /// As [`Btf::offset`]; also when the member has another size, as a field that was widened in a newer kernel.
    pub fn offset_of(&self, type_name: &str, member: &str, wanted: u32) -> Result<u64, BtfError> {
        let found = self.member_size(type_name, member)?;
        if found != wanted {
            return Err(BtfError::Size { type_name: type_name.to_owned(), member: member.to_owned(), found, wanted });
        }
        self.offset(type_name, member).map(u64::from)
    }

    /// The byte of a bitfield, and the bit in it at which it begins.
    ///
    /// # Errors
    /// When this kernel has no such type or bitfield, as [`Btf::offset`].
    pub fn bitfield(&self, type_name: &str, member: &str) -> Result<(u64, u64), BtfError> {
        let found = self.member(type_name, member)?;
        if !found.bitfield {
            return Err(BtfError::Bitfield { type_name: type_name.to_owned(), member: member.to_owned() });
        }
        Ok((found.bits / 8, found.bits % 8))
    }

    /// Size in bytes of a member's type; the path is [`Btf::offset`]'s.
    ///
    /// # Errors
    /// As [`Btf::offset`]; also when the type has no size (a function, `void`).
    pub fn member_size(&self, type_name: &str, member: &str) -> Result<u32, BtfError> {
        let found = self.member(type_name, member)?;
        if found.bitfield {
            return Err(BtfError::Bitfield { type_name: type_name.to_owned(), member: member.to_owned() });
        }
        let mut id = found.type_id;
        let mut elements = 1_u64;
        for _ in 0..MAX_DEPTH {
            let t = self.resolve(id)?;
            let size = match t.kind {
                kind::ARRAY => {
                    id = self.u32(t.at + TYPE_LEN)?;
                    elements = elements.saturating_mul(self.u32(t.at + TYPE_LEN + 8)?.into());
                    continue;
                }
                // BTF does not say: it is that of the kernel, and podmeter runs on 64-bit kernels only.
                kind::PTR => 8,
                kind::INT | kind::STRUCT | kind::UNION | kind::ENUM | kind::FLOAT | kind::ENUM64 => t.size_or_type,
                _ => return Err(BtfError::Malformed { what: "a member without a size", at: t.at }),
            };
            return u32::try_from(elements.saturating_mul(size.into()))
                .map_err(|_| BtfError::Malformed { what: "a size above 4 GiB", at: t.at });
        }
        Err(BtfError::Malformed { what: "an array of arrays without end", at: 0 })
    }

    /// Whether this kernel has that member, bitfields included: what tells older layouts apart.
    pub fn has_member(&self, type_name: &str, member: &str) -> bool {
        self.member(type_name, member).is_ok()
    }

    /// The id of a typedef: the kernel declares each tracepoint's arguments as one (`btf_trace_<name>`).
    ///
    /// # Errors
    /// When this kernel has no such typedef.
    pub fn typedef_id(&self, name: &str) -> Result<u32, BtfError> {
        self.id_of("typedef", kind::TYPEDEF, name)
    }

    /// The id of a function: the kernel declares each iterator as one (`bpf_iter_<kind>`).
    ///
    /// # Errors
    /// When this kernel has no such function.
    pub fn function_id(&self, name: &str) -> Result<u32, BtfError> {
        self.id_of("function", kind::FUNC, name)
    }

    /// Whether the argument `n` (from 0) of a tracepoint is a pointer to the struct of that name.
    pub fn tracepoint_takes(&self, tracepoint: &str, n: usize, struct_name: &str) -> bool {
        self.argument_struct(tracepoint, n).is_ok_and(|name| name == struct_name.as_bytes())
    }

    /// How many arguments a tracepoint has; 0 where the kernel does not have it.
    pub fn tracepoint_arguments(&self, tracepoint: &str) -> usize {
        // The first parameter is the tracepoint's own data.
        self.prototype(tracepoint).map_or(0, |prototype| prototype.map_or(0, |prototype| prototype.len.saturating_sub(1)))
    }

    /// The prototype of a tracepoint's programs; `None` where it has another form.
    fn prototype(&self, tracepoint: &str) -> Result<Option<Type>, BtfError> {
        let function = self.resolve(self.typedef_id(&format!("btf_trace_{tracepoint}"))?)?;
        let prototype = self.resolve(function.size_or_type)?;
        Ok((function.kind == kind::PTR && prototype.kind == kind::FUNC_PROTO).then_some(prototype))
    }

    /// The name of the struct that a tracepoint's argument points to; empty when it points to none.
    fn argument_struct(&self, tracepoint: &str, n: usize) -> Result<&[u8], BtfError> {
        let Some(prototype) = self.prototype(tracepoint)?.filter(|prototype| n + 1 < prototype.len) else { return Ok(&[]) };
        let pointer = self.resolve(self.u32(prototype.at + TYPE_LEN + 8 * (n + 1) + 4)?)?;
        if pointer.kind != kind::PTR || pointer.size_or_type == 0 {
            return Ok(&[]);
        }
        let target = self.resolve(pointer.size_or_type)?;
        if target.kind == kind::STRUCT { self.name(target.name, target.at) } else { Ok(&[]) }
    }

    fn id_of(&self, what: &'static str, kind: u32, name: &str) -> Result<u32, BtfError> {
        for (i, &at) in self.types.iter().enumerate() {
            let t = type_at(&self.data, at as usize)?;
            if t.kind == kind && self.name(t.name, t.at)? == name.as_bytes() {
                return Ok(i as u32 + 1);
            }
        }
        Err(BtfError::NoType { what, name: name.to_owned() })
    }

    /// The values of an enum and their names, in order of declaration. An unsigned 64-bit value above `i64::MAX` wraps.
    ///
    /// # Errors
    /// When this kernel has no such enum.
    pub fn enum_names(&self, enum_name: &str) -> Result<Vec<(i64, String)>, BtfError> {
        let t = self
            .named(enum_name, &[kind::ENUM, kind::ENUM64])
            .next()
            .ok_or_else(|| BtfError::NoType { what: "enum", name: enum_name.to_owned() })??;
        let wide = t.kind == kind::ENUM64;
        let start = t.at + TYPE_LEN;
        let value = |i: usize| {
            let at = start + i * if wide { 12 } else { 8 };
            let low = self.u32(at + 4)?;
            let value = match (wide, t.flag) {
                (true, _) => (i64::from(self.u32(at + 8)?) << 32) | i64::from(low),
                (false, true) => i64::from(low.cast_signed()),
                (false, false) => i64::from(low),
            };
            Ok((value, String::from_utf8_lossy(self.name(self.u32(at)?, at)?).into_owned()))
        };
        (0..t.len).map(value).collect()
    }

    /// The type behind typedefs and qualifiers.
    fn resolve(&self, id: u32) -> Result<Type, BtfError> {
        let mut id = id;
        for _ in 0..MAX_DEPTH {
            let t = self.type_by_id(id)?;
            match t.kind {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => id = t.size_or_type,
                _ => return Ok(t),
            }
        }
        Err(BtfError::Malformed { what: "a typedef without end", at: self.type_by_id(id)?.at })
    }

    fn type_by_id(&self, id: u32) -> Result<Type, BtfError> {
        let at = (id as usize).checked_sub(1).and_then(|i| self.types.get(i));
        match at {
            Some(&at) => type_at(&self.data, at as usize),
            None => Err(BtfError::Malformed { what: "a reference to a type that does not exist", at: 0 }),
        }
    }

    /// All types of these kinds with that name. A scan: there are few look-ups, and a map would cost more than it saves.
    fn named<'a>(&'a self, name: &'a str, kinds: &'a [u32]) -> impl Iterator<Item = Result<Type, BtfError>> + 'a {
        let matching = move |at: u32| {
            let t = type_at(&self.data, at as usize)?;
            Ok((kinds.contains(&t.kind) && self.name(t.name, t.at)? == name.as_bytes()).then_some(t))
        };
        self.named.iter().filter_map(move |&at| matching(at).transpose())
    }

    /// A name from the string section; `at` is where it is mentioned.
    fn name(&self, offset: u32, at: usize) -> Result<&[u8], BtfError> {
        self.data[self.strings.0..self.strings.1]
            .get(offset as usize..)
            .and_then(|rest| rest.split(|byte| *byte == 0).next())
            .ok_or(BtfError::Malformed { what: "a name outside of the strings", at })
    }

    fn u32(&self, at: usize) -> Result<u32, BtfError> {
        u32_at(&self.data, at)
    }
}

fn u32_at(data: &[u8], at: usize) -> Result<u32, BtfError> {
    match data.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(bytes) => Ok(u32::from_ne_bytes(*bytes)),
        None => Err(BtfError::Malformed { what: "the end of the file", at }),
    }
}

fn type_at(data: &[u8], at: usize) -> Result<Type, BtfError> {
    let info = u32_at(data, at + 4)?;
    Ok(Type {
        at,
        name: u32_at(data, at)?,
        // Bits 16..24 and 29..31 are unused, and zero by the kernel's own check. Were they ever used, they would make the
        // numbers they stand beside larger: taken that way, a new format is an error and not misread.
        kind: (info >> 24) & 0x7f,
        len: (info & 0xff_ffff) as usize,
        flag: info >> 31 == 1,
        size_or_type: u32_at(data, at + 8)?,
    })
}

#[cfg(test)]
mod tests;
