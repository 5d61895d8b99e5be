//! Queries and answers brought together: what a message counts as, how long a lookup took, and the names of queries.

use agent_common::{
    dns::{
        Counts4, DURATION_LEN, Message, NAME_LEN, NAMES_LEN, NAMES_OFF, NO_QUESTION, NameKey, OVERFLOW_LEN, Query, QueryKey,
        Refused, Side, Transport, Way, duration_position, row_kind,
    },
    share::has_room,
};
use agent_ebpf::{add, frozen, length_within, opaque, rows::row};
use aya_ebpf::{
    bindings::{__sk_buff, BPF_NOEXIST},
    helpers::generated::{bpf_ktime_get_boot_ns, bpf_ktime_get_ns, bpf_skb_load_bytes},
};

use crate::{
    DNS_COUNTS, DNS_EMPTY_ROW, DNS_IN_FLIGHT, DNS_NAMES, DNS_NO_NAME, DNS_ROWS, DNS_TAKEN, DNS_TAKEN_ALL, FACTS, Flow, OWN,
    THEIRS,
    message::{Seen, dns_name_in_packet},
    places::{self, Noted, Places, asked_ns},
};

/// The side of a message: queries go out from clients and come in to servers. `None` when it goes the wrong way.
#[inline(always)]
pub(crate) fn side<const EGRESS: bool>(flow: &Flow, answer: bool) -> Option<Side> {
    let client = EGRESS != answer;
    match client {
        true if flow.ends & THEIRS != 0 => Some(Side::Client),
        false if flow.ends & OWN != 0 => Some(Side::Server),
        _ => None,
    }
}

/// Counts a message, and the name in a client's query where that is wanted.
///
/// Not while the message is counted: all functions that call each other share 512 bytes of stack.
#[inline(always)]
pub(crate) fn take<const EGRESS: bool>(skb: *mut __sk_buff, flow: &Flow, seen: &Seen) {
    count::<EGRESS>(flow, seen);
    let asks = EGRESS && flow.ends & THEIRS != 0 && seen.refused.is_none() && !seen.message.answer;
    let named = seen.question_at != 0 && seen.message.question != NO_QUESTION;
    if frozen!(FACTS.names) != 0 && asks && named && names_are_counted() {
        let name = dns_name_in_packet(skb, seen.question_at);
        dns_note_name(skb, flow.slot, seen.question_at, name);
    }
}

/// Whether names are counted at the moment.
#[inline(always)]
fn names_are_counted() -> bool {
    // SAFETY: a map value.
    DNS_TAKEN_ALL.get_ptr(0).is_some_and(|all| unsafe { (*all).names < NAMES_OFF })
}

/// Counts a message.
#[inline(never)]
fn count<const EGRESS: bool>(flow: &Flow, seen: &Seen) {
    let by_port = if flow.ends & OWN != 0 { Side::Server } else { Side::Client };
    let mut way = Way { side: by_port, transport: flow.transport };
    // SAFETY: fields of a map value.
    unsafe {
        match seen.refused {
            None => {}
            Some(Refused::Malformed) => return one(&raw mut (*flow.counts).malformed, way),
            Some(Refused::Other) => return one(&raw mut (*flow.counts).other, way),
        }
        let message = &seen.message;
        let Some(side) = side::<EGRESS>(flow, message.answer) else {
            return one(&raw mut (*flow.counts).unmatched, way);
        };
        way.side = side;
        let many = matches!((side, flow.transport), (Side::Server, Transport::Udp));
        let key = QueryKey {
            cookie: flow.cookie,
            id: message.id as u32 | (way.index() as u32) << 16,
            peer: if many { flow.peer } else { 0 },
        };
        if message.answer {
            answered(flow, way, &key, message);
        } else {
            queried(flow, way, &key, message.question);
        }
    }
}

/// Counts a name of a slot by its hash; it begins at `at` in the packet. 0 when there is no room.
///
/// A global function, as those above.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn dns_note_name(skb: *mut __sk_buff, slot: u32, at: u32, name: u64) -> u32 {
    note_name(skb, &NameKey { name, slot, reserved: 0 }, at).is_some() as u32
}

#[inline(always)]
fn note_name(skb: *mut __sk_buff, key: &NameKey, at: u32) -> Option<()> {
    // SAFETY: map values; a field of the context; as many bytes are loaded as there is room for.
    unsafe {
        let name = match DNS_NAMES.get_ptr_mut(key) {
            Some(name) => name,
            None => {
                let none = DNS_NO_NAME.get_ptr(0)?.as_ref()?;
                let (own, all) = (DNS_TAKEN.get_ptr_mut(key.slot)?, DNS_TAKEN_ALL.get_ptr_mut(0)?);
                if !has_room((*own).names, (*all).names, NAMES_LEN) {
                    return None;
                }
                // Another CPU may be first; then both write the same name.
                if DNS_NAMES.insert(key, none, BPF_NOEXIST.into()).is_ok() {
                    add(&raw mut (*own).names, 1);
                    add(&raw mut (*all).names, 1);
                }
                let name = DNS_NAMES.get_ptr_mut(key)?;
                (*name).first_ns = bpf_ktime_get_boot_ns();
                const ROOM: u64 = (NAME_LEN + 1) as u64;
                let left = (*skb).len.saturating_sub(at) as u64;
                let len = length_within(if left < ROOM { left } else { ROOM }, ROOM)?;
                bpf_skb_load_bytes(skb.cast(), at, (&raw mut (*name).wire).cast(), len as u32);
                name
            }
        };
        add(&raw mut (*name).queries, 1);
    }
    Some(())
}

#[inline(always)]
unsafe fn queried(flow: &Flow, way: Way, key: &QueryKey, question: u64) {
    // SAFETY: map values; a helper without arguments.
    unsafe {
        one(&raw mut (*flow.counts).queries, way);
        let now_ns = bpf_ktime_get_ns();
        let Some(places) = Places::of(key) else { return };
        if let Some(place) = places.waiting(key) {
            let asked_ns = asked_ns(place);
            let in_time = now_ns.wrapping_sub(asked_ns) < frozen!(FACTS.timeout_ns);
            if in_time && places::question(place) == question {
                return one(&raw mut (*flow.counts).retries, way);
            }
            match places.replace(place, key, question, flow.slot, now_ns) {
                Some(before) => replaced(before.slot, in_time, way),
                // Answered this very moment.
                None => one(&raw mut (*flow.counts).retries, way),
            }
            return;
        }
        let elsewhere = places.may_wait_elsewhere(now_ns) && DNS_IN_FLIGHT.get_ptr(key).is_some();
        if elsewhere || !places.put(key, question, flow.slot, now_ns) {
            overflow(flow, way, key, question, now_ns);
        }
    }
}

/// Notes a query where both places are taken.
#[inline(always)]
unsafe fn overflow(flow: &Flow, way: Way, key: &QueryKey, question: u64, now_ns: u64) {
    const EEXIST: i32 = 17;
    const ENOSPC: i32 = 28;
    // SAFETY: map values.
    unsafe {
        let query = Query { asked_ns: now_ns, question, slot: flow.slot, reserved: 0 };
        let (Some(own), Some(all)) = (DNS_TAKEN.get_ptr_mut(flow.slot), DNS_TAKEN_ALL.get_ptr_mut(0)) else { return };
        let noted = if has_room((*own).queries, (*all).queries, OVERFLOW_LEN) {
            DNS_IN_FLIGHT.insert(key, query, BPF_NOEXIST.into())
        } else if DNS_IN_FLIGHT.get_ptr(key).is_some() {
            Err(-EEXIST)
        } else {
            Err(-ENOSPC)
        };
        match noted {
            Ok(()) => in_flight(flow.slot, 1),
            Err(error) if error == -EEXIST => {
                let Some(before) = DNS_IN_FLIGHT.get_ptr_mut(key) else {
                    // Answered this very moment.
                    return one(&raw mut (*flow.counts).retries, way);
                };
                let in_time = now_ns.wrapping_sub((*before).asked_ns) < frozen!(FACTS.timeout_ns);
                if in_time && (*before).question == question {
                    return one(&raw mut (*flow.counts).retries, way);
                }
                replaced((*before).slot, in_time, way);
                in_flight((*before).slot, u64::MAX);
                in_flight(flow.slot, 1);
                (*before).question = question;
                (*before).slot = flow.slot;
                (*before).asked_ns = now_ns;
            }
            Err(_) => one(&raw mut (*flow.counts).lost, way),
        }
    }
}

/// Counts a query of a slot in whose place another one came: too late for the first, which the agent has not removed yet; or another
/// question took its id.
#[inline(always)]
unsafe fn replaced(slot: u32, in_time: bool, way: Way) {
    // SAFETY: a field of a map value.
    unsafe {
        if let Some(counts) = DNS_COUNTS.get_ptr_mut(slot) {
            one(if in_time { &raw mut (*counts).lost } else { &raw mut (*counts).timeouts }, way);
        }
    }
}

#[inline(always)]
unsafe fn answered(flow: &Flow, way: Way, key: &QueryKey, message: &Message) {
    // SAFETY: map values; a helper without arguments.
    unsafe {
        let now_ns = bpf_ktime_get_ns();
        let Some(places) = Places::of(key) else { return };
        let place = places.waiting(key).filter(|place| message.answers(places::question(*place)));
        let mut query = place.and_then(|place| places.end(place, key, message, now_ns));
        if query.is_none() && places.may_wait_elsewhere(now_ns) {
            query = answered_elsewhere(&places, key, message, now_ns);
        }
        let Some(query) = query else {
            if places.was_answered(key, message, now_ns) {
                return one(&raw mut (*flow.counts).duplicates, way);
            }
            return one(&raw mut (*flow.counts).unmatched, way);
        };
        let Some(counts) = DNS_COUNTS.get_ptr_mut(query.slot) else { return };
        let took_ns = now_ns.saturating_sub(query.asked_ns);
        if took_ns >= frozen!(FACTS.timeout_ns) {
            one(&raw mut (*flow.counts).unmatched, way);
            return one(&raw mut (*counts).timeouts, way);
        }
        let Some(row) = row(&DNS_ROWS, &DNS_EMPTY_ROW, query.slot, row_kind(way, message.rcode)) else {
            return one(&raw mut (*counts).lost, way);
        };
        if message.truncated {
            one(&raw mut (*counts).truncated, way);
        }
        let position = opaque(dns_duration_position(took_ns));
        if position < DURATION_LEN as u64 {
            add((&raw mut (*row).buckets).cast::<u64>().add(position as usize), 1);
            add(&raw mut (*row).sum_ns, took_ns);
        }
    }
}

/// Ends a lookup that waits in the hash.
#[inline(always)]
unsafe fn answered_elsewhere(places: &Places, key: &QueryKey, message: &Message, now_ns: u64) -> Option<Noted> {
    // SAFETY: map values.
    unsafe {
        let query = DNS_IN_FLIGHT.get(key).copied().filter(|query| message.answers(query.question))?;
        // Whoever removes it counts it.
        DNS_IN_FLIGHT.remove(key).ok()?;
        in_flight(query.slot, u64::MAX);
        if now_ns.saturating_sub(query.asked_ns) < frozen!(FACTS.timeout_ns) {
            places.remember(key, query.question, now_ns);
        }
        Some(Noted { asked_ns: query.asked_ns, slot: query.slot })
    }
}

/// Notes that a slot has `n` more queries in flight, one less with the largest number.
#[inline(always)]
unsafe fn in_flight(slot: u32, n: u64) {
    // SAFETY: map values.
    unsafe {
        if let (Some(own), Some(all)) = (DNS_TAKEN.get_ptr_mut(slot), DNS_TAKEN_ALL.get_ptr_mut(0)) {
            add(&raw mut (*own).queries, n);
            add(&raw mut (*all).queries, n);
        }
    }
}

/// Where a duration counts: a global function, since each of its many ways would be followed once for each message.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn dns_duration_position(ns: u64) -> u64 {
    duration_position(ns) as u64
}

/// Adds one to one of four counts.
#[inline(always)]
pub(crate) unsafe fn one(counts: *mut Counts4, way: Way) {
    // SAFETY: the index is below four; the caller's pointer is into a map value.
    unsafe { add(counts.cast::<u64>().add(opaque(way.index() as u64) as usize & 3), 1) }
}
