//! Unix time, made of CLOCK_BOOTTIME at one place: where a batch leaves.
//!
//! All that is stamped is stamped with boot time, which no one sets and which goes on in suspend. What the two clocks differ by changes
//! only when the wall clock is set (settimeofday, a step of NTP, a leap second): the kernel slews both alike (`timekeeping_adjust`), and
//! adds the time of a suspend to both. So all times that are exported move together with the clock, and none moves by itself.

use std::time::Duration;

use super::{
    facts,
    pin::{PinError, PinnedNumber, Pins},
};

/// A difference up to this is noise of reading two clocks, not a step: what is kept holds.
const NOISE_NS: u64 = 1_000_000;

/// How often both clocks are read: the narrowest pair counts.
const READS: u32 = 8;

/// CLOCK_REALTIME less CLOCK_BOOTTIME in ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnixOffset(i64);

impl UnixOffset {
    /// So many ns.
    #[cfg(test)]
    pub fn new(ns: i64) -> Self {
        Self(ns)
    }

    /// A moment of CLOCK_BOOTTIME as Unix time, both in ns. One from before 1970 is 1970.
    pub fn unix_ns(self, boot_ns: u64) -> u64 {
        boot_ns.saturating_add_signed(self.0)
    }
}

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    offset_ns: i64,
    /// How long it took: the offset is off by half of it at most.
    width_ns: u64,
}

impl Look {
    /// The narrowest of several looks.
    fn narrowest() -> Self {
        let look = |_| {
            let (before_ns, unix_ns, after_ns) = (facts::boottime_ns(), facts::unix_ns(), facts::boottime_ns());
            let width_ns = after_ns.saturating_sub(before_ns);
            Self { offset_ns: unix_ns.wrapping_sub(before_ns + width_ns / 2).cast_signed(), width_ns }
        };
        (0..READS).map(look).min_by_key(|look| look.width_ns).unwrap_or(Self { offset_ns: 0, width_ns: u64::MAX })
    }
}

/// Keeps the offset.
#[derive(Debug)]
pub struct Clock {
    kept: UnixOffset,
    /// The same for an agent after this one, which then says the same times to the ns.
    word: Option<PinnedNumber>,
}

impl Clock {
    /// With the offset that an earlier agent kept; of now where there was none, or it keeps nothing.
    ///
    /// # Errors
    /// When bpffs refuses.
    pub fn open(pins: &Pins) -> Result<Self, PinError> {
        let now = Look::narrowest().offset_ns;
        let word = pins.clock(|| now.cast_unsigned())?;
        Ok(Self { kept: UnixOffset(word.as_ref().map_or(now, |word| word.get().cast_signed())), word })
    }

    /// The offset of now: the kept one, to the ns, until the clock is set.
    pub fn offset(&mut self) -> UnixOffset {
        self.keep(Look::narrowest())
    }

    fn keep(&mut self, look: Look) -> UnixOffset {
        let step_ns = look.offset_ns.saturating_sub(self.kept.0);
        if step_ns.unsigned_abs() > NOISE_NS.saturating_add(look.width_ns) {
            let by = Duration::from_millis((step_ns.unsigned_abs() + 500_000) / 1_000_000);
            let way = if step_ns > 0 { "forward" } else { "back" };
            tracing::info!("the clock was set {way} by {by:?}: all times that are exported follow it");
            self.kept = UnixOffset(look.offset_ns);
            if let Some(word) = &self.word {
                word.set(look.offset_ns.cast_unsigned());
            }
        }
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    /// The clock of an agent before which another kept this.
    fn kept(offset_ns: i64) -> Clock {
        Clock { kept: UnixOffset(offset_ns), word: None }
    }

    fn look(offset_ns: i64) -> Look {
        Look { offset_ns, width_ns: 100 }
    }

    #[test]
    fn noise_is_no_step_and_a_step_is_taken_at_once() {
        let mut clock = kept(7);
        let set = 1_700_000_000 * SECOND;
        for (seen, wanted) in [
            (7, 7),
            (500, 7),
            (-900_000, 7),
            (1_000_000, 7),
            // NTP sets the clock, and slews it: both clocks alike.
            (set, set),
            (set + 300, set),
            (set - 700_000, set),
            // A leap second, and an hour back.
            (set - SECOND, set - SECOND),
            (set - 3600 * SECOND, set - 3600 * SECOND),
            (set - 3600 * SECOND + 40, set - 3600 * SECOND),
        ] {
            assert_eq!(clock.keep(look(seen)), UnixOffset(wanted), "{seen}");
        }
    }

    #[test]
    fn small_steps_that_add_up_are_taken_too() {
        let mut clock = kept(0);
        let kept: Vec<i64> = (0..5).map(|n| clock.keep(look(n * 400_000)).0).collect();
        assert_eq!(kept, [0, 0, 0, 1_200_000, 1_200_000]);
    }

    #[test]
    fn a_look_that_took_long_proves_no_step() {
        let mut clock = kept(5);
        assert_eq!(clock.keep(Look { offset_ns: 30_000_000, width_ns: 60_000_000 }), UnixOffset(5));
        assert_eq!(clock.keep(look(30_000_000)), UnixOffset(30_000_000));
    }

    #[test]
    fn the_offset_of_now_makes_the_unix_time_of_now() {
        let mut clock = kept(0);
        let (before, now, after) = (facts::unix_ns(), clock.offset().unix_ns(facts::boottime_ns()), facts::unix_ns());
        assert!((before..after + 1_000_000).contains(&(now + 1_000_000)), "{before} {now} {after}");
        assert_eq!(UnixOffset(-5).unix_ns(3), 0);
    }
}
