//! Messages of protobuf as bytes (pure): written field by field behind each other, and read, without an object for each.

use prost::encoding::{self, WireType};

/// Writes text, bytes or a message that is whole already.
pub fn bytes(field: u32, value: &[u8], out: &mut Vec<u8>) {
    head(field, value.len(), out);
    out.extend_from_slice(value);
}

/// Writes what stands before `len` bytes of a field.
pub fn head(field: u32, len: usize, out: &mut Vec<u8>) {
    encoding::encode_key(field, WireType::LengthDelimited, out);
    encoding::encode_varint(len as u64, out);
}

/// Bytes of a field with `len` bytes in it.
pub fn len(field: u32, len: usize) -> usize {
    encoding::key_len(field) + encoding::encoded_len_varint(len as u64) + len
}

/// Writes a message whose fields `write` writes.
pub fn message(field: u32, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    encoding::encode_key(field, WireType::LengthDelimited, out);
    let at = out.len();
    // Most are shorter than 128 bytes, so that their length takes one.
    out.push(0);
    write(out);
    let len = out.len() - at - 1;
    if len < 0x80 {
        out[at] = len as u8;
        return;
    }
    let more = encoding::encoded_len_varint(len as u64) - 1;
    out.extend_from_slice(&[0; 10][..more]);
    out.copy_within(at + 1..at + 1 + len, at + 1 + more);
    encoding::encode_varint(len as u64, &mut &mut out[at..=at + more]);
}

/// The fields of a message that have a length, each with its number, its bytes and where it ends; the others are passed over.
/// Ends where the message is no protobuf.
pub fn fields(message: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        loop {
            if rest.is_empty() {
                return None;
            }
            let (number, wire_type) = encoding::decode_key(&mut rest).ok()?;
            if wire_type != WireType::LengthDelimited {
                encoding::skip_field(wire_type, number, &mut rest, encoding::DecodeContext::default()).ok()?;
                continue;
            }
            let len = usize::try_from(encoding::decode_varint(&mut rest).ok()?).ok()?;
            let (value, behind) = rest.split_at_checked(len)?;
            rest = behind;
            return Some(Field { number, value, end: message.len() - rest.len() });
        }
    })
}

/// A field that has a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its number in its message.
    pub number: u32,
    /// Its bytes.
    pub value: &'a [u8],
    /// Where the next field begins in the message.
    pub end: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_any_length_is_what_was_written_into_it() {
        for len in [0, 1, 127, 128, 129, 16_383, 16_384, 3_000_000] {
            let text = vec![b'x'; len];
            let (mut nested, mut whole) = (b"before".to_vec(), b"before".to_vec());
            message(17, &mut nested, |out| out.extend_from_slice(&text));
            bytes(17, &text, &mut whole);
            assert!(nested == whole, "{len}");
            assert_eq!(whole.len() - 6, super::len(17, len));
            let fields: Vec<_> = fields(&whole[6..]).collect();
            assert_eq!(fields, [Field { number: 17, value: &text, end: whole.len() - 6 }]);
        }
    }

    #[test]
    fn fields_end_where_a_message_does() {
        let mut out = Vec::new();
        encoding::uint64::encode(1, &300, &mut out);
        bytes(2, b"abc", &mut out);
        encoding::fixed64::encode(3, &1, &mut out);
        bytes(4, b"", &mut out);
        let numbers = |message: &[u8]| -> Vec<u32> { fields(message).map(|field| field.number).collect() };
        assert_eq!(numbers(&out), [2, 4]);
        assert_eq!(numbers(&out[..out.len() - 1]), [2]);
        assert_eq!(numbers(&out[..5]), [] as [u32; 0]);
        assert_eq!(numbers(&[0xff; 20]), [] as [u32; 0]);
    }
}
