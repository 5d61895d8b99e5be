//! Which of the kernel's drop reasons are a loss, and what each is called.
//!
//! `enum skb_drop_reason` has other numbers in every kernel; names and numbers come from the running one's BTF. What its own
//! documentation (`include/net/dropreason-core.h`) describes as no loss is not counted.

use agent_common::drops::REASONS;

/// Reasons that are no loss.
const HARMLESS: &[&str] = &[
    // Not dropped.
    "SKB_NOT_DROPPED_YET",
    "SKB_CONSUMED",
    // Freed by code that gives no reason: an error path, but as often the plain end of a message (netlink, a unix socket, a closed
    // queue). Counted, it would be the largest number everywhere and mean nothing. Newer kernels use it for less and less.
    "SKB_DROP_REASON_NOT_SPECIFIED",
    // Nobody reads any more: the end of a socket, not of a packet on its way.
    "SKB_DROP_REASON_SOCKET_CLOSE",
    "SKB_DROP_REASON_QUEUE_PURGE",
    // No network.
    "SKB_DROP_REASON_UNIX_DISCONNECT",
    "SKB_DROP_REASON_UNIX_SKIP_OOB",
    // Another's packet, seen since the interface is promiscuous or a bridge floods; and protocols that nobody here speaks.
    "SKB_DROP_REASON_OTHERHOST",
    "SKB_DROP_REASON_IPV6_NDISC_NS_OTHERHOST",
    "SKB_DROP_REASON_UNHANDLED_PROTO",
    // The data or the acknowledgement is there already.
    "SKB_DROP_REASON_TCP_OLD_DATA",
    "SKB_DROP_REASON_TCP_OFOMERGE",
    "SKB_DROP_REASON_TCP_OLD_SEQUENCE",
    "SKB_DROP_REASON_TCP_OLD_ACK",
    "SKB_DROP_REASON_TCP_RFC7323_PAWS_ACK",
    "SKB_DROP_REASON_DUP_FRAG",
];

/// What reasons with a number above [`REASONS`] are counted as.
const OTHER: &str = "other";

/// The reasons of one kernel.
pub struct Reasons {
    names: Vec<Option<String>>,
}

impl Reasons {
    /// From the values of the kernel's enum.
    pub fn new(values: &[(i64, String)]) -> Self {
        let mut names = vec![None; REASONS];
        for (value, name) in values {
            let end = name.ends_with("_MAX") || name.ends_with("_MASK");
            if let Some(place) = usize::try_from(*value).ok().and_then(|i| names.get_mut(i)).filter(|_| !end) {
                *place = Some(name.clone());
            }
        }
        Self { names }
    }

    /// A bit for each reason that is no loss.
    pub fn harmless(&self) -> [u64; REASONS / 64 + 1] {
        let mut bits = [0; REASONS / 64 + 1];
        for (i, name) in self.names.iter().enumerate() {
            if name.as_ref().is_some_and(|name| HARMLESS.contains(&name.as_str())) {
                bits[i / 64] |= 1 << (i % 64);
            }
        }
        bits
    }

    /// What the reason at this position is called: the kernel's name in lower case, without what all have in common.
    pub fn name(&self, position: usize) -> String {
        match self.names.get(position) {
            Some(Some(name)) if position > 0 => name.trim_start_matches("SKB_DROP_REASON_").to_lowercase(),
            _ => OTHER.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_the_kernels_names_and_what_is_no_loss_is_marked() {
        let values = ["SKB_NOT_DROPPED_YET", "SKB_CONSUMED", "SKB_DROP_REASON_NOT_SPECIFIED", "SKB_DROP_REASON_NO_SOCKET"];
        let mut values: Vec<_> = values.iter().enumerate().map(|(i, name)| (i as i64, (*name).to_owned())).collect();
        values.extend([(70, "SKB_DROP_REASON_OTHERHOST".to_owned()), (71, "SKB_DROP_REASON_MAX".to_owned())]);
        values.push((-65536, "SKB_DROP_REASON_SUBSYS_MASK".to_owned()));
        let reasons = Reasons::new(&values);
        assert_eq!((reasons.name(3), reasons.name(0), reasons.name(71)), ("no_socket".into(), OTHER.into(), OTHER.into()));
        assert_eq!(reasons.harmless(), [0b111, 1 << 6, 0, 0]);
    }
}
