//! What programs in the kernel say, where `bpf.log` is on: aya-log carries it, and it becomes lines of this agent's log.

use std::{
    fmt,
    sync::atomic::{AtomicU32, Ordering},
};

use aya::Ebpf;
use aya_log::{EbpfLogger, Level};
use log::{Log, Metadata, Record};

/// The readers of all objects that say anything.
#[derive(Default)]
pub(super) struct KernelLog {
    readers: Vec<EbpfLogger<ToTracing>>,
}

/// Level of the lines that programs write, and of none: their frozen global, after which the verifier leaves out what writes them.
pub(super) const ON: u8 = Level::Debug as u8;
pub(super) const OFF: u8 = 0;

/// The ring that a program writes to, its bytes, and the fewest that the kernel makes one with: where nothing is written there is one too.
pub(super) const RING: &str = "AYA_LOGS";
pub(super) const RING_WITH_ROOM: u32 = 128 << 10;
pub(super) const LEAST_RING: u32 = 4 << 10;

/// Lines that are logged between two ticks.
const MOST_LINES: u32 = 100;

/// Lines that were written since the last tick.
static LINES: AtomicU32 = AtomicU32::new(0);

/// As the modules of this crate name theirs.
const TARGET: &str = "podmeter::kernel_log";

impl KernelLog {
    /// Reads what the programs of this object write, if any do.
    pub(super) fn add(&mut self, ebpf: &mut Ebpf) {
        // One that never writes has no ring.
        self.readers.extend(EbpfLogger::init_with_logger(ebpf, ToTracing).ok());
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.readers.extend(other.readers);
    }

    /// Logs what was written since, up to a bound: a container can make programs write much.
    pub(super) fn flush(&mut self) {
        self.readers.iter_mut().for_each(EbpfLogger::flush);
        let more = LINES.swap(0, Ordering::Relaxed).saturating_sub(MOST_LINES);
        if more > 0 {
            tracing::info!(target: TARGET, "{more} more lines of programs are not shown");
        }
    }
}

impl fmt::Debug for KernelLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} readers", self.readers.len())
    }
}

/// Who asked for these lines wants to see them: at level info, whatever a program calls it.
struct ToTracing;

impl Log for ToTracing {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if LINES.fetch_add(1, Ordering::Relaxed) < MOST_LINES {
            tracing::info!(target: TARGET, program = record.target(), "{}", record.args());
        }
    }

    fn flush(&self) {}
}
