//! Addresses as they may be shown: without credentials and without a query, which may hold a key.

use std::path::Path;

use http::Uri;

/// The file of a Unix socket that an address names: `unix:///run/otel.sock`, or `unix:/run/otel.sock` as gRPC has it.
pub fn socket(address: &str) -> Option<&Path> {
    let path = address.trim().strip_prefix("unix:")?;
    Some(Path::new(path.strip_prefix("//").unwrap_or(path))).filter(|path| path.is_absolute())
}

/// What may be shown of what somebody gave as an address. Of text that is no URL, and may be one with a slip of the pen, nothing
/// is shown once it has a character that separates a credential.
pub fn shown(address: &str) -> String {
    let address = address.trim();
    if let Some(path) = socket(address) {
        return format!("unix://{}", path.display());
    }
    let parsed = address.parse::<Uri>().ok().filter(|uri| uri.scheme().is_some() && uri.host().is_some());
    let Some(uri) = parsed else {
        let port = address.split_once(':').map_or("", |(_, rest)| rest.split('/').next().unwrap_or_default());
        let may_hold_a_secret = address.contains(['@', '?', '#', '=', ' ']) || !port.bytes().all(|byte| byte.is_ascii_digit());
        return if may_hold_a_secret {
            "text that is not shown, as it may hold a secret".to_owned()
        } else {
            format!("{address:?}")
        };
    };
    let (scheme, host) = (uri.scheme_str().unwrap_or_default(), uri.host().unwrap_or_default());
    let port = uri.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    // Of an address without a path, `http` makes one with the path /.
    let path = if uri.path() == "/" && !address.ends_with('/') { "" } else { uri.path() };
    format!("{scheme}://{host}{port}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_credentials_and_its_query() {
        for (address, want) in [
            ("http://collector:4317", "http://collector:4317"),
            (" https://10.0.0.1/v1/metrics ", "https://10.0.0.1/v1/metrics"),
            ("http://[::1]:4317/", "http://[::1]:4317/"),
            ("https://me:hunter2@collector:4317/x", "https://collector:4317/x"),
            ("https://otlp.example/a?key=hunter2", "https://otlp.example/a"),
            ("https://otlp.example/a?key=hunter2&mail=a@b", "https://otlp.example/a"),
            ("collector:4317", "\"collector:4317\""),
            (" unix:/run/otel.sock", "unix:///run/otel.sock"),
            ("", "\"\""),
        ] {
            assert_eq!(shown(address), want);
        }
    }

    #[test]
    fn of_text_that_is_no_address_nothing_is_shown_that_may_be_a_secret() {
        for address in [
            "me:hunter2@collector:4317",
            "https://me:hunter2@coll ector:4317",
            "https:/me:hunter2@collector",
            "https://me:hun?ter2@collector",
            "//me:hunter2@collector",
            "collector?key=hunter2",
            "authorization=Bearer hunter2",
            "Bearer hunter2",
            "me:hunter2",
            "http://collector:hunter2",
        ] {
            let shown = shown(address);
            assert!(!shown.contains("hunter2") && !shown.contains("hun?ter2") && !shown.contains("ter2"), "{address}: {shown}");
        }
    }
}
