//! How well the wall clock is kept, as the kernel knows from what steers it (`adjtimex(2)`).

use nix::libc::{STA_NANO, STA_UNSYNC, TIME_ERROR, c_int, timex};

use super::metrics::{CLOCK_ERROR, CLOCK_OFFSET, CLOCK_SYNCHRONIZED, UPTIME};
use crate::{
    kernel::{facts, sys},
    metric::{Point, Value},
};

/// The clock's points, and how long the node is up.
///
/// # Errors
/// When the kernel refuses, as a seccomp profile may.
pub(super) fn read(points: &mut Vec<Point>) -> Result<(), String> {
    points.push(Point::new(&UPTIME, 0, Value::Float(facts::boottime_ns() as f64 / 1e9)));
    let (clock, state) =
        sys::clock_state().map_err(|error| format!("could not read the state of the clock (adjtimex): {error}"))?;
    points.extend(of(&clock, state));
    Ok(())
}

fn of(clock: &timex, state: c_int) -> [Point; 3] {
    // The offset is in ns or µs; the maximal error always in µs.
    let unit = if clock.status & STA_NANO != 0 { 1e9 } else { 1e6 };
    let synchronized = clock.status & STA_UNSYNC == 0 && state != TIME_ERROR;
    [
        Point::new(&CLOCK_OFFSET, 0, Value::Float(clock.offset as f64 / unit)),
        Point::new(&CLOCK_ERROR, 0, Value::Float(clock.maxerror as f64 / 1e6)),
        Point::new(&CLOCK_SYNCHRONIZED, 0, Value::Int(synchronized.into())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_units_and_flags_are_read() {
        let (mut clock, _) = sys::clock_state().expect("adjtimex changes nothing and needs no right");
        (clock.offset, clock.maxerror, clock.status) = (-2_000_000, 16_000_000, STA_NANO);
        let values = |clock: &timex, state| of(clock, state).map(|point| point.value);
        assert_eq!(values(&clock, 0), [Value::Float(-0.002), Value::Float(16.0), Value::Int(1)]);
        assert_eq!(values(&clock, TIME_ERROR)[2], Value::Int(0));
        clock.status = STA_UNSYNC;
        assert_eq!(values(&clock, 0), [Value::Float(-2.0), Value::Float(16.0), Value::Int(0)]);
    }
}
