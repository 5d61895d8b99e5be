//! Where this kernel keeps the memory controller's counters: offsets from its BTF, and, since 6.11, from its own index tables.
//!
//! A memory cgroup's statistics were one array with a place for every statistic the kernel knows. 6.11 keeps only those that
//! cgroups have, and finds them through a table (`mem_cgroup_stats_index`) of which BTF has nothing but that the array is
//! shorter than the list of names. The table is read out of the kernel, and taken only when it is a table of that array: one that
//! leads to each place exactly once.

use agent_common::memory::{ITEMS, Index, Items, MemcgOffsets, UNKNOWN};

use crate::kernel::btf::{Btf, BtfError};

/// A statistic's enum and name, in the order of [`agent_common::memory::Item`].
const NAMES: [(ItemKind, &str); ITEMS] = [
    (ItemKind::Node, "NR_ANON_MAPPED"),
    (ItemKind::Node, "NR_FILE_PAGES"),
    (ItemKind::Node, "NR_SHMEM"),
    (ItemKind::Memcg, "MEMCG_KMEM"),
    (ItemKind::Node, "NR_SLAB_RECLAIMABLE_B"),
    (ItemKind::Node, "NR_SLAB_UNRECLAIMABLE_B"),
    (ItemKind::Node, "NR_INACTIVE_ANON"),
    (ItemKind::Node, "NR_ACTIVE_ANON"),
    (ItemKind::Node, "NR_INACTIVE_FILE"),
    (ItemKind::Node, "NR_ACTIVE_FILE"),
    (ItemKind::Node, "NR_UNEVICTABLE"),
    (ItemKind::Node, "WORKINGSET_REFAULT_ANON"),
    (ItemKind::Node, "WORKINGSET_REFAULT_FILE"),
    (ItemKind::Event, "PGFAULT"),
    (ItemKind::Event, "PGMAJFAULT"),
];

/// Which list a statistic is in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ItemKind {
    /// `enum node_stat_item`
    Node,
    /// `enum memcg_stat_item`, which goes on where the former ends
    Memcg,
    /// `enum vm_event_item`
    Event,
}

impl ItemKind {
    fn list(self) -> &'static str {
        match self {
            Self::Node => "node_stat_item",
            Self::Memcg => "memcg_stat_item",
            Self::Event => "vm_event_item",
        }
    }
}

/// One of the two arrays of a memory cgroup's counters.
#[derive(Debug)]
struct Array {
    /// From the begin of the counters in bytes.
    base: u64,
    /// Places in it.
    len: usize,
    /// Statistics that the kernel's list names.
    names: usize,
}

impl Array {
    fn is_indexed(&self) -> bool {
        self.len < self.names
    }
}

/// What was found.
pub struct MemcgLayout {
    /// For the programs.
    pub offsets: MemcgOffsets,
    /// Address of `mem_cgroup_stats_index`; 0 where statistics are not indexed through it, or it is hidden.
    pub stats_index: u64,
    /// Address of `mem_cgroup_events_index`, as the other.
    pub events_index: u64,
    /// Why the statistics cannot be read. The rest can all the same.
    pub no_statistics: Option<String>,
    states: Option<Array>,
    events: Option<Array>,
    /// A statistic's place in its list.
    places: [Option<usize>; ITEMS],
}

impl MemcgLayout {
    /// Finds all that is in BTF. `symbol` gives the address of one of the kernel's variables, where those may be seen.
    ///
    /// # Errors
    /// When a struct that every kernel has is not as expected, or the kernel has no memory controller.
    pub fn find(btf: &Btf, symbol: impl Fn(&str) -> Option<u64>) -> Result<Self, BtfError> {
        let inside = |name, member| btf.offset(name, member).map(u64::from);
        let mut offsets = MemcgOffsets {
            css: inside("mem_cgroup", "css")?,
            memory: inside("mem_cgroup", "memory")?,
            swap: inside("mem_cgroup", "swap").unwrap_or(UNKNOWN),
            counter_usage: btf.offset_of("page_counter", "usage", 8)?,
            counter_watermark: btf.offset_of("page_counter", "watermark", 8)?,
            counter_max: btf.offset_of("page_counter", "max", 8)?,
            vmstats: inside("mem_cgroup", "vmstats")?,
            ..MemcgOffsets::ZERO
        };
        // A pointer to struct memcg_vmstats since 6.0, that struct itself since 5.13, before that a plain array.
        let in_struct = btf.has_member("memcg_vmstats", "state");
        offsets.vmstats_is_pointer = u64::from(in_struct && !btf.has_member("mem_cgroup", "vmstats.state"));
        let names = |kind: ItemKind, last: &str| {
            let all = btf.enum_names(kind.list()).unwrap_or_default();
            all.iter().find(|(_, name)| name == last).map_or(0, |(n, _)| *n as usize)
        };
        let array = |name: &str, member: &str, from: u64, names: usize| {
            let (base, bytes) = (btf.offset(name, member).ok()?, btf.member_size(name, member).ok()?);
            (names > 0).then_some(Array { base: u64::from(base) - from, len: bytes as usize / 8, names })
        };
        let (states, events) = (names(ItemKind::Memcg, "MEMCG_NR_STAT"), names(ItemKind::Event, "NR_VM_EVENT_ITEMS"));
        let (states, events) = if in_struct {
            (array("memcg_vmstats", "state", 0, states), array("memcg_vmstats", "events", 0, events))
        } else {
            // Behind the first array, and not read before 6.1.
            (array("mem_cgroup", "vmstats", offsets.vmstats, states), None)
        };
        let places = [None; ITEMS];
        let mut layout = Self { offsets, stats_index: 0, events_index: 0, no_statistics: None, states, events, places };
        for kind in [ItemKind::Node, ItemKind::Memcg, ItemKind::Event] {
            let list = btf.enum_names(kind.list())?;
            for (place, (of, name)) in layout.places.iter_mut().zip(NAMES).filter(|(_, (of, _))| *of == kind) {
                debug_assert!(of == kind);
                *place = list.iter().find(|(_, known)| known == name).and_then(|(n, _)| usize::try_from(*n).ok());
            }
        }
        let mut address = |array: &Option<Array>, table: &str| {
            if !array.as_ref().is_some_and(Array::is_indexed) {
                return 0;
            }
            let address = symbol(table).unwrap_or(0);
            if address == 0 && layout.no_statistics.is_none() {
                layout.no_statistics = Some(format!(
                    "this kernel finds its statistics through {table}, of which /proc/kallsyms does not show the address: it takes \
                     CAP_SYSLOG, kernel.kptr_restrict below 2 and CONFIG_KALLSYMS_ALL"
                ));
            }
            address
        };
        let (stats_index, events_index) =
            (address(&layout.states, "mem_cgroup_stats_index"), address(&layout.events, "mem_cgroup_events_index"));
        (layout.stats_index, layout.events_index) = (stats_index, events_index);
        if layout.states.is_none() || layout.events.is_none() {
            layout.no_statistics = Some("this kernel keeps a cgroup's statistics in a way that is not known".to_owned());
        }
        Ok(layout)
    }

    /// Statistics cannot be read, for this reason.
    pub fn cannot_be_read(&mut self, why: &str) {
        self.no_statistics = Some(why.to_owned());
        (self.stats_index, self.events_index) = (0, 0);
    }

    /// Whether the tables have to be read out of the kernel first.
    pub fn needs_index(&self) -> bool {
        self.stats_index != 0 || self.events_index != 0
    }

    /// Where each statistic is, given the tables as the kernel has them.
    ///
    /// Also why statistics must not be read, if so: a table that is none of that array. What is known is there all the same.
    pub fn items(&self, index: &Index) -> (Items, Option<String>) {
        let mut wrong = self.no_statistics.clone();
        let mut resolve = |array: &Option<Array>, table: &[u8], name: &str| -> Vec<Option<u64>> {
            let Some(array) = array else { return Vec::new() };
            let places = match array.is_indexed() {
                false => Some((0..array.names).map(Some).collect()),
                true => places_in(table, array.names, array.len),
            };
            if places.is_none() && wrong.is_none() {
                wrong = Some(format!("{name} is not the table that was expected"));
            }
            places.unwrap_or_default().into_iter().map(|place| Some(array.base + place? as u64 * 8)).collect()
        };
        let states = resolve(&self.states, &index.stats, "mem_cgroup_stats_index");
        let events = resolve(&self.events, &index.events, "mem_cgroup_events_index");
        let mut items = Items::NONE;
        for ((offset, (kind, _)), place) in items.offsets.iter_mut().zip(NAMES).zip(self.places) {
            let array = if kind == ItemKind::Event { &events } else { &states };
            *offset = place.and_then(|place| *array.get(place)?).unwrap_or(UNKNOWN);
        }
        (items, wrong)
    }
}

/// The meaning of an entry of a table of `names`: a statistic's place in an array of `len`, or that it is not there.
///
/// The entry's type has changed: a signed byte or an int that is 0 where there is no place and one more than the place elsewhere,
/// and since 6.13 or so a byte that is the place, or 255. Only one reading leads to every place once.
fn places_in(table: &[u8], names: usize, len: usize) -> Option<Vec<Option<usize>>> {
    let byte = |n: usize| table.get(n).copied().map(u32::from);
    let word = |n: usize| Some(u32::from_ne_bytes(*table.get(4 * n..)?.first_chunk()?));
    // Whether an entry is a word, and its value where there is no place: 0, and one more than the place elsewhere, or 255.
    let readings = [(false, 0), (false, 255), (true, 0)];
    readings.iter().find_map(|(wide, none)| {
        let place = |entry: u32| match none {
            0 => entry.checked_sub(1),
            none => Some(entry).filter(|entry| entry != none),
        };
        let entries = (0..names).map(|n| if *wide { word(n) } else { byte(n) });
        let places: Vec<Option<usize>> =
            entries.map(|entry| Some(place(entry?).map(|place| place as usize))).collect::<Option<_>>()?;
        let mut used: Vec<usize> = places.iter().flatten().copied().collect();
        used.sort_unstable();
        used.iter().copied().eq(0..len).then_some(places)
    })
}

/// Address of a variable in the text of /proc/kallsyms; `None` when it is not there or shown as 0.
pub fn address_in(symbols: &str, name: &str) -> Option<u64> {
    symbols.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let address = fields.next()?;
        (fields.nth(1)? == name).then(|| u64::from_str_radix(address, 16).ok().filter(|address| *address != 0))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_in_whichever_form_this_kernel_has_it() {
        let want = vec![Some(1), None, Some(0), Some(2), None];
        let padded = |bytes: &[u8]| [bytes, &[0; 32]].concat();
        assert_eq!(places_in(&padded(&[2, 0, 1, 3, 0]), 5, 3), Some(want.clone()));
        assert_eq!(places_in(&padded(&[1, 255, 0, 2, 255]), 5, 3), Some(want.clone()));
        let words: Vec<u8> = [2_u32, 0, 1, 3, 0].iter().flat_map(|n| n.to_ne_bytes()).collect();
        assert_eq!(places_in(&padded(&words), 5, 3), Some(want));
    }

    #[test]
    fn what_is_no_table_of_that_array_is_refused() {
        for bad in [&[0_u8; 5][..], &[1, 1, 2, 3, 0], &[2, 0, 1, 4, 0], &[255; 5], &[1, 2]] {
            assert_eq!(places_in(bad, 5, 3), None, "{bad:?}");
        }
    }

    #[test]
    fn a_hidden_address_is_none() {
        let text = "ffffffff81000000 T _text\nffffffff82a0 d mem_cgroup_stats_index\n0000000000000000 d hidden\nshort\n";
        assert_eq!(address_in(text, "mem_cgroup_stats_index"), Some(0xffff_ffff_82a0));
        assert_eq!((address_in(text, "hidden"), address_in(text, "mem_cgroup")), (None, None));
    }
}
