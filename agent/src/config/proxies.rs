//! The environment's variables for proxies, as they are.

use std::fmt;

/// The value of each variable that is set, with its name as found. `Debug` shows the names: values have passwords.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For https.
    pub https: Option<(String, String)>,
    /// For http.
    pub http: Option<(String, String)>,
    /// For both.
    pub all: Option<(String, String)>,
    /// Addresses that need none.
    pub none: Option<(String, String)>,
}

impl Proxies {
    /// Reads them. What is set but empty counts as not set.
    pub fn read(env: &dyn Fn(&str) -> Option<String>) -> Self {
        let read = |upper: &str| {
            let names = [upper.to_owned(), upper.to_lowercase()];
            names
                .into_iter()
                .find_map(|name| Some((env(&name).filter(|value| !value.trim().is_empty())?, name)))
                .map(|(v, n)| (n, v))
        };
        Self { https: read("HTTPS_PROXY"), http: read("HTTP_PROXY"), all: read("ALL_PROXY"), none: read("NO_PROXY") }
    }
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = [&self.https, &self.http, &self.all, &self.none].into_iter().flatten().map(|(name, _)| name);
        f.debug_set().entries(set).finish()
    }
}
