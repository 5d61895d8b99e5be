//! What one resource puts into a request, as bytes (pure).
//!
//! `ResourceMetrics` and `ResourceLogs` have the same fields under the same numbers: a resource, and a scope with its metrics or log
//! records.

use std::borrow::Cow;
use std::ops::Range;

use crate::protobuf::{self, Field};

/// The metrics, or the log records, of one resource at one moment.
#[derive(Debug, Default)]
pub(super) struct Group<'a> {
    /// The message `Resource`.
    pub(super) resource: Cow<'a, [u8]>,
    /// The metrics or records.
    pub(super) items: Vec<Item<'a>>,
    /// Their bytes.
    pub(super) values: Vec<u8>,
}

/// A metric with its points, or a log record.
#[derive(Clone, Debug)]
pub(super) struct Item<'a> {
    /// A metric's name; a record has none.
    pub(super) name: &'a str,
    /// A metric's description.
    pub(super) description: &'a str,
    /// Where the fields behind these are in [`Group::values`].
    pub(super) rest: Range<usize>,
    /// Points, or 1.
    pub(super) count: u64,
}

/// The only field of a request.
const GROUP: u32 = 1;
/// Fields of a group.
const RESOURCE: u32 = 1;
const SCOPE_ITEMS: u32 = 2;
/// Fields of a scope with its items.
const SCOPE: u32 = 1;
const ITEM: u32 = 2;
/// Fields of a metric.
const NAME: u32 = 1;
const DESCRIPTION: u32 = 2;

impl<'a> Item<'a> {
    /// What it has before its other fields: both for the first of its name in a request.
    fn texts(&self, described: bool) -> impl Iterator<Item = (u32, &'a str)> + use<'a> {
        let description = if described { self.description } else { "" };
        [(NAME, self.name), (DESCRIPTION, description)].into_iter().filter(|(_, text)| !text.is_empty())
    }

    fn len(&self, described: bool) -> usize {
        self.rest.len() + self.texts(described).map(|(field, text)| protobuf::len(field, text.len())).sum::<usize>()
    }
}

impl<'a> Group<'a> {
    /// Makes place for another.
    pub(super) fn clear(&mut self) {
        self.resource = Cow::default();
        self.items.clear();
        self.values.clear();
    }

    /// Bytes that these of its items take in a request, those with descriptions for which `described` is true.
    pub(super) fn len(&self, items: &[Item<'a>], described: &[bool]) -> usize {
        let items = items_len(items, described);
        protobuf::len(GROUP, protobuf::len(RESOURCE, self.resource.len()) + protobuf::len(SCOPE_ITEMS, scope_len() + items))
    }

    /// Writes these of its items as a part of a request.
    pub(super) fn write(&self, items: &[Item<'a>], described: &[bool], out: &mut Vec<u8>) {
        let scope_items = scope_len() + items_len(items, described);
        let len = protobuf::len(RESOURCE, self.resource.len()) + protobuf::len(SCOPE_ITEMS, scope_items);
        protobuf::head(GROUP, len, out);
        protobuf::bytes(RESOURCE, &self.resource, out);
        protobuf::head(SCOPE_ITEMS, scope_items, out);
        protobuf::head(SCOPE, scope_texts_len(), out);
        SCOPE_TEXTS.iter().for_each(|(field, text)| protobuf::bytes(*field, text.as_bytes(), out));
        for (item, described) in items.iter().zip(described) {
            protobuf::head(ITEM, item.len(*described), out);
            item.texts(*described).for_each(|(field, text)| protobuf::bytes(field, text.as_bytes(), out));
            out.extend_from_slice(&self.values[item.rest.clone()]);
        }
    }

    /// Its items in parts that take at most `limit` bytes each, with all descriptions, as far as items allow it.
    pub(super) fn parts(&self, limit: usize) -> Vec<&[Item<'a>]> {
        let described = vec![true; self.items.len()];
        if self.len(&self.items, &described) <= limit {
            return vec![&self.items];
        }
        // Lengths of lengths grow by some bytes with what is added.
        const LENGTHS: usize = 16;
        let shell = self.len(&[], &[]) + LENGTHS;
        let (mut parts, mut begin, mut size) = (Vec::new(), 0, shell);
        for (at, item) in self.items.iter().enumerate() {
            let len = protobuf::len(ITEM, item.len(true));
            if size + len > limit && at > begin {
                parts.push(&self.items[begin..at]);
                (begin, size) = (at, shell);
            }
            size += len;
        }
        parts.push(&self.items[begin..]);
        parts
    }

    /// Reads the next group of a request, and takes it away. `metrics`: its items have names, and counts of their own.
    pub(super) fn read(plain: &mut &'a [u8], metrics: bool) -> Option<Self> {
        let field = protobuf::fields(plain).next().filter(|field| field.number == GROUP)?;
        *plain = &plain[field.end..];
        let mut group = Self::default();
        for Field { number, value, .. } in protobuf::fields(field.value) {
            match number {
                RESOURCE => group.resource = Cow::Borrowed(value),
                SCOPE_ITEMS => {
                    let items = protobuf::fields(value).filter(|field| field.number == ITEM);
                    items.for_each(|item| group.read_item(item.value, metrics));
                }
                _ => {}
            }
        }
        Some(group)
    }

    fn read_item(&mut self, message: &'a [u8], metric: bool) {
        let (mut texts, mut behind) = ([""; 2], 0);
        for field in protobuf::fields(message).take_while(|field| metric && [NAME, DESCRIPTION].contains(&field.number)) {
            texts[(field.number - NAME) as usize] = std::str::from_utf8(field.value).unwrap_or_default();
            behind = field.end;
        }
        let rest = &message[behind..];
        // The points are the first field of each kind of data, which is the longest of what follows.
        let data = protobuf::fields(rest).last().map_or(&[][..], |data| data.value);
        let count = if metric { protobuf::fields(data).filter(|field| field.number == 1).count() as u64 } else { 1 };
        let begin = self.values.len();
        self.values.extend_from_slice(rest);
        self.items.push(Item { name: texts[0], description: texts[1], rest: begin..self.values.len(), count });
    }
}

fn items_len(items: &[Item<'_>], described: &[bool]) -> usize {
    items.iter().zip(described).map(|(item, described)| protobuf::len(ITEM, item.len(*described))).sum()
}

/// The scope of everything that podmeter exports: its name and its version.
const SCOPE_TEXTS: [(u32, &str); 2] = [(1, "podmeter"), (2, env!("CARGO_PKG_VERSION"))];

fn scope_texts_len() -> usize {
    SCOPE_TEXTS.iter().map(|(field, text)| protobuf::len(*field, text.len())).sum()
}

fn scope_len() -> usize {
    protobuf::len(SCOPE, scope_texts_len())
}
