//! How long the machine had slept by a moment (pure): births and deaths of cgroups are stamped with CLOCK_BOOTTIME, windows are counted
//! by CLOCK_MONOTONIC, which stands still while the machine is suspended.

/// What both clocks may grow apart by without a suspend: noise of reading two clocks.
const NOISE_NS: u64 = 1_000_000;

/// The suspends since the first look.
#[derive(Debug, Default)]
pub struct Sleeps {
    /// From which moment of boot time on the machine had slept for how long in all, in ns: one entry more for each suspend.
    asleep: Vec<(u64, u64)>,
    /// When both clocks were read last, CLOCK_BOOTTIME in ns.
    looked_ns: u64,
}

impl Sleeps {
    /// Notes both clocks, every second: boot time is read first, or a pause in between would be taken for a suspend.
    pub fn look(&mut self, boottime_ns: u64, monotonic_ns: u64) {
        let asleep_ns = boottime_ns.saturating_sub(monotonic_ns);
        let before_ns = self.asleep.last().map(|(_, asleep_ns)| *asleep_ns);
        match before_ns {
            None => self.asleep.push((0, asleep_ns)),
            // What is stamped within this time of the last look was stamped before the suspend: the machine is awake for less than that
            // between two looks, unless it slept for less than that.
            Some(before_ns) if asleep_ns > before_ns + NOISE_NS => {
                self.asleep.push((self.looked_ns + (asleep_ns - before_ns), asleep_ns));
            }
            Some(_) => {}
        }
        self.looked_ns = boottime_ns;
    }

    /// What CLOCK_MONOTONIC said at a moment of boot time, both in ns.
    pub fn monotonic_ns(&self, boottime_ns: u64) -> u64 {
        let asleep = self.asleep.iter().rfind(|(from_ns, _)| *from_ns <= boottime_ns);
        boottime_ns.saturating_sub(asleep.map_or(0, |(_, asleep_ns)| *asleep_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn births_before_between_and_after_suspends_are_on_the_clock_of_windows() {
        let mut sleeps = Sleeps::default();
        assert_eq!(sleeps.monotonic_ns(5), 5);
        // Slept for 100 s before the agent came.
        for boot in 200..210 {
            sleeps.look(boot * S, (boot - 100) * S - 300);
        }
        // Awake for 0.4 s more, then asleep for an hour, then two seconds, awake for 0.2 s between the looks.
        sleeps.look(3809 * S + S / 2, 109 * S + S / 2);
        sleeps.look(3810 * S + S / 2, 110 * S + S / 2);
        sleeps.look(3812 * S + 7 * S / 10, 110 * S + 7 * S / 10);
        let births = [
            (205 * S, 105 * S),
            (209 * S + S / 3, 109 * S + S / 3),
            (3809 * S + 2 * S / 5, 109 * S + 2 * S / 5),
            (3810 * S, 110 * S),
            (3810 * S + 3 * S / 5, 110 * S + 3 * S / 5),
            (3812 * S + 3 * S / 5, 110 * S + 3 * S / 5),
            (4000 * S, 298 * S),
        ];
        for (boot, monotonic) in births {
            assert!(sleeps.monotonic_ns(boot).abs_diff(monotonic) < 1000, "{boot}: {}", sleeps.monotonic_ns(boot));
        }
        assert_eq!(sleeps.asleep.len(), 3, "noise is no suspend");
    }
}
