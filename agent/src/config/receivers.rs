//! Further receivers: what a file has below `export.also`, by name.
//!
//! Their keys are those of `export` that a destination has, with the same checks and defaults, under names of the user's.

use std::collections::BTreeMap;

use super::draft::Loading;
use super::key::{Key, destination_keys};
use super::{Config, ConfigError, Destination, FurtherReceiver, KEYS, Origin, OtlpService, Proxies, yaml::Settings};

/// The section that has them.
pub(super) const SECTION: &str = "export.also";

/// Why no other source sets one.
pub(super) const IN_FILE_ONLY: &str = "further receivers can be set in the configuration file only";

/// How many there may be: each takes time to send to, and memory.
const MOST: usize = 8;

/// Bytes of the longest name.
const MOST_NAME_BYTES: usize = 40;

/// What messages and metrics call the receiver of `export.endpoint` where there are others.
pub const MAIN_RECEIVER: &str = "main";

/// The part of a name that is below the section.
fn below(name: &str) -> Option<&str> {
    name.strip_prefix(SECTION)?.strip_prefix('.')
}

/// The receiver that a name in the file is of: `team-a` of `export.also.team-a`.
pub(super) fn name(name: &str) -> Option<&str> {
    below(name).filter(|rest| !rest.contains('.'))
}

/// The receiver and its key: `team-a` and `timeout` of `export.also.team-a.timeout`.
pub(super) fn parts(name: &str) -> Option<(&str, &str)> {
    below(name)?.split_once('.').filter(|(receiver, _)| check_name(receiver).is_ok())
}

/// The key of `export` that a key of a receiver is like: `export.timeout` of `export.also.team-a.timeout`.
pub(super) fn key(name: &str) -> Option<&'static Key> {
    let (_, part) = parts(name)?;
    destination_keys().find(|known| *known == part).and_then(of_export)
}

fn of_export(part: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name.strip_prefix("export.") == Some(part))
}

/// Whether a receiver may have this name.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !(1..=MOST_NAME_BYTES).contains(&name.len()) || !name.bytes().all(is_part) {
        return Err(format!("a receiver's name is 1 to {MOST_NAME_BYTES} of the characters a-z, 0-9 and -"));
    }
    if name == MAIN_RECEIVER {
        return Err(format!("{MAIN_RECEIVER} is the name of the receiver of export.endpoint: choose another"));
    }
    Ok(())
}

/// The further receivers that a file sets, by name.
pub(super) fn further(file: &Settings, proxies: &Proxies) -> Result<Vec<FurtherReceiver>, ConfigError> {
    let mut named = BTreeMap::new();
    for (key, (_, origin)) in file {
        if let Some(name) = name(key).or_else(|| Some(parts(key)?.0)) {
            named.entry(name).or_insert(origin);
        }
    }
    if let Some((_, origin)) = named.iter().nth(MOST) {
        let (key, origin) = (SECTION.to_owned(), Origin::clone(origin));
        return Err(ConfigError::Invalid { key, origin, why: format!("expected at most {MOST} further receivers") });
    }
    named.into_iter().map(|(name, origin)| receiver(name, origin, file, proxies)).collect()
}

fn receiver(name: &str, origin: &Origin, file: &Settings, proxies: &Proxies) -> Result<FurtherReceiver, ConfigError> {
    let full = |part: &str| format!("{SECTION}.{name}.{part}");
    if !file.contains_key(&full("endpoint")) {
        let why = "it has no endpoint: give the URL of its OTLP receiver".to_owned();
        return Err(ConfigError::Invalid { key: format!("{SECTION}.{name}"), origin: origin.clone(), why });
    }
    let settled = |service| {
        let (mut draft, mut found_in) = (Loading::new(Config::blank()), Vec::new());
        draft.service = service;
        for part in destination_keys() {
            let Some(key) = of_export(part) else { continue };
            let default = || Some((super::Value::Text(key.default?.to_owned()), Origin::Default));
            let Some((value, origin)) = file.get(&full(part)).cloned().or_else(default) else { continue };
            let invalid = |why| ConfigError::Invalid { key: full(part), origin: origin.clone(), why };
            (key.set)(&mut draft, value).map_err(invalid)?;
            found_in.push((part, origin));
        }
        let sent = std::mem::take(draft.sent());
        let mut destination = Destination { proxies: proxies.clone(), ..sent.destination };
        destination.settle(sent.endpoint, service.path()).map_err(|(part, why)| {
            let found = found_in.into_iter().find(|(other, _)| *other == part);
            ConfigError::Invalid { key: full(part), origin: found.map_or(Origin::Default, |(_, origin)| origin), why }
        })?;
        Ok(destination)
    };
    Ok(FurtherReceiver { name: name.to_owned(), metrics: settled(OtlpService::Metrics)?, logs: settled(OtlpService::Logs)? })
}
