//! The configuration file -> values by key, each with its line.
//!
//! Read from the parser's events and not by serde: a value keeps the text that was written (`1.10` stays `1.10`), and every
//! error knows the key and the line. Checking values is the keys' business.

use std::collections::BTreeMap;
use std::path::Path;

use granit_parser::{Event, Parser, ScalarStyle, Span, StrInput};

use super::{ConfigError, KEYS, Key, Origin, Value, key, receiver_name};

/// What a file sets, by key. A further receiver is in it by its name, without a value, beside its keys.
pub(super) type Settings = BTreeMap<String, (Value, Origin)>;

/// Reads the text of the file at `path`.
pub(super) fn read(path: &Path, text: &str) -> Result<Settings, ConfigError> {
    let mut reader = Reader { path, events: Parser::new_from_str(text), settings: Settings::new() };
    let mut documents = 0;
    loop {
        match reader.next()? {
            (Event::StreamEnd, _) => return Ok(reader.settings),
            (Event::DocumentStart(..), span) => {
                documents += 1;
                if documents > 1 {
                    return Err(reader.error(span, "there is a second YAML document; podmeter reads one"));
                }
            }
            (Event::MappingStart(..), _) => reader.section("")?,
            (Event::Scalar(text, style, ..), _) if is_null(&text, style) => {}
            (Event::StreamStart | Event::DocumentEnd, _) => {}
            (_, span) => return Err(reader.error(span, "expected keys with values, such as \"interval: 15s\"")),
        }
    }
}

/// Whether a value is left out: then the default holds.
fn is_null(text: &str, style: ScalarStyle) -> bool {
    style == ScalarStyle::Plain && matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// The key of this name; of a further receiver's, that of `export` which it is like.
fn key_of(name: &str) -> Option<&'static Key> {
    key::of_receiver(name).or_else(|| KEYS.iter().find(|key| key.name == name))
}

struct Reader<'a> {
    path: &'a Path,
    events: Parser<'a, StrInput<'a>>,
    settings: Settings,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), ConfigError> {
        loop {
            match self.events.next() {
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok(event)) => return Ok(event),
                Some(Err(error)) => {
                    let (path, line) = (self.path.to_owned(), error.marker().line());
                    return Err(ConfigError::Yaml { path, line, why: error.info().to_string() });
                }
                None => return Ok((Event::StreamEnd, Span::default())),
            }
        }
    }

    fn error(&self, span: Span, why: &str) -> ConfigError {
        ConfigError::Yaml { path: self.path.to_owned(), line: span.start.line(), why: why.to_owned() }
    }

    /// Reads the keys below `prefix`. Only a section that has keys is entered, so this is never deep.
    fn section(&mut self, prefix: &str) -> Result<(), ConfigError> {
        loop {
            let (name, span) = match self.next()? {
                (Event::MappingEnd, _) => return Ok(()),
                (Event::Scalar(name, ..), span) => (format!("{prefix}{name}"), span),
                (_, span) => return Err(self.error(span, "expected the name of a key")),
            };
            let origin = Origin::File { path: self.path.to_owned(), line: span.start.line() };
            let invalid = |why: &str| ConfigError::Invalid { key: name.clone(), origin: origin.clone(), why: why.to_owned() };
            let inner = format!("{name}.");
            let (event, _) = self.next()?;
            let receiver = receiver_name::name(&name);
            if receiver.is_some() || name == receiver_name::SECTION || KEYS.iter().any(|key| key.name.starts_with(&inner)) {
                if let Some(receiver) = receiver {
                    receiver_name::check_name(receiver).map_err(|why| invalid(&why))?;
                    if self.settings.insert(name.clone(), (Value::Pairs(Vec::new()), origin.clone())).is_some() {
                        return Err(invalid("is set twice"));
                    }
                }
                match event {
                    Event::MappingStart(..) => self.section(&inner)?,
                    Event::Scalar(text, style, ..) if is_null(&text, style) => {}
                    _ => return Err(invalid("expected the keys of this section, indented below it")),
                }
                continue;
            }
            if key_of(&name).is_none() {
                return Err(ConfigError::Unknown { key: name, origin });
            }
            let value = match event {
                Event::Scalar(text, style, ..) if is_null(&text, style) => continue,
                Event::Scalar(text, ..) => Value::Text(text.into_owned()),
                Event::MappingStart(..) => Value::Pairs(self.pairs(&name)?),
                Event::Alias(..) => return Err(invalid("YAML aliases are not supported")),
                _ => return Err(invalid("expected one value, found a list")),
            };
            if self.settings.contains_key(&name) {
                return Err(invalid("is set twice"));
            }
            self.settings.insert(name, (value, origin));
        }
    }

    /// Reads a map of strings.
    fn pairs(&mut self, key: &str) -> Result<Vec<(String, String)>, ConfigError> {
        let mut pairs = Vec::new();
        loop {
            let (name, span) = match self.next()? {
                (Event::MappingEnd, _) => return Ok(pairs),
                (Event::Scalar(name, ..), span) => (name.into_owned(), span),
                (_, span) => return Err(self.error(span, "expected the name of a key")),
            };
            let (value, _) = self.next()?;
            let why = match value {
                _ if pairs.iter().any(|(other, _)| *other == name) => "is set twice",
                Event::Scalar(text, style, ..) if is_null(&text, style) => continue,
                Event::Scalar(text, ..) => {
                    pairs.push((name, text.into_owned()));
                    continue;
                }
                _ => "expected one value",
            };
            let origin = Origin::File { path: self.path.to_owned(), line: span.start.line() };
            return Err(ConfigError::Invalid { key: format!("{key}.{name}"), origin, why: why.to_owned() });
        }
    }
}
