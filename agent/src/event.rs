//! What an event is: something that happened once, to be told as it was. It leaves as an OTLP log record.

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// What kind of event it is, in OpenTelemetry's way: `podmeter.oom.kill`.
    pub name: &'static str,
    /// Slot and id of the cgroup it happened in; the slot may have another owner by now.
    pub cgroup: (u32, u64),
    /// When, CLOCK_BOOTTIME in ns.
    pub time_ns: u64,
    /// One sentence for people.
    pub body: String,
    /// What is known of it.
    pub attributes: Vec<(&'static str, Detail)>,
}

/// The value of an event's attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Text.
    Text(String),
    /// A number: bytes, a process id.
    Int(u64),
}
