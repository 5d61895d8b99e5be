//! Text -> values, with what was expected where it is none.
//!
//! What may hold a secret (headers, addresses with a user or a query) is never part of a message.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};
use percent_encoding::percent_decode_str;

use super::{Check, Range, Value};
use crate::cpu_list;
use crate::url::{shown, socket};

pub(super) fn store<T>(place: &mut T, value: T) -> Check {
    *place = value;
    Ok(())
}

/// `OTEL_*_TIMEOUT` is a number of milliseconds. What is no number is left to the check.
pub(super) fn milliseconds(text: String) -> Value {
    let number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    Value::Text(if number { format!("{text}ms") } else { format!("{text} (milliseconds)") })
}

pub(super) fn text(value: Value) -> Result<String, String> {
    match value {
        Value::Text(text) | Value::Base(text) | Value::Signal(text) => Ok(text),
        Value::Pairs(_) => Err("expected one value, found keys with values".to_owned()),
    }
}

pub(super) fn filled(value: Value) -> Result<String, String> {
    let text = text(value)?;
    if text.trim().is_empty() { Err("must not be empty".to_owned()) } else { Ok(text) }
}

pub(super) fn parsed<T: FromStr>(value: Value, expected: &str) -> Result<T, String> {
    let text = text(value)?;
    text.trim().parse().map_err(|_| format!("expected {expected}, found {text:?}"))
}

pub(super) fn one_of<T: Copy>(value: Value, known: &[(&str, T)]) -> Result<T, String> {
    let text = text(value)?;
    let words = || known.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" or ");
    let found = known.iter().find(|(word, _)| *word == text.trim());
    found.map(|(_, value)| *value).ok_or_else(|| format!("expected {}, found {text:?}", words()))
}

pub(super) fn boolean(value: Value) -> Result<bool, String> {
    one_of(value, &[("true", true), ("false", false)])
}

pub(super) fn number(value: Value, range: RangeInclusive<u32>) -> Result<u32, String> {
    let expected = format!("a whole number from {} to {}", range.start(), range.end());
    let found = text(value)?;
    let number = found.trim().parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("expected {expected}, found {found:?}"))
}

/// What a value says, `None` for this word.
pub(super) fn unless<T>(word: &str, value: Value, parse: impl FnOnce(Value) -> Result<T, String>) -> Result<Option<T>, String> {
    let found = text(value)?;
    if found.trim() == word { Ok(None) } else { parse(Value::Text(found)).map(Some).map_err(|why| format!("{why} or {word}")) }
}

/// A number of bytes, with or without a unit.
pub(super) fn bytes(value: Value, range: RangeInclusive<u64>) -> Result<usize, String> {
    const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("", 1)];
    let written = |bytes: &u64| {
        let (unit, size) = UNITS.into_iter().find(|(_, size)| bytes.is_multiple_of(*size)).unwrap_or(("", 1));
        format!("{}{unit}", bytes / size)
    };
    let found = text(value)?;
    let parsed = UNITS.into_iter().find_map(|(unit, size)| {
        let number: u64 = found.trim().strip_suffix(unit)?.trim_end().parse().ok()?;
        number.checked_mul(size).filter(|bytes| range.contains(bytes))
    });
    parsed.and_then(|bytes| usize::try_from(bytes).ok()).ok_or_else(|| {
        let (from, to) = (written(range.start()), written(range.end()));
        format!("expected a number of bytes, such as 4194304, 512KiB or 4MiB, from {from} to {to}, found {found:?}")
    })
}

pub(super) fn ranges(value: Value) -> Result<Vec<Range>, String> {
    let found = text(value)?;
    let wanted = found.split(',').map(str::trim).filter(|range| !range.is_empty());
    let ranges = wanted.map(|range| {
        Range::parse(range).ok_or_else(|| {
            format!("expected address ranges separated by commas, such as 10.0.0.0/8 or fd00::/8, found {range:?}")
        })
    });
    let ranges = ranges.collect::<Result<Vec<_>, _>>()?;
    match ranges.len() {
        0..=Range::MOST_OF_ONE => Ok(ranges),
        n => Err(format!("expected at most {} address ranges, found {n}", Range::MOST_OF_ONE)),
    }
}

pub(super) fn ports(value: Value) -> Result<Vec<u16>, String> {
    const MOST: usize = agent_common::dns::PORTS_LEN;
    let found = text(value)?;
    let parsed: Option<Vec<u16>> = found.split(',').map(|port| port.trim().parse().ok().filter(|port| *port > 0)).collect();
    let mut ports =
        parsed.ok_or_else(|| format!("expected ports separated by commas, such as 53 or 53,5353, found {found:?}"))?;
    ports.sort_unstable();
    ports.dedup();
    if ports.len() > MOST { Err(format!("expected at most {MOST} ports, found {}", ports.len())) } else { Ok(ports) }
}

pub(super) fn duration(value: Value, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    let found = text(value)?;
    let expected = |text: &str| {
        let (from, to) = (humantime::format_duration(*range.start()), humantime::format_duration(*range.end()));
        format!("expected a duration with its unit, such as 15s or 500ms, from {from} to {to}, found {text:?}")
    };
    let duration = humantime::parse_duration(found.trim()).ok().filter(|duration| range.contains(duration));
    duration.ok_or_else(|| expected(&found))
}

/// Words separated by commas, each once.
pub(super) fn words(value: Value) -> Result<Vec<String>, String> {
    let mut words: Vec<String> = Vec::new();
    for word in text(value)?.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        if !words.iter().any(|known| known == word) {
            words.push(word.to_owned());
        }
    }
    Ok(words)
}

/// CPUs as the kernel lists them; none for an empty text.
pub(super) fn cpus(value: Value) -> Result<Vec<RangeInclusive<u32>>, String> {
    let list = text(value)?;
    if list.trim().is_empty() {
        return Ok(Vec::new());
    }
    cpu_list::parse(&list).ok_or_else(|| format!("expected a list of CPUs such as 2-5,8, found {list:?}"))
}

pub(super) fn absolute(value: Value) -> Result<PathBuf, String> {
    let path = PathBuf::from(filled(value)?);
    if path.is_absolute() { Ok(path) } else { Err(format!("expected a path that starts with /, found {path:?}")) }
}

/// A map from a file, or text as OTEL_RESOURCE_ATTRIBUTES has it: pairs by comma, names and values percent-encoded.
pub(super) fn pairs(value: Value) -> Result<Vec<(String, String)>, String> {
    let text = match value {
        Value::Pairs(pairs) => return Ok(pairs),
        other => text(other)?,
    };
    // These errors hold nothing of the text: it may be a secret.
    let decoded = |part: &str, which: usize| {
        let text = percent_decode_str(part.trim()).decode_utf8();
        text.map(String::from).map_err(|_| format!("pair {which} is not UTF-8 when percent-decoded"))
    };
    let pair = |(i, pair): (usize, &str)| {
        let (name, value) = pair.split_once('=').ok_or_else(|| format!("expected name=value, found no = in pair {}", i + 1))?;
        Ok((decoded(name, i + 1)?, decoded(value, i + 1)?))
    };
    text.split(',').enumerate().filter(|(_, pair)| !pair.trim().is_empty()).map(pair).collect()
}

/// The URL, without spaces around, if it is one that OTLP can be sent to.
pub(super) fn checked_url(url: String) -> Result<String, String> {
    let expected = |what: &str| {
        format!("expected a URL such as http://localhost:4317, https://collector.example:4318 or unix:///run/otel.sock{what}")
    };
    if socket(&url).is_some() {
        return Ok(url.trim().to_owned());
    }
    let uri: Uri = url.trim().parse().map_err(|error| format!("{}: {error}", expected("")))?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(authority)) if authority.as_str().contains('@') => {
            Err(expected(", without a user or password: those go into export.headers"))
        }
        // `http` parses "host:" and "host:99999" to no port at all.
        (Some("http" | "https"), Some(all)) if all.port_u16().is_none() && all.as_str() != all.host() => {
            Err(expected(&format!(", its port from 1 to 65535, found {}", shown(&url))))
        }
        (Some("http" | "https"), Some(authority)) if !authority.host().is_empty() => Ok(url.trim().to_owned()),
        _ => Err(expected(&format!(", found {}", shown(&url)))),
    }
}

/// Headers, their names in lower case.
pub(super) fn headers(value: Value) -> Result<BTreeMap<String, String>, String> {
    let mut headers = BTreeMap::new();
    for (i, (name, value)) in pairs(value)?.into_iter().enumerate() {
        // Who writes `authorization: Bearer secret` where name=value is expected has the secret in the name.
        HeaderName::from_str(&name).map_err(|_| {
            format!("the name of header {} has characters that HTTP forbids: write name=value, or a map in the file", i + 1)
        })?;
        HeaderValue::from_str(&value).map_err(|_| format!("the value of header {} has characters that HTTP forbids", i + 1))?;
        headers.insert(name.to_ascii_lowercase(), value);
    }
    Ok(headers)
}

/// A duration that one request may take.
pub(super) fn timeout(value: Value) -> Result<Duration, String> {
    duration(value, Duration::from_millis(1)..=Duration::from_secs(300))
}

/// A file that was named.
pub(super) fn file(value: Value) -> Result<Option<PathBuf>, String> {
    Ok(Some(filled(value)?.into()))
}
