//! Resources (pure): the attributes that say what points are about.
//!
//! They are kept as the bytes that go out with every export. A node has some thousand resources of twenty attributes each: as strings
//! they take three times the memory, and have to be encoded each time.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
};

use crate::{cgroups::name::CgroupKind, protobuf};

/// What a set of points is about, as OTLP resource attributes: sorted by key, each key once, at most [`MOST_ATTRIBUTES`].
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Resource {
    /// OTLP's message `Resource`.
    encoded: Box<[u8]>,
    /// Bytes of the longest value.
    longest: usize,
    /// Whether it is a pod: its values may have names of their own.
    is_pod: bool,
    /// Of the bytes: maps have resources for their keys.
    hash: u64,
    /// Attributes there was no room for.
    pub left_out: u64,
}

/// The attribute with the kind of cgroup.
pub const KIND: &str = "podmeter.workload.kind";

/// Attributes that a resource may have. podmeter's own are some twenty; labels and configured attributes make way.
pub const MOST_ATTRIBUTES: usize = 64;

impl Resource {
    /// The field `attributes` of OTLP's message.
    pub const ATTRIBUTES: u32 = 1;

    /// A resource with these attributes, sorted by key. `left_out` had no room.
    pub fn new<K: AsRef<str>, V: AsRef<str>>(attributes: impl IntoIterator<Item = (K, V)>, left_out: u64) -> Self {
        let (mut encoded, mut longest, mut is_pod) = (Vec::with_capacity(1024), 0, false);
        for (key, value) in attributes {
            is_pod |= key.as_ref() == KIND && value.as_ref() == CgroupKind::Pod.as_str();
            write_attribute(Self::ATTRIBUTES, key.as_ref(), value.as_ref(), &mut encoded);
            longest = longest.max(value.as_ref().len());
        }
        let mut hasher = DefaultHasher::new();
        encoded.hash(&mut hasher);
        Self { encoded: encoded.into(), longest, is_pod, hash: hasher.finish(), left_out }
    }

    /// Whether it is a pod.
    pub fn is_pod(&self) -> bool {
        self.is_pod
    }

    /// Its attributes by key.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &str)> {
        protobuf::fields(&self.encoded).filter_map(|attribute| {
            let mut parts = protobuf::fields(attribute.value);
            let (key, value) = (parts.next()?, parts.next()?);
            let text = protobuf::fields(value.value).next()?;
            Some((std::str::from_utf8(key.value).ok()?, std::str::from_utf8(text.value).ok()?))
        })
    }

    /// The value of an attribute.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.attributes().find(|(own, _)| *own == key).map(|(_, value)| value)
    }

    /// OTLP's message `Resource`, if no value in it is longer than `most` bytes.
    pub fn encoded(&self, most: usize) -> Option<&[u8]> {
        Some(&*self.encoded).filter(|_| self.longest <= most)
    }

    /// Takes another's values of these keys.
    pub fn keep(&mut self, keys: &[&str], other: &Self) {
        let kept = |key: &str, value| if keys.contains(&key) { other.get(key).unwrap_or(value) } else { value };
        *self = Self::new(self.attributes().map(|(key, value)| (key, kept(key, value))), self.left_out);
    }
}

impl Hash for Resource {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.attributes()).finish()
    }
}

/// Writes OTLP's message `KeyValue` with a text.
pub fn write_attribute(field: u32, key: &str, value: &str, out: &mut Vec<u8>) {
    let text = protobuf::len(1, value.len());
    protobuf::head(field, protobuf::len(1, key.len()) + protobuf::len(2, text), out);
    protobuf::bytes(1, key.as_bytes(), out);
    protobuf::head(2, text, out);
    protobuf::bytes(1, value.as_bytes(), out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back_from_their_bytes() {
        let long = "\u{20ac}".repeat(300);
        let attributes = [("a", ""), ("b", "x"), ("c", &long)];
        let resource = Resource::new(attributes, 2);
        assert_eq!(resource.attributes().collect::<Vec<_>>(), attributes);
        assert_eq!((resource.get("b"), resource.get("d"), resource.left_out), (Some("x"), None, 2));
        assert!(resource.encoded(900).is_some() && resource.encoded(899).is_none());
        assert_eq!(Resource::default().attributes().count(), 0);
        assert_eq!(Resource::new([("a", "b")], 0), Resource::new(vec![("a".to_owned(), "b".to_owned())], 0));
    }

    #[test]
    fn a_pod_is_told_by_its_kind() {
        assert!(Resource::new([("a", "Pod"), (KIND, "Pod")], 0).is_pod());
        assert!(!Resource::new([("a", "Pod"), (KIND, "Container")], 0).is_pod());
    }

    #[test]
    fn a_resource_keeps_anothers_values_of_some_keys() {
        let other = Resource::new([("a", "other"), ("b", "other"), ("d", "other")], 0);
        let mut resource = Resource::new([("a", "own"), ("b", "own"), ("c", "own")], 1);
        resource.keep(&["a", "c", "d"], &other);
        assert_eq!(resource, Resource::new([("a", "other"), ("b", "own"), ("c", "own")], 1));
    }
}
