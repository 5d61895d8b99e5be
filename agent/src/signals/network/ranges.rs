//! Address ranges by scope: the tables that the kernel side looks up, as configured and as learnt from Kubernetes.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
};

use agent_common::network::{RANGES_LEN, Scope};
use aya::maps::{
    MapData, MapError,
    lpm_trie::{Key, LpmTrie},
};

use crate::addresses::Addresses;
use crate::{
    config::{self, Range},
    kernel::{
        absent::is_absent,
        load::{LoadError, Object},
    },
};

/// Learnt ranges of one family that are kept. A node has some hundred pods, where kubelet was told to take so many.
const LEARNT: usize = 512;

/// The kernel side has room for all ranges that the configuration may have, and for those that are learnt.
const _: () = assert!(Range::MOST + LEARNT <= RANGES_LEN);

/// The tables.
pub struct Ranges {
    v4: LpmTrie<MapData, [u8; 4], u32>,
    v6: LpmTrie<MapData, [u8; 16], u32>,
    configured: HashSet<Range>,
    /// What is in the tables beside these. What an agent before this one had learnt holds until this one has learnt something.
    learnt: BTreeMap<Range, u32>,
}

impl Ranges {
    /// Fills the tables with what is configured.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open(object: &mut Object, network: &config::Network) -> Result<Self, LoadError> {
        let (v4, v6) = (object.take("NETWORK_RANGES_4")?, object.take("NETWORK_RANGES_6")?);
        let mut ranges = Self { v4, v6, configured: HashSet::new(), learnt: BTreeMap::new() };
        let by_scope = [(Scope::Private, &network.private), (Scope::Node, &network.node), (Scope::Cluster, &network.cluster)];
        // Of a range in several lists the last one's scope holds.
        for (scope, range) in by_scope.into_iter().flat_map(|(scope, list)| list.iter().map(move |range| (scope, range))) {
            let failed = |source: MapError| LoadError::Map { action: "fill", map: table(*range), source: source.into() };
            ranges.insert(*range, scope as u32).map_err(failed)?;
            ranges.configured.insert(*range);
        }
        ranges.learnt = ranges.found().filter(|(range, _)| !ranges.configured.contains(range)).collect();
        Ok(ranges)
    }

    /// Puts what is known now in the place of what was learnt before. Whether anything has changed: what was looked up is stale
    /// then.
    ///
    /// # Errors
    /// When the kernel refuses; what was changed until then is kept account of.
    pub fn learn(&mut self, addresses: &Addresses) -> Result<bool, MapError> {
        let wanted = wanted(addresses, &self.configured);
        let gone: Vec<Range> = self.learnt.keys().filter(|range| !wanted.contains_key(*range)).copied().collect();
        let new: Vec<_> = wanted.into_iter().filter(|(range, scope)| self.learnt.get(range) != Some(scope)).collect();
        for range in &gone {
            self.remove(*range)?;
            self.learnt.remove(range);
        }
        for (range, scope) in &new {
            self.insert(*range, *scope)?;
            self.learnt.insert(*range, *scope);
        }
        Ok(!gone.is_empty() || !new.is_empty())
    }

    fn insert(&mut self, range: Range, scope: u32) -> Result<(), MapError> {
        match range.address {
            IpAddr::V4(address) => self.v4.insert(&Key::new(range.prefix, address.octets()), scope, 0),
            IpAddr::V6(address) => self.v6.insert(&Key::new(range.prefix, address.octets()), scope, 0),
        }
    }

    fn remove(&mut self, range: Range) -> Result<(), MapError> {
        let removed = match range.address {
            IpAddr::V4(address) => self.v4.remove(&Key::new(range.prefix, address.octets())),
            IpAddr::V6(address) => self.v6.remove(&Key::new(range.prefix, address.octets())),
        };
        match removed {
            Err(error) if is_absent(&error) => Ok(()),
            removed => removed,
        }
    }

    /// What is in the tables.
    fn found(&self) -> impl Iterator<Item = (Range, u32)> {
        let v4 = self.v4.iter().flatten().map(|(key, scope)| (key.prefix_len(), IpAddr::from(key.data()), scope));
        let v6 = self.v6.iter().flatten().map(|(key, scope)| (key.prefix_len(), IpAddr::from(key.data()), scope));
        v4.chain(v6).map(|(prefix, address, scope)| (Range { address, prefix }, scope))
    }
}

fn table(range: Range) -> &'static str {
    if range.address.is_ipv4() { "NETWORK_RANGES_4" } else { "NETWORK_RANGES_6" }
}

/// Of what is known, what belongs into the tables: what somebody has configured stays as it is.
fn wanted(addresses: &Addresses, configured: &HashSet<Range>) -> BTreeMap<Range, u32> {
    let node = addresses.node.iter().map(|range| (*range, Scope::Node));
    let cluster = addresses.cluster.iter().map(|range| (*range, Scope::Cluster));
    let mut wanted = BTreeMap::new();
    let mut room = [LEARNT; 2];
    for (range, scope) in node.chain(cluster).filter(|(range, _)| !configured.contains(range)) {
        let left = &mut room[usize::from(range.address.is_ipv6())];
        if *left > 0 && wanted.insert(range, scope as u32).is_none() {
            *left -= 1;
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(texts: &[&str]) -> Vec<Range> {
        texts.iter().map(|text| Range::parse(text).expect("a range")).collect()
    }

    #[test]
    fn what_is_configured_stays_and_what_is_too_much_is_not_learnt() {
        let configured = ranges(&["10.1.0.0/24"]).into_iter().collect();
        let known = Addresses { cluster: ranges(&["10.1.0.0/24", "10.2.0.0/24", "fd00::5"]), node: ranges(&["192.168.0.7"]) };
        let wanted_of = |addresses: &Addresses| wanted(addresses, &configured).into_iter().collect::<Vec<_>>();
        let [range, address, v6] = ["10.2.0.0/24", "192.168.0.7", "fd00::5"].map(|text| Range::parse(text).expect("a range"));
        let [cluster, node] = [Scope::Cluster as u32, Scope::Node as u32];
        assert_eq!(wanted_of(&known), [(range, cluster), (address, node), (v6, cluster)]);

        let many = (0..2000_u32).map(|n| Range::of(IpAddr::V4((0x0a00_0000 + n).into())));
        let cluster: Vec<_> = ranges(&["10.9.0.0/16"]).into_iter().chain(many).chain(ranges(&["fd00::6"])).collect();
        let kept = wanted_of(&Addresses { cluster, node: Vec::new() });
        assert_eq!(kept.len(), LEARNT + 1, "of each family");
        assert!(kept.iter().any(|(range, _)| range.prefix == 16), "the first are kept");
    }
}
