//! Which proxy leads to an address, by the variables that everybody knows: HTTPS_PROXY for https, HTTP_PROXY for http, ALL_PROXY
//! for both, NO_PROXY for what needs none; in upper or lower case, as Go's programs read them.

use std::{fmt, net::IpAddr, sync::Arc};

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use rustls::ClientConfig;

use crate::{config::Proxies, url::shown};

/// A variable that names a proxy that cannot be used. Its value, which may have a password, is not shown.
#[derive(Debug, thiserror::Error)]
#[error("could not use the proxy that {name} gives for {address}: {why} (its value is not shown)")]
pub struct ProxyError {
    name: String,
    address: String,
    why: String,
}

/// How a proxy is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP.
    Http,
    /// HTTP in TLS.
    Https,
    /// SOCKS 5.
    Socks {
        /// Whether names are looked up here, not by the proxy.
        names_here: bool,
    },
}

/// A proxy.
#[derive(Clone)]
pub struct Proxy {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// Where it is, without credentials.
    pub uri: Uri,
    /// Credentials for HTTP.
    pub basic: Option<HeaderValue>,
    /// Credentials for SOCKS.
    pub login: Option<(String, String)>,
    /// For a proxy in TLS.
    pub tls: Option<Arc<ClientConfig>>,
    /// Who named it.
    name: String,
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", shown(self.uri.to_string().trim_end_matches('/')), self.name)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The proxy that leads to an address by the environment; `None` when it is reached directly.
///
/// # Errors
/// When there is one that cannot be used.
pub fn from_environment(proxies: &Proxies, to: &Uri) -> Result<Option<Proxy>, ProxyError> {
    let of_scheme = if to.scheme_str() == Some("https") { &proxies.https } else { &proxies.http };
    let Some((name, url)) = of_scheme.as_ref().or(proxies.all.as_ref()) else { return Ok(None) };
    if is_here(to) || proxies.none.as_ref().is_some_and(|(_, list)| needs_none(list, to)) {
        return Ok(None);
    }
    named(name, url, to).map(Some)
}

/// The proxy of this URL, which `name` gives.
///
/// # Errors
/// When it cannot be used.
pub fn named(name: &str, url: &str, to: &Uri) -> Result<Proxy, ProxyError> {
    let wrong = |why: &str| ProxyError { name: name.to_owned(), address: shown(&to.to_string()), why: why.to_owned() };
    const EXPECTED: &str = "give a URL such as http://proxy.example:3128, https:// or socks5://";
    let found = Matcher::builder().all(url.trim().to_owned()).build().intercept(to).ok_or_else(|| wrong(EXPECTED))?;
    let scheme = match found.uri().scheme_str() {
        Some("http") => Scheme::Http,
        Some("https") => Scheme::Https,
        Some("socks5") => Scheme::Socks { names_here: true },
        Some("socks5h") => Scheme::Socks { names_here: false },
        _ => return Err(wrong(EXPECTED)),
    };
    let after_host = found.uri().authority().and_then(|all| all.as_str().strip_prefix(all.host())).unwrap_or_default();
    if found.uri().host().unwrap_or_default().is_empty() || (!after_host.is_empty() && found.uri().port_u16().is_none()) {
        return Err(wrong(EXPECTED));
    }
    let mut uri = found.uri().clone();
    if matches!(scheme, Scheme::Socks { .. }) && uri.port().is_none() {
        uri = format!("socks5://{}:1080/", uri.host().unwrap_or_default()).parse().map_err(|_| wrong(EXPECTED))?;
    }
    let login = found.raw_auth().map(|(user, password)| (user.to_owned(), password.to_owned()));
    let tls = match scheme {
        Scheme::Https => Some(Arc::new(system_tls().map_err(|why| wrong(&why))?)),
        _ => None,
    };
    Ok(Proxy { scheme, uri, basic: found.basic_auth().cloned(), login, tls, name: name.to_owned() })
}

/// TLS to a proxy, checked by the authorities that the host trusts.
fn system_tls() -> Result<ClientConfig, String> {
    let mut roots = rustls::RootCertStore::empty();
    if roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs).0 == 0 {
        return Err("the host has no certificate authorities to check its certificate by: install ca-certificates".to_owned());
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Whether the address is this host's own: no proxy knows the way there. Go's programs leave them out too.
fn is_here(to: &Uri) -> bool {
    let host = to.host().unwrap_or_default().trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether NO_PROXY has the address. An entry is a host with all below it, an address, a range, or `*`; where it has a port,
/// it is for that port only.
fn needs_none(list: &str, to: &Uri) -> bool {
    let port = to.port_u16().unwrap_or(if to.scheme_str() == Some("https") { 443 } else { 80 });
    let entries = list.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).filter_map(|entry| {
        let (host, of_port) = match entry.rsplit_once(':') {
            // An IPv6 address has more colons, or brackets.
            Some((host, digits)) if !host.contains(':') || host.ends_with(']') => (host, digits.parse().ok()),
            _ => (entry, None),
        };
        let host = host.trim_matches(['[', ']']);
        of_port
            .is_none_or(|of_port: u16| of_port == port)
            .then(|| host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host))
    });
    let list = entries.collect::<Vec<_>>().join(",");
    Matcher::builder().all("http://proxy").no(list).build().intercept(to).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::read(&|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    fn leads(variables: &[(&str, &str)], to: &str) -> Option<String> {
        let to = to.parse().expect("a URL");
        from_environment(&proxies(variables), &to).expect("usable").map(|proxy| proxy.uri.to_string())
    }

    #[test]
    fn the_scheme_chooses_the_variable_in_either_case() {
        let a = "http://a:1/";
        for (variables, to, want) in [
            (&[][..], "https://x", None),
            (&[("HTTPS_PROXY", "http://a:1")], "https://x", Some(a)),
            (&[("HTTPS_PROXY", "http://a:1")], "http://x", None),
            (&[("https_proxy", "http://a:1")], "https://x", Some(a)),
            (&[("HTTPS_PROXY", "a:1")], "https://x", Some(a)),
            (&[("HTTPS_PROXY", ""), ("https_proxy", "http://a:1")], "https://x", Some(a)),
            (&[("HTTP_PROXY", "http://a:1"), ("HTTPS_PROXY", "http://b:2")], "http://x", Some(a)),
            (&[("http_proxy", "http://a:1")], "http://x:4318/v1/metrics", Some(a)),
            (&[("ALL_PROXY", "http://a:1"), ("HTTP_PROXY", "http://b:2")], "https://x", Some(a)),
            (&[("all_proxy", "http://a:1")], "http://x", Some(a)),
            (&[("ALL_PROXY", "socks5://a")], "http://x", Some("socks5://a:1080/")),
            (&[("HTTPS_PROXY", "http://me:hunter2@a:1")], "https://x", Some(a)),
        ] {
            assert_eq!(leads(variables, to).as_deref(), want, "{variables:?} {to}");
        }
    }

    #[test]
    fn no_proxy_has_hosts_with_what_is_below_them_addresses_ranges_and_ports() {
        for (list, to, direct) in [
            ("example.com", "https://example.com", true),
            ("example.com", "https://otel.example.com", true),
            (".example.com", "https://otel.example.com", true),
            ("*.example.com", "https://otel.example.com", true),
            ("example.com", "https://notexample.com", false),
            (".svc,.cluster.local", "http://collector.observability.svc:4317", true),
            (".svc,.cluster.local", "http://collector.observability:4317", false),
            ("10.0.0.0/8", "https://10.96.0.1", true),
            ("10.0.0.0/8", "https://11.0.0.1", false),
            ("fd00::/8,", "https://[fd00::1]:6443", true),
            ("fd00::1", "https://[fd00::1]:6443", true),
            ("[fd00::1]:6443", "https://[fd00::1]:6443", true),
            ("[fd00::1]:6443", "https://[fd00::1]:4317", false),
            ("192.0.2.7", "http://192.0.2.7:4317", true),
            ("collector:4317", "http://collector:4317", true),
            ("collector:4317", "http://collector:4318", false),
            ("collector:443", "https://collector", true),
            (" a , collector ", "https://collector", true),
            ("a collector", "https://collector", true),
            (",,", "https://collector", false),
            ("*", "https://collector", true),
            ("EXAMPLE.com", "https://example.COM", true),
        ] {
            let variables = [("ALL_PROXY", "http://proxy:3128"), ("NO_PROXY", list)];
            assert_eq!(leads(&variables, to).is_none(), direct, "{list:?} {to}");
            assert_eq!(leads(&[variables[0], ("no_proxy", list)], to).is_none(), direct, "{list:?} {to}");
        }
    }

    #[test]
    fn this_host_is_reached_without_a_proxy() {
        for to in ["http://localhost:4317", "http://127.0.0.1:4317", "http://127.9.9.9", "https://[::1]:6443"] {
            assert_eq!(leads(&[("ALL_PROXY", "http://proxy:3128")], to), None, "{to}");
        }
    }

    #[test]
    fn credentials_are_used_and_never_shown() {
        let to = "https://x".parse().expect("a URL");
        let http = proxies(&[("HTTPS_PROXY", "http://me:hunt%40er2@a:1")]);
        let proxy = from_environment(&http, &to).expect("usable").expect("a proxy");
        assert_eq!(proxy.basic.as_ref().expect("credentials"), "Basic bWU6aHVudEBlcjI=");
        assert_eq!(proxy.to_string(), "http://a:1 (HTTPS_PROXY)");
        let socks = proxies(&[("all_proxy", "socks5h://me:hunter2@a:1")]);
        let proxy = from_environment(&socks, &to).expect("usable").expect("a proxy");
        assert_eq!(proxy.login, Some(("me".to_owned(), "hunter2".to_owned())));
        assert_eq!(proxy.scheme, Scheme::Socks { names_here: false });
        assert!(!format!("{http:?} {socks:?} {proxy:?}").contains("hunt"), "{http:?} {socks:?} {proxy:?}");
    }

    #[test]
    fn a_proxy_nobody_can_use_is_an_error_that_names_the_variable_and_shows_no_secret() {
        let to = "https://collector:4317".parse().expect("a URL");
        for value in ["ftp://me:hunter2@a", "socks4://me:hunter2@a", "me hunter2", "http://me:hunter2@", "http://a:hunter2"] {
            let error = from_environment(&proxies(&[("https_proxy", value)]), &to).expect_err(value).to_string();
            assert!(error.contains("https_proxy") && !error.contains("hunter2"), "{error}");
        }
        // One that is not needed is not checked.
        assert_eq!(leads(&[("HTTP_PROXY", "ftp://a")], "https://x"), None);
    }
}
