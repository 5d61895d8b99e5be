//! Numbers and names as people read them. Every way that `top` writes a value is here.
//!
//! A value that is not known, or is no number, is written `-`: never 0, never `NaN`.

use std::borrow::Cow;

use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

/// What stands for a value that is not known.
pub const UNKNOWN: &str = "-";

/// CPUs: `2.35`, `0.42`, and below a tenth in thousandths, as Kubernetes writes them: `12.3m`.
pub fn cores(value: Option<f64>) -> String {
    // The bounds are where rounding would add a digit.
    match known(value) {
        None => UNKNOWN.into(),
        Some(0.0) => "0".into(),
        Some(v) if v < 0.099_95 => format!("{:.1}m", v * 1000.0),
        Some(v) if v < 9.995 => format!("{v:.2}"),
        Some(v) if v < 99.95 => format!("{v:.1}"),
        Some(v) => format!("{v:.0}"),
    }
}

/// CPUs of a node, mostly a whole number: `8`, `7.50`.
pub fn whole_cores(cores: f64) -> String {
    if cores.fract() == 0.0 { format!("{cores:.0}") } else { self::cores(Some(cores)) }
}

/// A ratio as a percentage: `0.4%`, `87%`; above `9999%` only that it is above.
pub fn percent(ratio: Option<f64>) -> String {
    match known(ratio).map(|r| r * 100.0) {
        None => UNKNOWN.into(),
        Some(0.0) => "0%".into(),
        Some(p) if p < 0.0995 => format!("{p:.2}%"),
        Some(p) if p < 9.95 => format!("{p:.1}%"),
        Some(p) if p < 9999.5 => format!("{p:.0}%"),
        Some(_) => ">9999%".into(),
    }
}

/// A short time in s, or time per second of time in s/s: `85µs`, `12.3ms`, `340ms`, `1.20s`.
pub fn time(value: Option<f64>) -> String {
    match known(value) {
        None => UNKNOWN.into(),
        Some(0.0) => "0".into(),
        Some(v) if v < 0.000_999_5 => format!("{:.0}µs", v * 1e6),
        Some(v) if v < 0.099_95 => format!("{:.1}ms", v * 1000.0),
        Some(v) if v < 0.999_5 => format!("{:.0}ms", v * 1000.0),
        Some(v) if v < 9.995 => format!("{v:.2}s"),
        Some(v) => format!("{v:.0}s"),
    }
}

/// A length of time in s: `12ms`, `1.2s`, `3m04s`, `2h03m`, `5d04h`.
pub fn duration(seconds: Option<f64>) -> String {
    let Some(seconds) = known(seconds) else { return UNKNOWN.into() };
    if seconds == 0.0 {
        return "0s".into();
    }
    if seconds < 0.099_5 {
        return format!("{:.0}ms", (seconds * 1000.0).max(1.0));
    }
    if seconds < 59.95 {
        return format!("{seconds:.1}s");
    }
    // Rounded once, in the smaller of the two units that are shown, so that 60 never appears in the second one.
    let whole = seconds.round() as u64;
    if whole < 3600 {
        return format!("{}m{:02}s", whole / 60, whole % 60);
    }
    let minutes = (seconds / 60.0).round() as u64;
    if minutes < 24 * 60 {
        return format!("{}h{:02}m", minutes / 60, minutes % 60);
    }
    let hours = (seconds / 3600.0).round() as u64;
    format!("{}d{:02}h", hours / 24, hours % 24)
}

/// Bytes, in powers of 1024: `512 B`, `1.50 GiB`.
pub fn bytes(value: Option<u64>) -> String {
    let Some(value) = value else { return UNKNOWN.into() };
    if value < 1024 {
        return format!("{value} B");
    }
    let mut scaled = value as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
        if scaled < 1023.5 {
            break;
        }
        scaled /= 1024.0;
        unit = next;
    }
    match scaled {
        v if v < 9.995 => format!("{v:.2} {unit}"),
        v if v < 99.95 => format!("{v:.1} {unit}"),
        v => format!("{v:.0} {unit}"),
    }
}

/// Bytes in as few letters as can be, in powers of 1024: `512`, `1.5G`, `340M`.
pub fn short_bytes(value: Option<f64>) -> String {
    let Some(mut scaled) = known(value) else { return UNKNOWN.into() };
    if scaled < 1023.5 {
        return format!("{scaled:.0}");
    }
    let mut unit = "";
    for next in ["K", "M", "G", "T", "P", "E"] {
        if scaled < 1023.5 {
            break;
        }
        scaled /= 1024.0;
        unit = next;
    }
    if scaled < 9.95 { format!("{scaled:.1}{unit}") } else { format!("{scaled:.0}{unit}") }
}

/// Events, or events per s: `0`, `0.3`, `12`, `4.2k`, `17M`.
pub fn count(value: Option<f64>) -> String {
    let Some(mut scaled) = known(value) else { return UNKNOWN.into() };
    if scaled == 0.0 {
        return "0".into();
    }
    if scaled < 9.95 && scaled.fract() != 0.0 {
        return format!("{:.1}", scaled.max(0.1));
    }
    let mut unit = "";
    for next in ["k", "M", "G", "T"] {
        if scaled < 999.5 {
            break;
        }
        scaled /= 1000.0;
        unit = next;
    }
    if scaled < 9.95 && !unit.is_empty() { format!("{scaled:.1}{unit}") } else { format!("{scaled:.0}{unit}") }
}

/// Columns that `text` takes on a terminal.
pub fn width(text: &str) -> usize {
    UnicodeWidthStr::width(text)
}

/// `text` in at most `columns` columns: what is too long loses its middle, since the head (namespace) and the tail
/// (container, unit type) tell names apart. Never splits what is shown as one character.
pub fn cut(text: &str, columns: usize) -> Cow<'_, str> {
    if width(text) <= columns {
        return Cow::Borrowed(text);
    }
    let Some(room) = columns.checked_sub(1) else { return Cow::Borrowed("") };
    let graphemes: Vec<&str> = text.graphemes(true).collect();
    let fitting = |wanted: &mut dyn Iterator<Item = &&str>, room: usize| {
        let (mut used, mut count) = (0, 0);
        for grapheme in wanted {
            if used + width(grapheme) > room {
                break;
            }
            used += width(grapheme);
            count += 1;
        }
        (count, used)
    };
    // The tail gets the larger half.
    let (head, used) = fitting(&mut graphemes.iter(), room / 2);
    let (tail, _) = fitting(&mut graphemes[head..].iter().rev(), room - used);
    Cow::Owned([&graphemes[..head].concat(), "…", &graphemes[graphemes.len() - tail..].concat()].concat())
}

/// `text` without what could command the terminal: cgroup names may hold any byte but `/` and newline.
pub fn printable(text: &str) -> Cow<'_, str> {
    let harmful =
        |c: char| c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if text.contains(harmful) { Cow::Owned(text.replace(harmful, "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// `values`, oldest first and the newest at the right edge, as `columns` bars; a gap where there is no value.
///
/// The scale ends at the largest value shown, or at `floor` when that is larger, so that noise does not look like load.
pub fn sparkline(values: impl DoubleEndedIterator<Item = Option<f32>>, columns: usize, floor: f32) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let mut newest_first: Vec<Option<f32>> = values.rev().take(columns).collect();
    newest_first.resize(columns, None);
    let top = newest_first.iter().flatten().copied().filter(|v| v.is_finite()).fold(floor, f32::max);
    let bar = |value: Option<f32>| match value {
        Some(v) if v.is_finite() && top > 0.0 => BARS[((v / top * 8.0).ceil().clamp(1.0, 8.0) as usize) - 1],
        Some(v) if v.is_finite() => BARS[0],
        _ => ' ',
    };
    newest_first.into_iter().rev().map(bar).collect()
}

/// A value that can be shown: finite and not negative.
fn known(value: Option<f64>) -> Option<f64> {
    value.filter(|v| v.is_finite() && *v >= 0.0).map(f64::abs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_have_two_or_three_digits() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "0"),
            (0.000_01, "0.0m"),
            (0.0023, "2.3m"),
            (0.0123, "12.3m"),
            (0.0999, "99.9m"),
            (0.099_96, "0.10"),
            (0.42, "0.42"),
            (1.0, "1.00"),
            (9.994, "9.99"),
            (9.996, "10.0"),
            (63.94, "63.9"),
            (99.96, "100"),
            (511.7, "512"),
        ] {
            assert_eq!(cores(Some(value)), text, "{value}");
        }
    }

    #[test]
    fn percentages_stay_narrow() {
        for (ratio, text) in [
            (0.0, "0%"),
            (0.000_4, "0.04%"),
            (0.000_996, "0.1%"),
            (0.004, "0.4%"),
            (0.0994, "9.9%"),
            (0.0996, "10%"),
            (0.87, "87%"),
            (1.5, "150%"),
            (99.99, "9999%"),
            (100.0, ">9999%"),
            (1e300, ">9999%"),
        ] {
            assert_eq!(percent(Some(ratio)), text, "{ratio}");
        }
    }

    #[test]
    fn short_times_pick_their_unit() {
        for (value, text) in [
            (0.0, "0"),
            (0.000_085, "85µs"),
            (0.000_999_6, "1.0ms"),
            (0.0123, "12.3ms"),
            (0.34, "340ms"),
            (0.9996, "1.00s"),
            (3.4, "3.40s"),
            (34.0, "34s"),
        ] {
            assert_eq!(time(Some(value)), text, "{value}");
        }
    }

    #[test]
    fn durations_show_two_units_and_never_sixty_of_one() {
        for (seconds, text) in [
            (0.0, "0s"),
            (0.000_01, "1ms"),
            (0.012, "12ms"),
            (0.3, "0.3s"),
            (1.2, "1.2s"),
            (59.94, "59.9s"),
            (59.96, "1m00s"),
            (184.0, "3m04s"),
            (3599.4, "59m59s"),
            (3599.6, "1h00m"),
            (7380.0, "2h03m"),
            (86_399.0, "1d00h"),
            (446_400.0, "5d04h"),
            (86_400.0 * 400.0, "400d00h"),
        ] {
            assert_eq!(duration(Some(seconds)), text, "{seconds}");
        }
    }

    #[test]
    fn bytes_are_binary() {
        for (value, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (256 << 20, "256 MiB"),
            (3 << 29, "1.50 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(Some(value)), text);
        }
    }

    #[test]
    fn bytes_and_counts_of_the_table_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (1023.0, "1023"),
            (1024.0, "1.0K"),
            ((340 << 20) as f64, "340M"),
            (1.5 * 1024.0 * 1024.0 * 1024.0, "1.5G"),
        ] {
            assert_eq!(short_bytes(Some(value)), text, "{value}");
        }
        assert_eq!(short_bytes(Some(u64::MAX as f64)), "16E");
        for (value, text) in
            [(0.0, "0"), (0.01, "0.1"), (0.3, "0.3"), (3.0, "3"), (12.4, "12"), (999.4, "999"), (4_200.0, "4.2k"), (17e6, "17M")]
        {
            assert_eq!(count(Some(value)), text, "{value}");
        }
    }

    #[test]
    fn what_is_not_known_is_a_dash() {
        for value in [None, Some(f64::NAN), Some(f64::INFINITY), Some(f64::NEG_INFINITY), Some(-1.0)] {
            for text in [cores(value), percent(value), time(value), duration(value), short_bytes(value), count(value)] {
                assert_eq!(text, UNKNOWN, "{value:?}");
            }
        }
        assert_eq!(bytes(None), UNKNOWN);
    }

    #[test]
    fn names_are_cut_in_the_middle_by_display_width() {
        for (text, columns, cut_text) in [
            ("shop/web/app", 12, "shop/web/app"),
            ("shop/web-5d8f/app", 11, "shop/…f/app"),
            ("abcdef", 1, "…"),
            ("abcdef", 2, "…f"),
            ("abcdef", 0, ""),
            ("日本語の名前", 12, "日本語の名前"),
            ("日本語の名前", 7, "日…名前"),
            ("日本語の名前", 2, "…"),
            ("👩‍👩‍👧abcdef👩‍👩‍👧", 6, "👩‍👩‍👧…f👩‍👩‍👧"),
        ] {
            let got = cut(text, columns);
            assert_eq!(got, cut_text, "{text} in {columns}");
            assert!(width(&got) <= columns);
        }
    }

    #[test]
    fn a_name_cannot_command_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\u{202e}c"), "a\u{fffd}[2Jb\u{fffd}c");
        assert!(matches!(printable("plain-ü"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_sparkline_ends_at_the_newest_value_and_leaves_gaps() {
        let line = |values: &[Option<f32>], columns, floor| sparkline(values.iter().copied(), columns, floor);
        assert_eq!(line(&[Some(0.0), None, Some(4.0), Some(8.0)], 6, 0.0), "  ▁ ▄█");
        assert_eq!(line(&[Some(9.0), Some(1.0), Some(2.0)], 2, 0.0), "▄█");
        assert_eq!(line(&[Some(0.01)], 1, 0.1), "▁");
        assert_eq!(line(&[Some(0.0), Some(f32::NAN)], 2, 0.0), "▁ ");
        assert_eq!(line(&[], 0, 0.0), "");
    }
}
