//! Further receivers: what a file has below `export.also`, by name.
//!
//! Their keys are those of `export` that a destination has, with the same checks and defaults, under names of the user's.

use std::collections::BTreeMap;

use super::draft::Loading;
use super::key::{destination_keys, of_export};
use super::receiver_name::{SECTION, name, parts};
use super::{Config, ConfigError, Destination, FurtherReceiver, Origin, OtlpService, Proxies, yaml::Settings};

/// How many there may be: each takes time to send to, and memory.
const MOST: usize = 8;

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
