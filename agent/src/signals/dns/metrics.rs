//! The metrics of the dns signal.

use crate::metric::{Metric, Scope};

/// Every metric of the signal.
pub const ALL: &[&Metric] = &[
    &LOOKUPS,
    &SERVED,
    &QUERIES,
    &RETRIES,
    &TRUNCATED,
    &ABANDONED,
    &LOST,
    &DUPLICATES,
    &UNMATCHED,
    &MALFORMED,
    &IGNORED,
    &GAPS,
    &NAME_QUERIES,
    &IN_FLIGHT,
    &UNATTRIBUTED_QUERIES,
];

const ENDS: &[&str] = &["error.type", "network.transport"];
const WAYS: &[&str] = &["side", "network.transport"];

/// `dns.lookup.duration`
pub static LOOKUPS: Metric = Metric::histogram(
    "dns.lookup.duration",
    "s",
    Scope::Cgroup,
    "Time from a query to its answer at the client's socket, retries with the same id included. error.type is \
     absent for NOERROR; else it is the rcode's name, _OTHER for a rare one, or timeout: no answer within \
     dns.timeout, which is then the duration.",
)
.attributes(ENDS);
/// `podmeter.dns.server.duration`
pub static SERVED: Metric = Metric::histogram(
    "podmeter.dns.server.duration",
    "s",
    Scope::Cgroup,
    "Time from a query to its answer at the server's socket. error.type as for dns.lookup.duration.",
)
.attributes(ENDS);
/// `podmeter.dns.queries`
pub static QUERIES: Metric = Metric::counter(
    "podmeter.dns.queries",
    "{query}",
    Scope::Cgroup,
    "Queries sent (side client) and received (side server), retries included. Each is a retry, ends as a lookup, \
     is abandoned or lost, or is in flight.",
)
.attributes(WAYS);
/// `podmeter.dns.retries`
pub static RETRIES: Metric = Metric::counter(
    "podmeter.dns.retries",
    "{query}",
    Scope::Cgroup,
    "Queries sent again on the same socket with the same id before there was an answer, to the same name server \
     or to another. musl queries all name servers at once.",
)
.attributes(WAYS);
/// `podmeter.dns.truncated`
pub static TRUNCATED: Metric = Metric::counter(
    "podmeter.dns.truncated",
    "{answer}",
    Scope::Cgroup,
    "Answers that were cut to fit into a datagram (TC). The repeated query over TCP is a lookup by itself.",
)
.attributes(WAYS);
/// `podmeter.dns.abandoned`
pub static ABANDONED: Metric = Metric::counter(
    "podmeter.dns.abandoned",
    "{query}",
    Scope::Cgroup,
    "Queries of a cgroup that was removed before an answer or dns.timeout.",
)
.attributes(WAYS);
/// `podmeter.dns.lost`
pub static LOST: Metric = Metric::counter(
    "podmeter.dns.lost",
    "{query}",
    Scope::Cgroup,
    "Queries that could not be followed to their end: too many in flight in this cgroup, no memory, a gap in the \
     TCP stream, or another question with the same id on the same socket.",
)
.attributes(WAYS);
/// `podmeter.dns.duplicates`
pub static DUPLICATES: Metric = Metric::counter(
    "podmeter.dns.duplicates",
    "{message}",
    Scope::Cgroup,
    "Further answers within dns.timeout to a lookup that was answered: from another of several name servers, sent \
     twice, or the rest of a zone transfer.",
)
.attributes(WAYS);
/// `podmeter.dns.unmatched`
pub static UNMATCHED: Metric = Metric::counter(
    "podmeter.dns.unmatched",
    "{message}",
    Scope::Cgroup,
    "Answers without a query in flight: late, or forged; and messages in the wrong direction.",
)
.attributes(WAYS);
/// `podmeter.dns.malformed`
pub static MALFORMED: Metric = Metric::counter(
    "podmeter.dns.malformed",
    "{message}",
    Scope::Cgroup,
    "Messages on a DNS port with a header or question that cannot be read.",
)
.attributes(WAYS);
/// `podmeter.dns.ignored`
pub static IGNORED: Metric = Metric::counter(
    "podmeter.dns.ignored",
    "{message}",
    Scope::Cgroup,
    "Messages that are no lookups: zone notifications and updates, and multicast.",
)
.attributes(WAYS);
/// `podmeter.dns.gaps`
pub static GAPS: Metric = Metric::counter(
    "podmeter.dns.gaps",
    "{gap}",
    Scope::Cgroup,
    "Times that the messages of a TCP connection could not be followed: segments out of order, or too many \
     messages in one segment.",
)
.attributes(WAYS);
/// `podmeter.dns.name.queries`
pub static NAME_QUERIES: Metric = Metric::counter(
    "podmeter.dns.name.queries",
    "{query}",
    Scope::Cgroup,
    "Queries that the cgroup sent, by name: the dns.top_names with the most queries, none unless that is set. \
     4096 names are kept for all cgroups; when room is short, the names with the fewest queries are dropped and \
     count from zero when they return.",
)
.attributes(&["dns.question.name"])
.no_sum();
/// `podmeter.dns.in_flight`
pub static IN_FLIGHT: Metric = Metric::gauge(
    "podmeter.dns.in_flight",
    "{query}",
    Scope::Node,
    "Queries without an answer at the last tick, of at most 16384.",
);
/// `podmeter.dns.unattributed`
pub static UNATTRIBUTED_QUERIES: Metric = Metric::counter(
    "podmeter.dns.unattributed",
    "{query}",
    Scope::Node,
    "Queries of cgroups that were created when all slots were taken.",
)
.attributes(WAYS);
