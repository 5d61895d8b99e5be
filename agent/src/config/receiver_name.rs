//! The names of further receivers: `team-a` of `export.also.team-a.timeout` (pure).

/// The section that has them.
pub(super) const SECTION: &str = "export.also";

/// Why no other source sets one.
pub(super) const IN_FILE_ONLY: &str = "further receivers can be set in the configuration file only";

/// Bytes of the longest name.
const MOST_NAME_BYTES: usize = 40;

/// What messages and metrics call the receiver of `export.endpoint` where there are others.
pub const MAIN_RECEIVER: &str = "main";

/// The part of a name that is below the section.
fn below(name: &str) -> Option<&str> {
    name.strip_prefix(SECTION)?.strip_prefix('.')
}

/// The receiver that a name in the file is of: `team-a` of `export.also.team-a`.
pub(super) fn name(name: &str) -> Option<&str> {
    below(name).filter(|rest| !rest.contains('.'))
}

/// The receiver and its key: `team-a` and `timeout` of `export.also.team-a.timeout`.
pub(super) fn parts(name: &str) -> Option<(&str, &str)> {
    below(name)?.split_once('.').filter(|(receiver, _)| check_name(receiver).is_ok())
}

/// Whether a receiver may have this name.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !(1..=MOST_NAME_BYTES).contains(&name.len()) || !name.bytes().all(is_part) {
        return Err(format!("a receiver's name is 1 to {MOST_NAME_BYTES} of the characters a-z, 0-9 and -"));
    }
    if name == MAIN_RECEIVER {
        return Err(format!("{MAIN_RECEIVER} is the name of the receiver of export.endpoint: choose another"));
    }
    Ok(())
}
