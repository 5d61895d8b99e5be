//! The log of windows that each CPU writes: what each slot used in which window (pure).

use std::collections::BTreeMap;

use agent_common::cpu::{LOG_LEN, WINDOW_NS, WindowEntry};

/// What slots used in a window, in ns, in the order of the log.
pub(super) type Used = Vec<(u32, u64)>;

/// One CPU's log of windows, as far as it was read.
#[derive(Debug)]
pub(super) struct LogReader {
    /// Number of the first entry that was not read.
    next: u32,
    /// What was read of windows that are still open.
    open: BTreeMap<u64, Used>,
}

impl LogReader {
    pub(super) fn at(head: u32) -> Self {
        Self { next: head, open: BTreeMap::new() }
    }

    /// Reads what was written since, and returns how many entries are lost: those that were overwritten, and those that come only now,
    /// of windows that have been closed: the ones from `first` on and before `open`. `current` is near the windows of all entries.
    pub(super) fn read(
        &mut self,
        head: u32,
        entry: impl Fn(u32) -> Option<WindowEntry>,
        first: u64,
        open: u64,
        current: u64,
    ) -> u64 {
        let mut lost = 0;
        let behind = head.wrapping_sub(self.next);
        if behind > LOG_LEN {
            lost += u64::from(behind - LOG_LEN);
            self.next = head.wrapping_sub(LOG_LEN);
        }
        while self.next != head {
            let Some(entry) = entry(self.next) else { break };
            self.next = self.next.wrapping_add(1);
            let window = widen(entry.window, current);
            if window >= open {
                self.open.entry(window).or_default().push((entry.slot, entry.on_cpu_ns));
            } else if window >= first {
                lost += 1;
            }
        }
        lost
    }

    /// The first window before `until` of which something was read.
    pub(super) fn first_before(&self, until: u64) -> Option<u64> {
        self.open.keys().next().copied().filter(|window| *window < until)
    }

    /// Takes what was read of a window, which nothing is added to any more.
    pub(super) fn close(&mut self, window: u64) -> Used {
        let mut used = self.open.remove(&window).unwrap_or_default();
        fit_into_window(&mut used);
        used
    }
}

/// A window has room for 100 ms of one CPU. Where a stretch that was settled ended is known to a tick at worst, and may be laid
/// into the time of the next; the excess is taken from the largest share.
fn fit_into_window(used: &mut Used) {
    let excess_ns = used.iter().map(|(_, ns)| ns).sum::<u64>().saturating_sub(WINDOW_NS);
    if excess_ns == 0 {
        return;
    }
    // A slot may have several entries.
    used.sort_unstable();
    used.dedup_by(|later, kept| {
        let same = later.0 == kept.0;
        kept.1 += if same { later.1 } else { 0 };
        same
    });
    if let Some((_, largest)) = used.iter_mut().max_by_key(|(_, ns)| *ns) {
        *largest = largest.saturating_sub(excess_ns);
    }
}

/// The window nearest to `current` of which the low 32 bits are known. A settled stretch may reach a tick into the next one.
fn widen(low: u32, current: u64) -> u64 {
    current.saturating_add_signed(i64::from(low.wrapping_sub(current as u32).cast_signed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_window_holds_more_than_its_length_of_one_cpu() {
        let mut used = vec![(2, 5), (1, WINDOW_NS / 2), (1, WINDOW_NS / 2)];
        fit_into_window(&mut used);
        assert_eq!(used, [(1, WINDOW_NS - 5), (2, 5)]);
        let mut used = vec![(1, 7), (1, 8)];
        fit_into_window(&mut used);
        assert_eq!(used.iter().map(|(_, ns)| ns).sum::<u64>(), 15);
    }

    /// A log of (slot, window, ns) as one CPU writes it.
    fn log(entries: &[(u32, u64, u64)]) -> impl Fn(u32) -> Option<WindowEntry> {
        move |number| {
            let &(slot, window, on_cpu_ns) = entries.get(number as usize)?;
            Some(WindowEntry { slot, window: window as u32, on_cpu_ns })
        }
    }

    #[test]
    fn what_is_counted_after_its_window_was_closed_is_lost_and_said() {
        let mut reader = LogReader::at(0);
        let early = [(1, 100, 50), (1, 101, 60), (1, 102, 7)];
        assert_eq!(reader.read(3, log(&early), 100, 100, 103), 0);
        assert_eq!((reader.first_before(102), reader.close(100)), (Some(100), vec![(1, 50)]));
        assert_eq!((reader.first_before(102), reader.close(101)), (Some(101), vec![(1, 60)]));
        assert_eq!(reader.first_before(102), None);
        // The open window goes on; an entry of a closed one comes too late.
        let late = [early[0], early[1], early[2], (1, 102, 80), (2, 101, 9), (1, 103, 5)];
        assert_eq!(reader.read(6, log(&late), 100, 102, 104), 1);
        assert_eq!((reader.first_before(103), reader.close(102)), (Some(102), vec![(1, 7), (1, 80)]));
        assert_eq!(reader.read(6, log(&late), 100, 103, 106), 0, "it is lost once");
        assert_eq!(reader.close(103), [(1, 5)]);
        // What a stretch used before counting began is not lost.
        let mut reader = LogReader::at(0);
        assert_eq!(reader.read(1, log(&[(1, 99, 5)]), 100, 100, 102), 0);
        assert_eq!(reader.first_before(u64::MAX), None);
    }

    #[test]
    fn entries_that_were_overwritten_are_lost() {
        let mut reader = LogReader::at(10);
        let entry = |number: u32| Some(WindowEntry { slot: 1, window: 100, on_cpu_ns: u64::from(number > 0) });
        assert_eq!(reader.read(10 + LOG_LEN + 3, entry, 90, 100, 102), 3);
        assert_eq!(reader.close(100).iter().map(|(_, ns)| ns).sum::<u64>(), u64::from(LOG_LEN));
    }

    #[test]
    fn windows_are_widened_to_the_nearest() {
        let current = (5_u64 << 32) + 3;
        assert_eq!(widen(3, current), current);
        assert_eq!(widen(1, current), current - 2);
        assert_eq!(widen(u32::MAX, current), current - 4);
        assert_eq!(widen(4, current), current + 1);
    }
}
