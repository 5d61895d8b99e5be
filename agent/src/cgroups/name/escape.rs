//! Names of directories as text, and systemd's escapes (pure).

/// A name or path as text. What is not UTF-8 is written as `\xNN`, as systemd does: two names that differ only there stay two.
pub fn readable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

/// Replaces systemd's `\xNN` by the byte it stands for (`systemd-escape --unescape`, without its `-` for `/`: people call units
/// by the name that `systemctl` shows). What is no escape stays as it is.
pub fn unescape(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        match *rest {
            [b'\\', b'x', high, low, ref after @ ..] if let (Some(high), Some(low)) = (digit(high), digit(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = after;
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
