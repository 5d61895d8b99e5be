//! The life of a load after the fork: system calls and arithmetic that cannot panic, nothing else.

use std::{hint::black_box, os::fd::RawFd, sync::atomic::Ordering::Relaxed};

use nix::libc;

use super::{
    Memory, Work,
    shared::{Page, SharedPage, WINDOW_NS},
};

/// Sent by the pinging side when its time is over.
const STOP: u8 = 0;

/// Sent by either side to wake the other.
const GO: u8 = 1;

/// All a child has to know.
#[derive(Clone, Copy)]
pub(super) struct LoadPlan {
    pub(super) work: Work,
    pub(super) cpu: Option<usize>,
    pub(super) realtime: bool,
    pub(super) into_window_ns: Option<u64>,
    pub(super) expendable: bool,
    pub(super) alarm_seconds: u32,
    /// Process id of the parent.
    pub(super) parent: i32,
    /// Read one byte here before anything else.
    pub(super) gate: Option<RawFd>,
}

/// Carries out the plan and exits: with 0, or with the errno of what failed.
pub(super) fn run(plan: &LoadPlan, shared: &SharedPage) -> ! {
    let code = match prepare(plan) {
        Ok(()) => work(&plan.work, shared.page()).err().unwrap_or(0),
        Err(errno) => errno,
    };
    // SAFETY: ends the process without running anything of the parent's.
    unsafe { libc::_exit(code) }
}

fn prepare(plan: &LoadPlan) -> Result<(), i32> {
    // SAFETY: system calls that take no pointers.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if libc::getppid() != plan.parent {
            // The parent was gone before the request for its death signal.
            libc::_exit(libc::ESRCH);
        }
        libc::alarm(plan.alarm_seconds);
    }
    // A socket or pipe of the parent's must not stay open because a load lives.
    let [a, b] = plan.work.fds();
    close_all_but([a, b, plan.gate.unwrap_or(-1)]);
    if let Some(gate) = plan.gate
        && read_byte(gate).is_none()
    {
        return Err(libc::EPIPE);
    }
    if let Some(cpu) = plan.cpu {
        pin(cpu)?;
    }
    if plan.realtime {
        put_first()?;
    }
    if plan.expendable {
        offer_to_oom_killer()?;
    }
    if let Some(offset) = plan.into_window_ns {
        let next = (clock(libc::CLOCK_MONOTONIC) / WINDOW_NS).wrapping_add(1).wrapping_mul(WINDOW_NS);
        sleep_until(next.wrapping_add(offset));
    }
    Ok(())
}

fn close_all_but(mut kept: [RawFd; 3]) {
    kept.sort_unstable();
    let mut first: u32 = 3;
    for fd in kept {
        let Ok(fd) = u32::try_from(fd) else { continue };
        if fd > first {
            close_range(first, fd - 1);
        }
        first = first.max(fd.saturating_add(1));
    }
    close_range(first, u32::MAX);
}

/// Closes what is open from `first` to `last`. Before 5.9 the call does not exist and all stays open, as after any fork.
fn close_range(first: u32, last: u32) {
    // SAFETY: the child uses none of these file descriptors.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0u32) };
}

fn pin(cpu: usize) -> Result<(), i32> {
    // SAFETY: all-zero is the empty set; `CPU_SET` ignores a CPU beyond the set's size.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if cpu < libc::CPU_SETSIZE as usize {
            libc::CPU_SET(cpu, &mut set);
        }
        libc::syscall(libc::SYS_sched_setaffinity, 0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if result < 0 { Err(errno()) } else { Ok(()) }
}

fn put_first() -> Result<(), i32> {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: the pointer is to a live `sched_param`.
    if unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_FIFO, &raw const priority) } == 0 {
        return Ok(());
    }
    // SAFETY: no pointers.
    if unsafe { libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, 0, -20) } == 0 { Ok(()) } else { Err(errno()) }
}

fn work(work: &Work, page: &Page) -> Result<(), i32> {
    let begin = clock(libc::CLOCK_MONOTONIC);
    let mut meter = Meter { page, window: begin / WINDOW_NS, counted_ns: 0 };
    match *work {
        Work::Burn { cpu_ns } => burn_until(cpu_ns, &mut meter),
        Work::Spin { wall_ns } => {
            let end = begin.saturating_add(wall_ns);
            while meter.tick() < end {
                compute();
            }
        }
        Work::Duty { busy_ns, period_ns, wall_ns } => {
            let end = begin.saturating_add(wall_ns);
            let mut due = begin;
            while due < end {
                sleep_until(due);
                let used = clock(libc::CLOCK_THREAD_CPUTIME_ID);
                burn_until(used.saturating_add(busy_ns), &mut meter);
                due = due.saturating_add(period_ns);
            }
            sleep_until(end);
        }
        Work::Sleep { wall_ns } => sleep_until(begin.saturating_add(wall_ns)),
        Work::Ping { read, write, wall_ns } => {
            let end = begin.saturating_add(wall_ns);
            while clock(libc::CLOCK_MONOTONIC) < end && write_byte(write, GO) && read_byte(read).is_some() {
                page.rounds.fetch_add(1, Relaxed);
            }
            write_byte(write, STOP);
        }
        Work::Pong { read, write } => while read_byte(read) == Some(GO) && write_byte(write, GO) {},
        Work::Hold { memory, bytes, wall_ns } => {
            fill(memory, bytes)?;
            page.rounds.fetch_add(1, Relaxed);
            sleep_until(begin.saturating_add(wall_ns));
        }
        Work::Breed { bytes, wall_ns } => {
            // SAFETY: fork without the C library's part in it; the child fills memory and exits.
            match unsafe { libc::syscall(libc::SYS_fork) } {
                0 => {
                    let code = fill(Memory::Anonymous, bytes).err().unwrap_or(0);
                    // SAFETY: ends the process.
                    unsafe { libc::_exit(code) }
                }
                -1 => return Err(errno()),
                child => wait_for(child as i32),
            }
            page.rounds.fetch_add(1, Relaxed);
            sleep_until(begin.saturating_add(wall_ns));
        }
        Work::Remap { wall_ns } => {
            let end_ns = begin.saturating_add(wall_ns);
            let other = start_beside(end_ns)?;
            let failed = remap_until(end_ns);
            wait_for(other);
            if failed != 0 {
                return Err(failed);
            }
        }
        Work::Read { file, bytes, again, wall_ns } => {
            let end = begin.saturating_add(wall_ns);
            loop {
                read_through(file, bytes)?;
                page.rounds.fetch_add(1, Relaxed);
                if !again || clock(libc::CLOCK_MONOTONIC) >= end {
                    break;
                }
            }
            sleep_until(end);
        }
    }
    meter.settle();
    Ok(())
}

/// A new mapping at an address of the kernel's choice, private or shared.
fn map(sharing: i32, bytes: usize) -> Result<*mut libc::c_void, i32> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: it replaces no other.
    let place = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, sharing | libc::MAP_ANONYMOUS, -1, 0) };
    if place == libc::MAP_FAILED { Err(errno()) } else { Ok(place) }
}

/// Writes to each page of a mapping.
///
/// # Safety
/// It must be as long as `bytes`.
unsafe fn touch(place: *mut libc::c_void, bytes: usize) {
    for offset in (0..bytes).step_by(4096) {
        // SAFETY: within the mapping.
        unsafe { place.cast::<u8>().add(offset).write_volatile(1) };
    }
}

/// Maps memory and writes to each of its pages. It stays until the process ends.
fn fill(memory: Memory, bytes: usize) -> Result<(), i32> {
    let place = map(if memory == Memory::Shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE }, bytes)?;
    // SAFETY: a new mapping of that length.
    unsafe {
        // Pages as they are charged one by one, so that how much is charged is known.
        libc::madvise(place, bytes, libc::MADV_NOHUGEPAGE);
        touch(place, bytes);
        if memory == Memory::Locked && libc::mlock(place, bytes) != 0 {
            return Err(errno());
        }
    }
    Ok(())
}

/// Starts a task with the same address space, which changes it until then. It has a stack of its own and shares nothing else.
fn start_beside(end_ns: u64) -> Result<i32, i32> {
    extern "C" fn child(end_ns: *mut libc::c_void) -> i32 {
        remap_until(end_ns.addr() as u64)
    }
    const STACK: usize = 64 << 10;
    // SAFETY: the end of a new mapping is the stack of the new task, which is given a number.
    unsafe {
        let stack = map(libc::MAP_PRIVATE, STACK)?;
        let until = std::ptr::without_provenance_mut(end_ns as usize);
        match libc::clone(child, stack.byte_add(STACK), libc::CLONE_VM | libc::SIGCHLD, until) {
            -1 => Err(errno()),
            child => Ok(child),
        }
    }
}

/// Maps memory, writes to it and unmaps it until then; 0, or the errno of what failed.
fn remap_until(end_ns: u64) -> i32 {
    const BYTES: usize = 64 << 10;
    while clock(libc::CLOCK_MONOTONIC) < end_ns {
        let place = match map(libc::MAP_PRIVATE, BYTES) {
            Ok(place) => place,
            Err(errno) => return errno,
        };
        // SAFETY: a new mapping of that length, used by nothing else.
        unsafe {
            touch(place, BYTES);
            libc::munmap(place, BYTES);
        }
    }
    0
}

/// Waits for the end of a child.
fn wait_for(child: i32) {
    // SAFETY: no status is requested.
    while unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) } == -1 && errno() == libc::EINTR {}
}

/// Reads the first bytes of a file.
fn read_through(file: RawFd, bytes: u64) -> Result<(), i32> {
    let mut buffer = [0_u8; 65536];
    let mut at = 0;
    while at < bytes {
        // SAFETY: into a live buffer of that length.
        match unsafe { libc::pread(file, buffer.as_mut_ptr().cast(), buffer.len(), at as libc::off_t) } {
            0 => return Err(libc::ENODATA),
            n @ 1.. => at += n as u64,
            _ => return Err(errno()),
        }
    }
    Ok(())
}

fn offer_to_oom_killer() -> Result<(), i32> {
    // SAFETY: a path and a text that live for ever, a file descriptor of our own.
    unsafe {
        let file = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY);
        if file < 0 || libc::write(file, c"1000".as_ptr().cast(), 4) != 4 {
            return Err(errno());
        }
        libc::close(file);
    }
    Ok(())
}

/// Lays a load's CPU time into windows.
struct Meter<'a> {
    page: &'a Page,
    window: u64,
    counted_ns: u64,
}

impl Meter<'_> {
    /// CLOCK_MONOTONIC in ns; closes the current window when it is over.
    fn tick(&mut self) -> u64 {
        let now = clock(libc::CLOCK_MONOTONIC);
        if now / WINDOW_NS != self.window {
            self.settle();
            self.window = now / WINDOW_NS;
        }
        now
    }

    fn settle(&mut self) {
        let used = clock(libc::CLOCK_THREAD_CPUTIME_ID);
        self.page.add(self.window, used.saturating_sub(self.counted_ns));
        self.counted_ns = used;
    }
}

/// Computes until the thread's CPU clock shows `cpu_ns`.
fn burn_until(cpu_ns: u64, meter: &mut Meter) {
    while clock(libc::CLOCK_THREAD_CPUTIME_ID) < cpu_ns {
        meter.tick();
        compute();
    }
}

/// About a microsecond of arithmetic.
fn compute() {
    let mut x: u64 = 1;
    for _ in 0..400 {
        x = black_box(x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1));
    }
}

fn clock(id: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live `timespec`.
    unsafe { libc::clock_gettime(id, &mut time) };
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}

fn sleep_until(monotonic_ns: u64) {
    let time = libc::timespec {
        tv_sec: (monotonic_ns / 1_000_000_000) as libc::time_t,
        tv_nsec: (monotonic_ns % 1_000_000_000) as libc::c_long,
    };
    // SAFETY: the pointer is to a live `timespec`; an absolute sleep that a signal interrupts is begun again.
    while unsafe { libc::clock_nanosleep(libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &time, std::ptr::null_mut()) } == libc::EINTR
    {
    }
}

fn write_byte(fd: RawFd, byte: u8) -> bool {
    // SAFETY: one byte of a live variable.
    unsafe { libc::write(fd, (&raw const byte).cast(), 1) == 1 }
}

fn read_byte(fd: RawFd) -> Option<u8> {
    let mut byte = 0u8;
    // SAFETY: one byte of a live variable.
    (unsafe { libc::read(fd, (&raw mut byte).cast(), 1) } == 1).then_some(byte)
}

fn errno() -> i32 {
    // SAFETY: the calling thread's errno always exists.
    unsafe { *libc::__errno_location() }
}
