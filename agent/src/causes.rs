//! An error and its causes, and other text from elsewhere, as people read them.

use std::error::Error;

/// An error, what caused it, and so on. An `io::Error` does not count what it merely wraps among its sources; here it does.
pub fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<std::io::Error>().and_then(|e| e.get_ref()) {
        Some(inner) => Some(inner as &(dyn Error + 'static)),
        None => error.source(),
    })
}

/// An error and its causes, joined by colons, without repetition.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for error in causes(error) {
        let said = error.to_string();
        if !text.contains(&said) {
            text = if text.is_empty() { said } else { format!("{text}: {said}") };
        }
    }
    text
}

/// Text from elsewhere as it may go into one line of a log: no control characters, at most 300 characters.
pub fn one_line(text: &str) -> String {
    const LONGEST: usize = 300;
    let text = text.trim();
    let mut line: String = text.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.truncate(line.trim_end().len());
    if text.chars().nth(LONGEST).is_some() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("could not open the door")]
    struct Door(#[source] std::io::Error);

    #[test]
    fn causes_are_told_once_each() {
        let inner = std::io::Error::other(rustls::Error::HandshakeNotComplete);
        let outer = Door(std::io::Error::other(inner));
        assert_eq!(chain(&outer), "could not open the door: handshake not complete");
    }

    #[test]
    fn text_from_elsewhere_is_one_line() {
        assert_eq!(one_line(" a\nb\tc\u{1b}[31m "), "a b c [31m");
        assert_eq!(one_line(&"x".repeat(400)).chars().count(), 301);
    }
}
