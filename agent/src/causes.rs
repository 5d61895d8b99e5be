//! An error and its causes, as people read them.

use std::error::Error;

/// An error, what caused it, and so on. An `io::Error` does not count what it merely wraps among its sources; here it does.
pub fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<std::io::Error>().and_then(|e| e.get_ref()) {
        Some(inner) => Some(inner as &(dyn Error + 'static)),
        None => error.source(),
    })
}

/// An error and its causes, joined by colons; what was said already is not repeated.
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
}
