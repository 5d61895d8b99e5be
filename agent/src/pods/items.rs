//! A list's JSON -> its items, one by one, as the bytes come in (pure): a list of a node's pods can be many MiB, and never has to
//! be in memory whole.
//!
//! Only as much of JSON is understood as is needed to find the ends of values: strings, brackets, and the keys of the outermost
//! object. Whether an item or the rest is valid is checked where it is parsed.

/// No object is longer: etcd takes 1.5 MiB, which JSON makes a few times more of.
pub const LONGEST: usize = 8 << 20;

/// The list without its items is its kind and its version.
const LONGEST_REST: usize = 64 << 10;

/// Why a list cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedList {
    /// Brackets that do not match, or none at all.
    #[error("it is not a list in JSON")]
    NotAList,
    /// Too much beside the items.
    #[error("it has more than {LONGEST_REST} bytes besides its items")]
    TooLong,
}

/// What is found one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListItem<'a> {
    /// An item's text.
    Text(&'a str),
    /// One that is longer than [`LONGEST`], or no UTF-8.
    Unreadable,
}

/// A list that is coming in.
#[derive(Debug, Default)]
pub struct ListItems {
    /// Brackets that are open.
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// The last string of the outermost object, and whether it was a key.
    last_string: Vec<u8>,
    is_items: bool,
    /// Between the brackets of `items`.
    inside: bool,
    item: Vec<u8>,
    /// The item is too long: its bytes are not kept.
    overflown: bool,
    /// Everything but the items.
    rest: Vec<u8>,
}

impl ListItems {
    /// Takes the next bytes, and gives out the items that end among them.
    ///
    /// # Errors
    /// When this is no list.
    pub fn push(&mut self, bytes: &[u8], mut found: impl FnMut(ListItem<'_>)) -> Result<(), MalformedList> {
        for byte in bytes {
            self.step(*byte, &mut found)?;
        }
        Ok(())
    }

    /// The list without its items, when all has come.
    ///
    /// # Errors
    /// When the end is missing.
    pub fn finish(self) -> Result<Vec<u8>, MalformedList> {
        if self.depth == 0 && !self.in_string && !self.rest.is_empty() { Ok(self.rest) } else { Err(MalformedList::NotAList) }
    }

    fn step(&mut self, byte: u8, found: &mut impl FnMut(ListItem<'_>)) -> Result<(), MalformedList> {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ if self.depth == 1 && self.last_string.len() <= LONGEST_REST => self.last_string.push(byte),
                _ => {}
            }
            return self.keep(byte);
        }
        match byte {
            b'"' => {
                self.in_string = true;
                if self.depth == 1 {
                    self.last_string.clear();
                }
            }
            b'{' | b'[' => {
                self.depth += 1;
                if self.depth == 2 && byte == b'[' && self.is_items {
                    self.inside = true;
                    return self.keep_rest(byte);
                }
            }
            b'}' | b']' => {
                self.depth = self.depth.checked_sub(1).ok_or(MalformedList::NotAList)?;
                if self.inside && self.depth == 1 {
                    self.end_of_item(found);
                    self.inside = false;
                }
            }
            b':' if self.depth == 1 => self.is_items = self.last_string == b"items",
            b',' if self.depth == 1 => self.is_items = false,
            b',' if self.inside && self.depth == 2 => {
                self.end_of_item(found);
                return Ok(());
            }
            _ => {}
        }
        self.keep(byte)
    }

    fn keep(&mut self, byte: u8) -> Result<(), MalformedList> {
        if !self.inside {
            return self.keep_rest(byte);
        }
        if self.item.len() >= LONGEST {
            self.overflown = true;
        } else if !(self.item.is_empty() && byte.is_ascii_whitespace()) {
            self.item.push(byte);
        }
        Ok(())
    }

    fn keep_rest(&mut self, byte: u8) -> Result<(), MalformedList> {
        if self.rest.len() >= LONGEST_REST {
            return Err(MalformedList::TooLong);
        }
        self.rest.push(byte);
        Ok(())
    }

    fn end_of_item(&mut self, found: &mut impl FnMut(ListItem<'_>)) {
        if !self.item.is_empty() {
            let text = std::str::from_utf8(&self.item).ok().filter(|_| !self.overflown);
            found(text.map_or(ListItem::Unreadable, ListItem::Text));
        }
        self.item.clear();
        self.overflown = false;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The items and the rest of a text that comes in pieces of this size.
    fn cut(text: &[u8], piece: usize) -> Result<(Vec<String>, String), MalformedList> {
        let mut items = ListItems::default();
        let mut found = Vec::new();
        for bytes in text.chunks(piece) {
            items.push(bytes, |item| {
                found.push(match item {
                    ListItem::Text(text) => text.to_owned(),
                    ListItem::Unreadable => "unreadable".to_owned(),
                });
            })?;
        }
        Ok((found, String::from_utf8_lossy(&items.finish()?).into_owned()))
    }

    #[test]
    fn items_are_found_wherever_the_bytes_are_cut() {
        let text = br#"{"kind":"PodList","note":"items\":[","metadata":{"items":[1],"resourceVersion":"7"}, "items" : [ {"a":"}],\\\""} ,{"b":[{}]}
            ],"after":["items"]}"#;
        for piece in 1..text.len() {
            let (items, rest) = cut(text, piece).unwrap();
            let trimmed: Vec<&str> = items.iter().map(|item| item.trim()).collect();
            assert_eq!(trimmed, [r#"{"a":"}],\\\""}"#, r#"{"b":[{}]}"#]);
            let rest: serde_json::Value = serde_json::from_str(&rest).unwrap();
            assert_eq!((&rest["metadata"]["resourceVersion"], &rest["items"]), (&"7".into(), &serde_json::json!([])));
        }
    }

    #[test]
    fn a_list_may_be_empty_or_null_and_nothing_else_is_a_list() {
        for empty in [r#"{"items":[]}"#, r#"{"items":null}"#, r#"{"items":[ ]}"#, "{}"] {
            assert_eq!(cut(empty.as_bytes(), 3).unwrap().0, [""; 0], "{empty}");
        }
        for wrong in ["", "}", r#"{"items":[{}"#, r#"{"items":[{}]"#, r#"{"items"#] {
            assert_eq!(cut(wrong.as_bytes(), 3), Err(MalformedList::NotAList), "{wrong:?}");
        }
    }

    #[test]
    fn no_more_is_kept_than_one_object_and_a_little() {
        let mut items = ListItems::default();
        let mut found = Vec::new();
        let mut push = |bytes: &[u8]| items.push(bytes, |item| found.push(item == ListItem::Unreadable));
        push(br#"{"items":[{"a":""#).unwrap();
        for _ in 0..20 {
            push(&[b'x'; 1 << 20]).unwrap();
        }
        push(br#""},{"b":1}]}"#).unwrap();
        assert!(items.item.capacity() <= 2 * LONGEST);
        assert_eq!(found, [true, false], "too long, and the next one is well");
        let page = b"<html>".repeat(LONGEST_REST);
        assert_eq!(ListItems::default().push(&page, |_| ()), Err(MalformedList::TooLong));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(prop::sample::select(&b"{}[]\",:\\items \xff1"[..]), 0..200)) {
            let _ = cut(&bytes, 7);
        }

        #[test]
        fn what_serde_reads_is_what_is_found(values in prop::collection::vec("[a-z\"\\\\\\[\\]{},:é]{0,20}", 0..8), piece in 1usize..40) {
            let list = serde_json::json!({"metadata": {"resourceVersion": "1"}, "items": values});
            let (items, _) = cut(list.to_string().as_bytes(), piece).unwrap();
            let read: Vec<String> = items.iter().map(|item| serde_json::from_str(item).unwrap()).collect();
            prop_assert_eq!(read, values);
        }
    }
}
