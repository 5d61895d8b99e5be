//! Names that were asked for most, where the configuration wants them: each is a series of its own.
//!
//! The kernel side counts names by slot in a hash, in which a slot has at most as many as are free ([`agent_common::share`]). When it has
//! half of that, the less asked half of its names makes room. A name that comes back begins anew, with a start time of its own.

use std::{borrow::Cow, collections::HashMap, io};

use agent_common::dns::{NAMES_LEN, Name, NameKey};
use aya::maps::{HashMap as BpfHashMap, IterableMap as _, MapData};

use super::NAME_QUERIES;
use crate::{
    kernel::sys,
    metric::{Point, Value},
};

/// The names of all slots.
pub(super) struct QueriedNames {
    map: BpfHashMap<MapData, NameKey, Name>,
    /// Names of one slot that are told.
    top: usize,
    /// What was read last, by slot.
    read: HashMap<u32, Vec<(NameKey, Name)>>,
}

impl QueriedNames {
    pub(super) fn new(map: BpfHashMap<MapData, NameKey, Name>, top: usize) -> Self {
        Self { map, top, read: HashMap::new() }
    }

    /// Reads them, if any are wanted.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub(super) fn read(&mut self) -> io::Result<()> {
        self.read.clear();
        if self.top == 0 {
            return Ok(());
        }
        let read = &mut self.read;
        sys::for_each_entry(self.map.map().fd(), |key: &NameKey, name: &Name| {
            read.entry(key.slot).or_default().push((*key, *name));
        })
    }

    /// Forgets all names: those that come after that begin anew.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub(super) fn forget_all(&mut self) -> io::Result<()> {
        self.read.clear();
        let mut keys = Vec::new();
        sys::for_each_entry(self.map.map().fd(), |key: &NameKey, _: &Name| keys.push(*key))?;
        for key in keys {
            // Gone all the same when it is not there any more.
            let _ = self.map.remove(&key);
        }
        Ok(())
    }

    /// How many names each slot has by the last reading.
    pub(super) fn by_slot(&self) -> HashMap<u32, u64> {
        self.read.iter().map(|(slot, names)| (*slot, names.len() as u64)).collect()
    }

    /// Removes names of slots that will soon have no room for more; how many each slot has then.
    pub(super) fn make_room(&mut self) -> HashMap<u32, u64> {
        let all: usize = self.read.values().map(Vec::len).sum();
        for names in self.read.values_mut() {
            for (key, _) in less_asked(names, all) {
                // Gone all the same when it is not there any more.
                let _ = self.map.remove(&key);
            }
        }
        self.by_slot()
    }

    /// The names of a slot that were asked for most by the last reading, of those first asked for until `until_ns`, CLOCK_BOOTTIME: what
    /// is new since then is of the next export.
    pub(super) fn points(&self, slot: u32, until_ns: u64) -> Vec<Point> {
        let Some(read) = self.read.get(&slot) else { return Vec::new() };
        most_asked(read.iter().map(|(_, name)| name).filter(|name| name.first_ns <= until_ns), self.top)
            .into_iter()
            .map(|(text, queries, first_ns)| {
                Point::new(&NAME_QUERIES, first_ns, Value::Int(queries)).with("dns.question.name", text)
            })
            .collect()
    }

    /// The same of a slot whose owner is gone, which is then empty.
    pub(super) fn retire(&mut self, slot: u32) -> Vec<Point> {
        let points = self.points(slot, u64::MAX);
        for (key, _) in self.read.remove(&slot).unwrap_or_default() {
            // It may have made room for another.
            let _ = self.map.remove(&key);
        }
        points
    }
}

/// Takes the less asked half out of a slot's names, where of all slots there are so many that it could not have twice as many.
fn less_asked(names: &mut Vec<(NameKey, Name)>, all: usize) -> Vec<(NameKey, Name)> {
    if names.len() * 2 < (NAMES_LEN as usize).saturating_sub(all) {
        return Vec::new();
    }
    names.sort_unstable_by_key(|(_, name)| std::cmp::Reverse(name.queries));
    names.split_off(names.len().div_ceil(2))
}

/// Names with their queries, and when the first came; the most asked first, of equals by their letters.
fn most_asked<'a>(names: impl Iterator<Item = &'a Name>, top: usize) -> Vec<(Cow<'static, str>, u64, u64)> {
    // One whose first query is being noted right now has none.
    let asked = names.filter(|name| name.queries > 0);
    let mut all: Vec<_> = asked.filter_map(|name| Some((Cow::from(text(&name.wire)?), name.queries, name.first_ns))).collect();
    all.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    all.truncate(top);
    all
}

/// A name on the wire as people write it, in lower case and without the last dot; what is no printable letter as `\\DDD` (RFC 1035,
/// section 5.1). `None` when it is cut or no name.
fn text(wire: &[u8]) -> Option<String> {
    let (mut text, mut rest) = (String::new(), wire);
    loop {
        let (&len, behind) = rest.split_first()?;
        if len == 0 {
            return Some(if text.is_empty() { ".".to_owned() } else { text });
        }
        if len > 63 {
            return None;
        }
        let (label, behind) = behind.split_at_checked(len.into())?;
        if !text.is_empty() {
            text.push('.');
        }
        for byte in label {
            match byte {
                b'.' | b'\\' => text.extend(['\\', char::from(*byte)]),
                0x21..=0x7e => text.push(char::from(byte.to_ascii_lowercase())),
                other => text += &format!("\\{other:03}"),
            }
        }
        rest = behind;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(wire: &[u8], queries: u64, first_ns: u64) -> Name {
        let mut name = Name { queries, first_ns, ..Name::ZERO };
        name.wire[..wire.len()].copy_from_slice(wire);
        name
    }

    #[test]
    fn names_read_as_people_write_them() {
        let cases: [(&[u8], Option<&str>); 7] = [
            (b"\x03WWW\x07example\x00\x00\x01", Some("www.example")),
            (b"\x00", Some(".")),
            (b"\x03a.b\x01\\\x00", Some("a\\.b.\\\\")),
            (b"\x02\x00\xff\x00", Some("\\000\\255")),
            (b"\x05abc", None),
            (b"\xc0\x0c", None),
            (b"", None),
        ];
        for (wire, want) in cases {
            assert_eq!(text(wire).as_deref(), want, "{wire:?}");
        }
    }

    #[test]
    fn the_less_asked_half_of_a_slots_names_makes_room_when_that_gets_scarce() {
        let key = |n| NameKey { name: n, slot: 1, reserved: 0 };
        let mut names: Vec<_> = (0..1001).map(|n| (key(n), name(b"\x01a\x00", n, 0))).collect();
        assert!(less_asked(&mut names, 1001).is_empty(), "there is room for three times as many");
        let gone = less_asked(&mut names, 3000);
        assert_eq!((names.len(), gone.len()), (501, 500));
        assert!(names.iter().all(|(_, name)| name.queries >= 500) && gone.iter().all(|(_, name)| name.queries < 500));
        assert!(less_asked(&mut Vec::new(), 5000).is_empty());
    }

    #[test]
    fn the_most_asked_come_first() {
        let names = [
            name(b"\x01b\x00\x00\x01", 4, 50),
            name(b"\x01A\x00\x00\x1c", 5, 60),
            name(b"\x01c\x00\x00\x01", 4, 40),
            name(b"", 0, 0),
        ];
        let all = most_asked(names.iter(), 2);
        assert_eq!(all, [(Cow::from("a"), 5, 60), (Cow::from("b"), 4, 50)]);
        assert_eq!(most_asked(names.iter(), 20).len(), 3);
    }
}
