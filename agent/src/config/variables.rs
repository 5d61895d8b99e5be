//! Environment variables that look like podmeter's own and are not.
//!
//! A near match of one that is, is a mistake and stops the agent, as an unknown key in the file does. Others may be meant for
//! something else: Kubernetes puts variables such as PODMETER_SERVICE_HOST and PODMETER_PORT_4317_TCP_ADDR into every pod of a
//! namespace with a service `podmeter`.

use super::similar::near;
use super::{ConfigError, KEYS};

/// What all of podmeter's own begin with.
const PREFIX: &str = "PODMETER_";

/// Variables that begin like podmeter's own and are none of them, to be reported.
///
/// # Errors
/// When one of them is nearly one that podmeter has.
pub fn unknown(names: impl IntoIterator<Item = String>) -> Result<Vec<String>, ConfigError> {
    let known: Vec<_> = KEYS.iter().map(super::Key::variable).collect();
    let mut unknown = Vec::new();
    for name in names {
        if !name.starts_with(PREFIX) || known.contains(&name) || is_of_a_service(&name) {
            continue;
        }
        let meant = near(&name[PREFIX.len()..], known.iter().map(|known| &known[PREFIX.len()..]).collect());
        if meant.is_empty() {
            unknown.push(name);
            continue;
        }
        let meant: Vec<_> = meant.into_iter().map(|meant| format!("{PREFIX}{meant}")).collect();
        return Err(ConfigError::Variable { name, meant: meant.join(" or ") });
    }
    unknown.sort_unstable();
    Ok(unknown)
}

/// Whether Kubernetes makes such a variable for a service with a name that begins with `podmeter`.
fn is_of_a_service(name: &str) -> bool {
    let ends_well = |rest: &str| matches!(rest, "" | "_PROTO" | "_PORT" | "_ADDR");
    let of_a_port = |rest: &str| {
        let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| rest.strip_prefix(protocol).is_some_and(ends_well))
    };
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name.match_indices("_PORT_").any(|(at, port)| of_a_port(&name[at + port.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(names: &[&str]) -> Result<Vec<String>, String> {
        unknown(names.iter().map(|name| (*name).to_owned())).map_err(|error| error.to_string())
    }

    #[test]
    fn a_misspelt_variable_is_an_error_that_names_what_was_meant() {
        for (given, meant) in [
            ("PODMETER_EXPORT_ENDPIONT", "PODMETER_EXPORT_ENDPOINT"),
            ("PODMETER_INTERVALL", "PODMETER_INTERVAL"),
            ("PODMETER_NODENAME", "PODMETER_NODE_NAME"),
            ("PODMETER_EXPORT_HEADER", "PODMETER_EXPORT_HEADERS"),
            ("PODMETER_LOG_LEVL", "PODMETER_LOG_LEVEL"),
        ] {
            let error = check(&["PATH", given]).expect_err(given);
            assert_eq!(error, format!("unknown environment variable {given}; did you mean {meant}?"));
        }
    }

    #[test]
    fn what_kubernetes_makes_of_services_is_nobodys_mistake() {
        let names = [
            "PODMETER_SERVICE_HOST",
            "PODMETER_SERVICE_PORT",
            "PODMETER_SERVICE_PORT_OTLP_GRPC",
            "PODMETER_PORT",
            "PODMETER_PORT_4317_TCP",
            "PODMETER_PORT_4317_TCP_PROTO",
            "PODMETER_PORT_4317_TCP_PORT",
            "PODMETER_PORT_4317_TCP_ADDR",
            "PODMETER_EXPORT_SERVICE_HOST",
            "PODMETER_EXPORT_PORT_53_UDP_ADDR",
            "PODMETER_DNS_PORT",
        ];
        assert_eq!(check(&names), Ok(vec![]));
    }

    #[test]
    fn what_is_unlike_every_key_is_reported_and_what_is_known_or_of_others_is_not() {
        let known: Vec<_> = KEYS.iter().map(crate::config::Key::variable).collect();
        let mut names: Vec<_> = known.iter().map(String::as_str).collect();
        names.extend(["PODMETER_COLOUR", "NODE_NAME", "PODMETR_INTERVAL", "HOME"]);
        assert_eq!(check(&names), Ok(vec!["PODMETER_COLOUR".to_owned()]));
    }
}
