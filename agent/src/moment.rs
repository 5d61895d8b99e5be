//! Moments as people write them: a time of day, a date with a time, or how long ago (pure).

use std::time::{Duration, SystemTime};

/// Reads `02:00` or `02:00:30` (UTC, the last one before `now`), `2026-11-28T02:00:00Z`, or `90m` ago.
///
/// # Errors
/// When it is none of these.
pub fn parse(text: &str, now: SystemTime) -> Result<SystemTime, String> {
    let expected = || {
        format!(
            "expected a time of day in UTC such as 02:00, a date such as 2026-11-28T02:00:00Z, or how long ago such as 90m, found {text:?}"
        )
    };
    if let Some(seconds) = time_of_day(text) {
        const DAY: u64 = 86_400;
        let now_seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| expected())?.as_secs();
        let today = now_seconds - now_seconds % DAY + seconds;
        let last = if today > now_seconds { today.saturating_sub(DAY) } else { today };
        return Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(last));
    }
    if let Ok(moment) = humantime::parse_rfc3339_weak(text) {
        return Ok(moment);
    }
    let ago = humantime::parse_duration(text).map_err(|_| expected())?;
    now.checked_sub(ago).ok_or_else(expected)
}

/// A moment in ns since 1970 as people read it: `2026-11-28 02:00:00 UTC`.
pub fn utc(ns: u64) -> String {
    rfc3339(ns).replace('T', " ").replace('Z', " UTC")
}

/// The same by RFC 3339, to the second: `2026-11-28T02:00:00Z`.
pub fn rfc3339(ns: u64) -> String {
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_nanos(ns)).to_string()
}

/// A moment in ns since 1970.
pub fn unix_ns(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Seconds since midnight of `HH:MM` or `HH:MM:SS`.
fn time_of_day(text: &str) -> Option<u64> {
    let parts: Vec<u64> = text.split(':').map(|part| part.parse().ok().filter(|_| part.len() == 2)).collect::<Option<_>>()?;
    match parts[..] {
        [hours @ 0..24, minutes @ 0..60] => Some(hours * 3600 + minutes * 60),
        [hours @ 0..24, minutes @ 0..60, seconds @ 0..60] => Some(hours * 3600 + minutes * 60 + seconds),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_to_the_second_whatever_they_are() {
        assert_eq!(utc(1_795_831_200_999_999_999), "2026-11-28 02:00:00 UTC");
        assert_eq!(rfc3339(1_795_831_200_000_000_000), "2026-11-28T02:00:00Z");
        assert!(rfc3339(u64::MAX).starts_with("2554-"));
        assert_eq!(unix_ns(SystemTime::UNIX_EPOCH + Duration::from_nanos(7)), 7);
    }

    #[test]
    fn moments_are_read_in_each_form_and_a_time_of_day_is_never_in_the_future() {
        let at = |text: &str| humantime::parse_rfc3339_weak(text).expect("a date");
        let now = at("2026-11-28 03:10:00");
        for (text, want) in [
            ("02:00", "2026-11-28 02:00:00"),
            ("02:00:30", "2026-11-28 02:00:30"),
            ("03:10", "2026-11-28 03:10:00"),
            ("03:11", "2026-11-27 03:11:00"),
            ("2026-11-20T01:02:03Z", "2026-11-20 01:02:03"),
            ("90m", "2026-11-28 01:40:00"),
        ] {
            assert_eq!(parse(text, now), Ok(at(want)), "{text}");
        }
        for text in ["", "2", "24:00", "02:60", "2:00", "yesterday", "9999999999999y"] {
            let error = parse(text, now).expect_err(text);
            assert!(error.contains("expected a time of day"), "{error}");
        }
    }
}
