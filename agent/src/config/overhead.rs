//! What podmeter may cost: `overhead.*`.

use std::time::Duration;

use super::{key::Value, value::text};

/// Of one core, per second: what `auto` allows at least.
const LEAST: Duration = Duration::from_millis(20);
/// Of each CPU, per second. Programs run at the events of all CPUs, so what they cost grows with their number.
const OF_EACH_CPU: Duration = Duration::from_micros(2500);

/// Percent of one core that can be set.
const PERCENT: std::ops::RangeInclusive<f64> = 0.01..=10_000.0;

/// What podmeter may cost, and how fast it reacts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overhead {
    /// CPU time.
    pub cpu: OverheadLimit,
    /// Above the limit for so long: the next step.
    pub window: Duration,
    /// Well below it for so long: a step back.
    pub recovery: Duration,
}

/// How much CPU time podmeter may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OverheadLimit {
    /// As much as is small for this node.
    #[default]
    Auto,
    /// As much as it takes.
    Off,
    /// So much per second.
    Share(Duration),
}

impl OverheadLimit {
    /// The limit as a share of one core, on a node with so many CPUs.
    pub fn share(self, cpus: u32) -> Option<f64> {
        match self {
            Self::Auto => Some(LEAST.max(OF_EACH_CPU * cpus).as_secs_f64()),
            Self::Off => None,
            Self::Share(per_second) => Some(per_second.as_secs_f64()),
        }
    }

    pub(super) fn parse(value: Value) -> Result<Self, String> {
        let found = text(value)?;
        let number = found.trim().strip_suffix('%').unwrap_or(found.trim()).trim_end();
        match (found.trim(), number.parse::<f64>()) {
            ("auto", _) => Ok(Self::Auto),
            ("off", _) | (_, Ok(0.0)) => Ok(Self::Off),
            (_, Ok(percent)) if PERCENT.contains(&percent) => Ok(Self::Share(Duration::from_secs_f64(percent / 100.0))),
            _ => Err(format!(
                "expected auto, off, or a percentage of one core from {}% to {}%, such as 2%, found {found:?}",
                PERCENT.start(),
                PERCENT.end()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_a_percentage_of_one_core() {
        let parse = |text: &str| OverheadLimit::parse(Value::Text(text.to_owned()));
        let share = |ms| Ok(OverheadLimit::Share(Duration::from_micros(ms)));
        let cases = [("2%", share(20_000)), ("2", share(20_000)), (" 0.5 % ", share(5000)), ("150%", share(1_500_000))];
        for (text, wanted) in cases {
            assert_eq!(parse(text), wanted, "{text}");
        }
        assert_eq!((parse("auto"), parse("off")), (Ok(OverheadLimit::Auto), Ok(OverheadLimit::Off)));
        assert_eq!((parse("0"), parse("0%")), (Ok(OverheadLimit::Off), Ok(OverheadLimit::Off)));
        for text in ["", "-1", "0.001", "20000%", "NaN", "inf", "2 cores"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_large_node_may_cost_more() {
        let percent = |cpus| OverheadLimit::Auto.share(cpus).map(|share| (share * 1000.0).round() as u32);
        assert_eq!([2, 8, 16, 64].map(percent), [Some(20), Some(20), Some(40), Some(160)]);
        assert_eq!(OverheadLimit::Off.share(2), None);
    }
}
