//! The headers of every request: from the configuration, and from files that others replace, such as tokens.

use std::path::{Path, PathBuf};

use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use tracing::{info, warn};

use super::{Destination, ExportError};
use crate::files::Watched;

/// Headers, current.
#[derive(Debug)]
pub(super) struct Headers {
    /// Those that do not change.
    fixed: HeaderMap,
    /// With those of the files.
    all: HeaderMap,
    headers_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
    watched: Watched,
    /// Why the files could not be read again, as it was logged.
    logged: Option<String>,
}

impl Headers {
    /// Checks the configured headers and reads the files.
    pub(super) fn new(destination: &Destination) -> Result<Self, ExportError> {
        let mut fixed = HeaderMap::with_capacity(destination.headers.0.len() + 8);
        for (i, (name, value)) in destination.headers.0.iter().enumerate() {
            let wrong = |reason| ExportError::Header { which: i + 1, reason };
            let (name, value) = header(name, value).map_err(wrong)?;
            fixed.insert(name, value);
        }
        fixed.insert(USER_AGENT, HeaderValue::from_static(concat!("podmeter/", env!("CARGO_PKG_VERSION"))));
        let (headers_file, token_file) = (destination.headers_file.clone(), destination.token_file.clone());
        // Before they are read: what changes meanwhile is seen at the next look.
        let watched = Watched::new(headers_file.iter().chain(&token_file).cloned());
        let mut headers = Self { fixed, all: HeaderMap::new(), headers_file, token_file, watched, logged: None };
        headers.all = headers.read()?;
        Ok(headers)
    }

    /// Adds one that every request has.
    pub(super) fn insert(&mut self, name: HeaderName, value: HeaderValue) {
        self.fixed.insert(name.clone(), value.clone());
        self.all.insert(name, value);
    }

    /// The headers of a request that is sent now.
    pub(super) fn current(&mut self) -> HeaderMap {
        if self.watched.changed() {
            self.read_again();
        }
        self.all.clone()
    }

    /// Reads the files again, as the receiver refused what is in the headers; whether they have others now.
    pub(super) fn renewed(&mut self) -> bool {
        if self.headers_file.is_none() && self.token_file.is_none() {
            return false;
        }
        let before = self.all.clone();
        self.watched.changed();
        self.read_again();
        self.all != before
    }

    /// What cannot be read leaves the headers as they were: it may be half written.
    fn read_again(&mut self) {
        match self.read() {
            Ok(all) => {
                if self.logged.take().is_some() {
                    info!("the files with headers of the export can be read again");
                }
                self.all = all;
            }
            Err(error) => {
                let error = error.to_string();
                if self.logged.as_ref() != Some(&error) {
                    warn!("{error}; the headers read before are used meanwhile");
                    self.logged = Some(error);
                }
            }
        }
    }

    fn read(&self) -> Result<HeaderMap, ExportError> {
        let mut all = self.fixed.clone();
        if let Some(path) = &self.headers_file {
            for (name, value) in lines(path, &text(path)?)? {
                all.insert(name, value);
            }
        }
        if let Some(path) = &self.token_file {
            let token = text(path)?;
            let wrong = |reason| ExportError::HeaderFile { path: path.clone(), reason };
            if token.trim().is_empty() {
                return Err(wrong("it is empty".to_owned()));
            }
            let (_, value) = header("authorization", &format!("Bearer {}", token.trim())).map_err(|why| wrong(why.to_owned()))?;
            all.insert(AUTHORIZATION, value);
        }
        Ok(all)
    }
}

fn text(path: &Path) -> Result<String, ExportError> {
    std::fs::read_to_string(path).map_err(|error| ExportError::HeaderFile { path: path.into(), reason: error.to_string() })
}

/// `name: value` in each line; empty lines and those that begin with # are skipped.
fn lines(path: &Path, text: &str) -> Result<Vec<(HeaderName, HeaderValue)>, ExportError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    let read = lines.map(|(i, line)| {
        // These errors hold nothing of the line.
        let wrong = |reason: &str| ExportError::HeaderFile { path: path.into(), reason: format!("line {}: {reason}", i + 1) };
        let (name, value) = line.split_once(':').ok_or_else(|| wrong("expected name: value"))?;
        header(name.trim(), value.trim()).map_err(wrong)
    });
    read.collect()
}

/// A header as HTTP wants it, its value marked as secret.
fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), &'static str> {
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "its name has characters that HTTP does not allow")?;
    let mut value =
        HeaderValue::from_str(value).map_err(|_| "its value has a line break or another character that HTTP does not allow")?;
    value.set_sensitive(true);
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::export::Protocol;
    use crate::export::fixtures::destination;

    fn with(headers: &[(&str, &str)]) -> Destination {
        let mut destination = destination("http://collector:4317", Protocol::Grpc);
        destination.headers.0 = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        destination
    }

    #[test]
    fn a_header_http_does_not_allow_is_an_error_that_shows_neither_its_name_nor_its_value() {
        for (name, value) in [("authorization: Bearer hunter2", "x"), ("", "hunter2"), ("x-token", "hunter2\nx: y")] {
            let destination = with(&[(name, value)]);
            let error = Headers::new(&destination).expect_err(name).to_string();
            assert!(error.contains("header 1") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn header_values_are_hidden_from_debug_output() {
        let destination = with(&[("X-Token", "hunter2")]);
        let mut headers = Headers::new(&destination).expect("headers");
        assert_eq!(headers.current()["x-token"], "hunter2");
        assert!(!format!("{headers:?} {destination:?}").contains("hunter2"));
    }

    #[test]
    fn headers_of_files_are_read_again_when_those_change_and_kept_while_they_are_broken() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, token) = (dir.path().join("headers"), dir.path().join("token"));
        fs::write(&file, "# of the gateway\nX-Scope-OrgID: one\n\nx-key:  a: b \n").expect("a file");
        fs::write(&token, "first\n").expect("a file");
        let mut destination = with(&[("x-scope-orgid", "configured"), ("x-other", "stays")]);
        (destination.headers_file, destination.token_file) = (Some(file.clone()), Some(token.clone()));
        let mut headers = Headers::new(&destination).expect("headers");
        let now = headers.current();
        let got = ["x-scope-orgid", "x-key", "x-other", "authorization"].map(|name| now[name].to_str().expect("text").to_owned());
        assert_eq!(got, ["one", "a: b", "stays", "Bearer first"]);
        assert!(!headers.renewed(), "nothing is new");

        fs::write(&token, "second").expect("a file");
        assert!(headers.renewed());
        assert_eq!(headers.current()["authorization"], "Bearer second");
        for broken in ["", "\n", "a\u{7f}b"] {
            fs::write(&token, broken).expect("a file");
            assert_eq!(headers.current()["authorization"], "Bearer second", "{broken:?}");
        }
        fs::remove_file(&token).expect("a file");
        assert_eq!(headers.current()["authorization"], "Bearer second");
        fs::write(&token, "third").expect("a file");
        fs::write(&file, "x-key: c").expect("a file");
        let now = headers.current();
        assert_eq!(
            (&now["authorization"], &now["x-key"], &now["x-scope-orgid"]),
            (&"Bearer third".parse().expect("a value"), &"c".parse().expect("a value"), &"configured".parse().expect("a value"))
        );
    }

    #[test]
    fn a_file_that_cannot_be_used_at_start_is_an_error_that_names_it_and_its_line_and_shows_nothing_of_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("headers");
        for (text, want) in [("x: y\nBearer hunter2", "line 2: expected name: value"), ("a b: hunter2", "line 1: its name")] {
            fs::write(&file, text).expect("a file");
            let destination = Destination { headers_file: Some(file.clone()), ..with(&[]) };
            let error = Headers::new(&destination).expect_err(text).to_string();
            assert!(error.contains(want) && error.contains("/headers") && !error.contains("hunter2"), "{error}");
        }
        let destination = Destination { token_file: Some(dir.path().join("none")), ..with(&[]) };
        let error = Headers::new(&destination).expect_err("no file").to_string();
        assert!(error.contains("/none: No such file"), "{error}");
    }
}
