//! Members of structs and unions, by paths with dots: where they are, through anonymous ones too.

use super::{Btf, BtfError, TYPE_LEN, Type, kind};

/// Members looked at for one name. task_struct has about 300; a file that needs more was made to keep us busy.
const MAX_MEMBERS: usize = 10_000;

/// Where a member is.
pub(super) struct Member {
    /// From the start of the outermost struct.
    pub(super) bits: u64,
    pub(super) bitfield: bool,
    pub(super) type_id: u32,
}

impl Btf {
    /// The member of every type with that name, if they agree where it is.
    pub(super) fn member(&self, type_name: &str, path: &str) -> Result<Member, BtfError> {
        let mut found: Option<Member> = None;
        let mut missing = None;
        for t in self.named(type_name, &[kind::STRUCT, kind::UNION]) {
            match (self.walk(t?, type_name, path), &found) {
                (Ok(member), None) => found = Some(member),
                (Ok(member), Some(other)) if (member.bits, member.bitfield) == (other.bits, other.bitfield) => {}
                (Ok(_), Some(_)) => {
                    return Err(BtfError::Ambiguous { type_name: type_name.to_owned(), member: path.to_owned() });
                }
                (Err(error @ (BtfError::NoMember { .. } | BtfError::NotInside { .. })), _) => missing = Some(error),
                (Err(error), _) => return Err(error),
            }
        }
        let no_type = || BtfError::NoType { what: "struct or union", name: type_name.to_owned() };
        found.ok_or_else(|| missing.unwrap_or_else(no_type))
    }

    /// Follows a path with dots from one struct.
    fn walk(&self, outer: Type, type_name: &str, path: &str) -> Result<Member, BtfError> {
        let mut at = Member { bits: 0, bitfield: false, type_id: 0 };
        let mut within = outer;
        let mut walked = 0;
        for name in path.split('.') {
            if walked > 0 {
                within = self.resolve(at.type_id)?;
            }
            if !matches!(within.kind, kind::STRUCT | kind::UNION) {
                let member = path[..walked - 1].to_owned();
                return Err(BtfError::NotInside { type_name: type_name.to_owned(), member });
            }
            walked += name.len() + 1;
            let Some(next) = self.find(within, name)? else {
                let member = path[..walked - 1].to_owned();
                return Err(BtfError::NoMember { type_name: type_name.to_owned(), member });
            };
            at = Member { bits: at.bits + next.bits, ..next };
        }
        Ok(at)
    }

    /// Looks for a member in a struct or union and in the anonymous ones inside it.
    fn find(&self, outer: Type, name: &str) -> Result<Option<Member>, BtfError> {
        // An anonymous struct that contains itself must not keep us: the number of members looked at is bounded, and so is this.
        let mut open = vec![(outer, 0_u64)];
        let mut seen = 0;
        while let Some((within, base)) = open.pop() {
            for i in 0..within.len {
                seen += 1;
                if seen > MAX_MEMBERS {
                    return Err(BtfError::Malformed { what: "a struct that never ends", at: outer.at });
                }
                let at = within.at + TYPE_LEN + 12 * i;
                let member_name = self.name(self.u32(at)?, at)?;
                if !member_name.is_empty() && member_name != name.as_bytes() {
                    continue;
                }
                let type_id = self.u32(at + 4)?;
                let raw = self.u32(at + 8)?;
                // With the flag, the upper byte is a bitfield's size. Without, a bitfield shows in its integer type.
                let (bits, bitfield) = match within.flag {
                    true => (raw & 0xff_ffff, raw >> 24 != 0),
                    false => (raw, false),
                };
                let bits = base + u64::from(bits);
                if !member_name.is_empty() {
                    let bitfield = bitfield || (!within.flag && self.is_partial_int(type_id)?);
                    return Ok(Some(Member { bits, bitfield, type_id }));
                }
                // An unnamed bitfield is padding; an unnamed member of another kind is a struct or union to look into.
                if !bitfield && type_id != 0 {
                    let inner = self.resolve(type_id)?;
                    if matches!(inner.kind, kind::STRUCT | kind::UNION) {
                        open.push((inner, bits));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Whether an integer uses only some bits of its bytes: how structs without the flag say bitfield.
    fn is_partial_int(&self, id: u32) -> Result<bool, BtfError> {
        if id == 0 {
            return Ok(false);
        }
        let t = self.resolve(id)?;
        if t.kind != kind::INT {
            return Ok(false);
        }
        // BTF_INT_OFFSET and BTF_INT_BITS.
        let encoding = self.u32(t.at + TYPE_LEN)?;
        Ok((encoding >> 16) & 0xff != 0 || u64::from(encoding & 0xff) != u64::from(t.size_or_type) * 8)
    }
}
