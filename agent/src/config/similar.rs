//! What was meant by a name that podmeter does not have (pure).

use strsim::damerau_levenshtein;

use super::{KEYS, receiver_name};

/// What was meant by an unknown key, and what there is instead: a near name, one with the same last part, or all of its section.
pub(super) fn similar(key: &str) -> String {
    if let Some((receiver, part)) = receiver_name::parts(key) {
        // A further receiver has the keys that events' has.
        let of_events = similar(&format!("export.logs.{part}"));
        return of_events.replace("export.logs", &format!("{}.{receiver}", receiver_name::SECTION));
    }
    let near = near(key, names());
    let there_are = match key.rsplit_once('.').filter(|(section, _)| is_section(section)) {
        Some((section, _)) => format!("{section} has {}", inside(section).join(", ")),
        None => format!("there are {}", inside("").join(", ")),
    };
    match near.as_slice() {
        [] => format!("; {there_are}"),
        [one] => format!("; did you mean {one}? Else: {there_are}"),
        [others @ .., last] => format!("; did you mean {} or {last}? Else: {there_are}", others.join(", ")),
    }
}

/// Every key and every section.
fn names() -> Vec<&'static str> {
    let sections = KEYS.iter().flat_map(|key| key.name.match_indices('.').map(|(dot, _)| &key.name[..dot]));
    let mut names: Vec<_> = KEYS.iter().map(|key| key.name).chain(sections).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

/// The keys and sections directly in this section, in the order of the reference.
fn inside(section: &str) -> Vec<&'static str> {
    let mut inside = Vec::new();
    for key in KEYS {
        let rest =
            if section.is_empty() { Some(key.name) } else { key.name.strip_prefix(section).and_then(|r| r.strip_prefix('.')) };
        let name = rest.map(|rest| rest.split('.').next().unwrap_or(rest));
        inside.extend(name.filter(|name| !inside.contains(name)));
    }
    inside
}

/// Of these names, those that were likely meant.
pub(super) fn near<'a>(given: &str, names: Vec<&'a str>) -> Vec<&'a str> {
    let plain = |name: &str| name.replace(['-', '_'], "").to_lowercase();
    let last = |name: &str| plain(name.rsplit('.').next().unwrap_or_default());
    let wanted = plain(given);
    // A slip in every fourth letter, of at most three.
    let length = wanted.chars().count();
    let allowed = (length / 4).clamp(1, 3);
    // Its own section is right.
    let others = names.iter().filter(|name| !given.strip_prefix(**name).is_some_and(|rest| rest.starts_with('.')));
    // The distance is no smaller than the difference of the lengths; to find it out takes their product.
    let close = |name: &&&str| plain(name).chars().count().abs_diff(length) <= allowed;
    let distances = others.filter(close).map(|name| (damerau_levenshtein(&wanted, &plain(name)), *name));
    let mut near: Vec<_> = distances.filter(|(distance, _)| *distance <= allowed).collect();
    near.sort_unstable();
    match near.first() {
        Some((best, _)) => near.iter().take_while(|(distance, _)| distance == best).map(|(_, name)| *name).collect(),
        // In another section.
        None => {
            let last_given = last(given);
            names.into_iter().filter(|name| last(name) == last_given).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_what_is_unlike_everything_is_not() {
        for (given, meant) in [
            ("intervall", &["interval"][..]),
            ("intreval", &["interval"]),
            ("exprot", &["export"]),
            ("export.endpint", &["export.endpoint"]),
            ("export.time-out", &["export.timeout"]),
            ("kuberntes.kubeconfig", &["kubernetes.kubeconfig"]),
            ("endpoint", &["export.endpoint", "export.logs.endpoint", "export.traces.endpoint"]),
            ("export.logs_endpoint", &["export.logs.endpoint"]),
            ("openshift", &[]),
            ("export.batch", &[]),
        ] {
            assert_eq!(near(given, names()), meant, "{given}");
        }
    }

    #[test]
    fn what_there_is_instead_is_listed_with_its_sections() {
        let top = similar("openshift");
        for name in ["node_name", "interval", "signals", "kubernetes", "export", "resource"] {
            assert!(top.contains(name), "{top}");
        }
        assert!(!top.contains("did you mean") && !top.contains("endpoint"), "{top}");
        let nested = similar("export.batch");
        assert!(nested.starts_with("; export has exporter, pull, endpoint, protocol,") && nested.contains("logs"), "{nested}");
        assert!(similar("export.logs.x").starts_with("; export.logs has endpoint, protocol"), "{}", similar("export.logs.x"));
        let near = similar("intervall");
        assert!(near.starts_with("; did you mean interval? Else: there are node_name,"), "{near}");
    }
}
