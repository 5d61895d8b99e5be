//! The log of windows that each CPU writes: what each slot used in which window (pure).

use std::{collections::HashMap, ops::Range};

use agent_common::cpu::{LOG_LEN, WINDOW_NS, WindowEntry};

/// How far one CPU's log of windows was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogReader {
    /// Number of the first entry that was not read to the end.
    tail: u32,
    /// Number of the first entry that was not seen at all.
    unseen: u32,
}

impl LogReader {
    pub(super) fn at(head: u32) -> Self {
        Self { tail: head, unseen: head }
    }

    /// What each slot used in each window of `wanted`, and how many entries are lost: those that were overwritten, and those that come
    /// only now, of windows that have been closed. `first_window` is where closing began.
    pub(super) fn read(
        &mut self,
        head: u32,
        entry: impl Fn(u32) -> Option<WindowEntry>,
        wanted: &Range<u64>,
        current: u64,
        first_window: u64,
    ) -> (HashMap<u64, HashMap<u32, u64>>, u64) {
        let mut used: HashMap<u64, HashMap<u32, u64>> = HashMap::new();
        let mut lost = 0;
        let behind = head.wrapping_sub(self.tail);
        if behind > LOG_LEN {
            lost += u64::from(behind - LOG_LEN);
            self.tail = head.wrapping_sub(LOG_LEN);
        }
        let mut unseen = head.wrapping_sub(self.unseen);
        // Entries come nearly in order of their windows; those of open windows still grow and are read again.
        let mut finished = true;
        let mut number = self.tail;
        while number != head {
            let Some(entry) = entry(number) else { break };
            let window = widen(entry.window, current);
            let is_new = head.wrapping_sub(number) <= unseen;
            if is_new && (first_window..wanted.start).contains(&window) {
                lost += 1;
            }
            finished &= window < wanted.end;
            number = number.wrapping_add(1);
            if finished {
                self.tail = number;
            }
            if wanted.contains(&window) {
                *used.entry(window).or_default().entry(entry.slot).or_default() += entry.on_cpu_ns;
            }
        }
        unseen = head.wrapping_sub(number).min(unseen);
        self.unseen = head.wrapping_sub(unseen);
        used.values_mut().for_each(fit_into_window);
        (used, lost)
    }
}

/// A window has room for 100 ms of one CPU. Where a stretch that was settled ended is known to a tick at worst, and may be laid
/// into the time of the next; the excess is taken from the largest share.
fn fit_into_window(by_slot: &mut HashMap<u32, u64>) {
    let excess_ns = by_slot.values().sum::<u64>().saturating_sub(WINDOW_NS);
    if let Some(largest) = by_slot.values_mut().max() {
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
        let mut used = HashMap::from([(1, WINDOW_NS), (2, 5)]);
        fit_into_window(&mut used);
        assert_eq!(used, HashMap::from([(1, WINDOW_NS - 5), (2, 5)]));
        let mut used = HashMap::from([(1, 7)]);
        fit_into_window(&mut used);
        assert_eq!(used, HashMap::from([(1, 7)]));
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
        let (used, lost) = reader.read(3, log(&early), &(100..102), 103, 100);
        assert_eq!((used[&100][&1], used[&101][&1], used.len(), lost), (50, 60, 2, 0));
        // The open window has grown; an entry of a closed one comes too late. It is lost once, however often it is read.
        let late = [early[0], early[1], (1, 102, 80), (2, 101, 9), (1, 103, 5)];
        let (used, lost) = reader.read(5, log(&late), &(102..103), 104, 100);
        assert_eq!((used[&102][&1], used.len(), lost), (80, 1, 1));
        let (used, lost) = reader.read(5, log(&late), &(103..105), 106, 100);
        assert_eq!((used[&103][&1], used.len(), lost), (5, 1, 0));
        // What a stretch used before counting began is not lost.
        let mut reader = LogReader::at(0);
        assert_eq!(reader.read(1, log(&[(1, 99, 5)]), &(100..102), 103, 100).1, 0);
    }

    #[test]
    fn entries_that_were_overwritten_are_lost() {
        let mut reader = LogReader::at(10);
        let entry = |number: u32| Some(WindowEntry { slot: 1, window: 100, on_cpu_ns: u64::from(number > 0) });
        let (used, lost) = reader.read(10 + LOG_LEN + 3, entry, &(100..101), 102, 90);
        assert_eq!((used[&100][&1], lost), (u64::from(LOG_LEN), 3));
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
