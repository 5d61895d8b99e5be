//! The disk signal against loads of known size, the device's own counters, `io.stat`, and devices that take a set time.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    num::NonZeroUsize,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::mman::{self, MapFlags, MsFlags, ProtFlags};
use podmeter_tests::{
    MS, SECOND,
    agent::Agent,
    cgroup::{Cgroup, has_controller, has_controllers, inside},
    disk::{BLOCK, Disk, read_blocks, write_blocks},
    is_emulated,
    metric::{
        DEVICE_IO, DEVICE_IO_TIME, DEVICE_OPERATIONS, DEVICE_TIME, DISK_DURATION, DISK_IO, DISK_LOST, DISK_OPERATIONS,
        DISK_THROTTLED, FSYNC_DURATION, FSYNC_ERRORS,
    },
    otlp::Exports,
    root_test,
};
use serde_json::{Value as Json, json};

const DIRECTION: &str = "disk.io.direction";

/// How long each request to a slow disk takes.
const SLOW: Duration = Duration::from_millis(5);

/// An agent with this signal and no other: it starts sooner, on a machine that is busy with disks.
fn agent() -> Result<Agent> {
    let off: Json = ["cpu", "memory", "pressure", "network", "dns", "tcp", "drops"]
        .map(|signal| (signal.to_owned(), json!(false)))
        .into_iter()
        .collect();
    Agent::start(json!({"signals": off}))
}

/// A cgroup that I/O is charged to, where cgroup2 has the io controller, and its parent.
fn container(name: &str) -> Result<(Cgroup, Cgroup)> {
    let pod = Cgroup::new(name)?;
    for controller in ["io", "memory"] {
        if has_controller(controller)? {
            pod.delegate(controller)?;
        }
    }
    let container = pod.child("container")?;
    Ok((pod, container))
}

/// A figure of a cgroup by direction; 0 where there is none.
fn figure(exports: &Exports, cgroup: &Cgroup, metric: &str, direction: &str) -> f64 {
    exports.value(cgroup.path(), metric, &[(DIRECTION, direction)]).unwrap_or(0.0)
}

/// A number of a disk's line in a cgroup's `io.stat`.
fn io_stat(cgroup: &Cgroup, disk: &Disk, name: &str) -> Result<f64> {
    let (text, numbers) = (cgroup.read("io.stat")?, disk.numbers()?);
    let line = text.lines().find_map(|line| line.strip_prefix(&*numbers)).with_context(|| format!("no {numbers} in {text:?}"))?;
    let word = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    word.and_then(|word| word.parse().ok()).with_context(|| format!("no {name} in {text:?}"))
}

root_test! {
    fn what_a_container_reads_and_writes_is_counted_to_the_byte_and_another_has_no_rows() {
        let Some(disk) = Disk::scratch(TEST)? else { return Ok(()) };
        let agent = agent()?;
        let ((pod, writer), (_pod, reader), (_quiet_pod, quiet)) = (container("writer")?, container("reader")?, container("quiet")?);
        let file = disk.open(true)?;
        // The first write of a loop device makes its file grow; what is written has to be read all the same.
        let (begin, began) = (disk.counted()?, Instant::now());
        inside(&writer, || write_blocks(&file, 48))?;
        let written = disk.counted()?.since(begin);
        inside(&reader, || read_blocks(&file, 32))?;
        let took = began.elapsed();
        let all = disk.counted()?.since(begin);
        inside(&quiet, || fs::read("/proc/self/stat").context("could not read"))?;
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        println!("the device counts {all:?}, the writer has {:?}", exports.of(writer.path()).last());

        ensure!(written.written_bytes == 48 * BLOCK as u64 && all.read_bytes == 32 * BLOCK as u64, "the device counts {all:?}");
        for (cgroup, way, bytes, operations) in [
            (&writer, "write", all.written_bytes, all.writes),
            (&reader, "read", all.read_bytes, all.reads),
            (&writer, "read", 0, 0),
            (&reader, "write", 0, 0),
            (&pod, "write", all.written_bytes, all.writes),
        ] {
            let counted = [figure(&exports, cgroup, DISK_IO, way), figure(&exports, cgroup, DISK_OPERATIONS, way)];
            ensure!(counted == [bytes as f64, operations as f64], "{} {way}: {counted:?}", cgroup.path());
        }
        let durations = exports.histogram_of(writer.path(), DISK_DURATION, &[(DIRECTION, "write")]).context("no durations")?;
        ensure!(durations.count == all.writes, "{} durations of {} writes", durations.count, all.writes);
        // One after the other: together they cannot take longer than the test waited.
        ensure!(durations.sum > 0.0 && durations.sum <= took.as_secs_f64(), "{} s of {took:?}", durations.sum);
        let disks = |cgroup: &Cgroup| exports.of(cgroup.path()).iter().any(|point| point.metric.contains(".disk."));
        ensure!(!disks(&quiet), "a cgroup without I/O has rows: {:?}", exports.of(quiet.path()));
        ensure!(exports.node_value(DISK_LOST, &[]).unwrap_or(0.0) == 0.0, "something was lost");
        if has_controller("io")? {
            let stat = [io_stat(&writer, &disk, "wbytes")?, io_stat(&reader, &disk, "rbytes")?];
            ensure!(stat == [all.written_bytes as f64, all.read_bytes as f64], "io.stat has {stat:?}");
        }
        Ok(())
    }
}

root_test! {
    fn a_devices_figures_are_those_of_the_kernel() {
        let Some(disk) = Disk::scratch(TEST)? else { return Ok(()) };
        let agent = agent()?;
        let file = disk.open(true)?;
        write_blocks(&file, 16)?;
        read_blocks(&file, 8)?;
        agent.catch_up()?;
        let counted = disk.counted()?;
        let exports = agent.stop()?.exports;
        let of = |metric: &str, direction: &str| {
            let attributes = [("system.device", disk.name()), (DIRECTION, direction)];
            exports.node_value(metric, &attributes).with_context(|| format!("no {metric} {direction} of {}", disk.name()))
        };
        let io = [of(DEVICE_IO, "read")?, of(DEVICE_IO, "write")?, of(DEVICE_OPERATIONS, "read")?, of(DEVICE_OPERATIONS, "write")?];
        let truth = [counted.read_bytes, counted.written_bytes, counted.reads, counted.writes].map(|n| n as f64);
        ensure!(io == truth, "exported {io:?}, the kernel has {truth:?}");
        let busy = exports.node_value(DEVICE_IO_TIME, &[("system.device", disk.name())]).context("no io_time")?;
        ensure!(busy == counted.io_ms as f64 / 1e3, "busy for {busy} s, the kernel has {} ms", counted.io_ms);
        ensure!(of(DEVICE_TIME, "write")? > 0.0, "no time of writes");
        let devices: Vec<_> = exports.of_node().iter().filter(|point| &*point.metric == DEVICE_IO_TIME).collect();
        let is_partition = |name: &String| std::path::Path::new("/sys/class/block").join(name).join("partition").exists();
        let parts = devices.iter().filter_map(|point| point.attributes.get("system.device")).filter(|name| is_partition(name));
        ensure!(parts.count() == 0, "partitions are exported");
        Ok(())
    }
}

root_test! {
    fn a_device_that_takes_5_ms_has_durations_of_5_ms_that_it_took_itself() {
        let Some(disk) = Disk::slow(TEST, SLOW)? else { return Ok(()) };
        let agent = agent()?;
        let (_pod, cgroup) = container("slow")?;
        let file = disk.open(true)?;
        inside(&cgroup, || write_blocks(&file, 20))?;
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        let durations = exports.histogram_of(cgroup.path(), DISK_DURATION, &[(DIRECTION, "write")]).context("no durations")?;
        let writes = figure(&exports, &cgroup, DISK_OPERATIONS, "write");
        println!("{writes} writes: {durations:?}");
        ensure!(durations.sum >= SLOW.as_secs_f64() * writes && writes >= 20.0, "{writes} writes took {} s", durations.sum);
        let (median, _) = durations.quantile_bounds(0.5).context("no median")?;
        // A bucket is 9 % wide. An emulated CPU may be late with its timers, and is never early.
        let most = if is_emulated() { 20.0 } else { 1.5 } * SLOW.as_secs_f64();
        ensure!((0.91 * SLOW.as_secs_f64()..most).contains(&median), "a median of {median} s");
        let phase = |phase| {
            let attributes = [("system.device", disk.name()), (DIRECTION, "write"), ("phase", phase)];
            exports.node_value(DEVICE_TIME, &attributes).context("no time by phase")
        };
        let (device, waiting) = (phase("device")?, phase("waiting")?);
        ensure!(device >= SLOW.as_secs_f64() * writes, "the device took {device} s");
        ensure!((device + waiting - durations.sum).abs() < 1e-6, "{device} s and {waiting} s are not {} s", durations.sum);
        Ok(())
    }
}

root_test! {
    fn a_container_that_writes_to_the_page_cache_has_the_writes_when_others_write_them_back() {
        if !has_controllers(TEST, &["io", "memory"])? {
            return Ok(());
        }
        let Some(disk) = Disk::scratch(TEST)? else { return Ok(()) };
        let agent = agent()?;
        let (_pod, cgroup) = container("buffered")?;
        let file = disk.open(false)?;
        // What was read before belongs to who read it.
        fs::write("/proc/sys/vm/drop_caches", "3").context("could not drop the page cache")?;
        inside(&cgroup, || write_blocks(&file, 64))?;
        // From the outside: the kernel's threads write back, or this process does.
        nix::unistd::syncfs(&file).context("could not sync")?;
        file.sync_all().context("could not sync")?;
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        let (counted, truth) = (figure(&exports, &cgroup, DISK_IO, "write"), io_stat(&cgroup, &disk, "wbytes")?);
        ensure!(counted == truth && truth >= (64 * BLOCK) as f64, "{counted} bytes written, io.stat has {truth}");
        Ok(())
    }
}

/// Syncs the first page of a file by `msync`.
fn sync_mapped(file: &File) -> Result<()> {
    let length = NonZeroUsize::new(4096).context("no page")?;
    // SAFETY: a new mapping that nothing else uses, and its end.
    unsafe {
        let page =
            mman::mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, file, 0).context("could not map the file")?;
        let synced = mman::msync(page, length.get(), MsFlags::MS_SYNC).context("could not sync the mapped page");
        mman::munmap(page, length.get()).context("could not unmap it")?;
        synced
    }
}

/// Whether this kernel lets programs run at its functions.
fn measures(agent: &Agent, what: &str) -> bool {
    !agent.stderr().contains(what)
}

root_test! {
    fn each_fsync_of_a_container_is_counted_with_the_time_that_it_took() {
        let directory = tempfile::tempdir_in(podmeter_tests::disk::directory()?).context("could not make a directory")?;
        let agent = agent()?;
        if !measures(&agent, "no syncs of files") {
            eprintln!("SKIPPED {TEST}: this kernel runs no programs at its functions");
            return agent.stop().map(drop);
        }
        let ((_pod, syncs), (_other, writes)) = (container("syncs")?, container("writes")?);
        let mut file = File::options().read(true).write(true).create_new(true).open(directory.path().join("synced")).context("could not make a file")?;
        let mut took = Duration::ZERO;
        inside(&syncs, || {
            for n in 0..20 {
                file.write_all(&[7; 4096]).context("could not write")?;
                let began = Instant::now();
                if n % 2 == 0 { file.sync_all() } else { file.sync_data() }.context("could not sync")?;
                took += began.elapsed();
            }
            for _ in 0..5 {
                file.write_all(&[7; 4096]).context("could not write")?;
                let began = Instant::now();
                sync_mapped(&file)?;
                took += began.elapsed();
            }
            let (_reader, pipe) = io::pipe().context("could not make a pipe")?;
            ensure!(File::from(OwnedFd::from(pipe)).sync_all().is_err(), "a pipe is not synced");
            Ok(())
        })?;
        inside(&writes, || file.write_all(&[7; 4096]).context("could not write"))?;
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        let durations = exports.histogram_of(syncs.path(), FSYNC_DURATION, &[]).context("no durations of syncs")?;
        println!("{took:?}: {durations:?}");
        ensure!(durations.count == 25, "{} syncs, not 25", durations.count);
        // What the system call takes beside the function is at most some µs; of an emulated CPU it may stand still in between.
        let least = if is_emulated() { 0.0 } else { took.as_secs_f64() - 25.0 * 100e-6 - 0.2 * took.as_secs_f64() };
        ensure!((least..=took.as_secs_f64()).contains(&durations.sum), "{} s of {took:?}", durations.sum);
        ensure!(exports.histogram(writes.path(), FSYNC_DURATION).is_none(), "who only writes has no syncs");
        ensure!(exports.value(syncs.path(), FSYNC_ERRORS, &[]).is_none(), "none failed");
        Ok(())
    }
}

root_test! {
    fn an_fsync_takes_at_least_as_long_as_its_device() {
        let Some(disk) = Disk::slow(TEST, SLOW)? else { return Ok(()) };
        let agent = agent()?;
        ensure!(measures(&agent, "no syncs of files"), "this kernel is to run programs at its functions: {}", agent.stderr());
        let (_pod, cgroup) = container("syncs")?;
        let file = disk.open(false)?;
        inside(&cgroup, || {
            (0..10).try_for_each(|_| {
                write_blocks(&file, 1)?;
                file.sync_all().context("could not sync")
            })
        })?;
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        let durations = exports.histogram_of(cgroup.path(), FSYNC_DURATION, &[]).context("no durations of syncs")?;
        println!("{durations:?}");
        ensure!(durations.count == 10, "{} syncs, not 10", durations.count);
        let (fastest, _) = durations.quantile_bounds(0.0).context("no durations")?;
        ensure!(fastest >= 0.91 * SLOW.as_secs_f64(), "one took {fastest} s");
        Ok(())
    }
}

root_test! {
    fn writes_that_io_max_holds_back_are_counted_and_those_of_others_are_not() {
        if !has_controllers(TEST, &["io"])? {
            return Ok(());
        }
        let Some(disk) = Disk::scratch(TEST)? else { return Ok(()) };
        let agent = agent()?;
        if !measures(&agent, "no I/O held back") {
            eprintln!("SKIPPED {TEST}: this kernel has no function for cgroups with a limit alone, which needs 5.13");
            return agent.stop().map(drop);
        }
        let ((_pod, limited), (_other, free)) = (container("limited")?, container("free")?);
        limited.write("io.max", &format!("{} wiops=10", disk.numbers()?))?;
        let file = disk.open(true)?;
        inside(&free, || write_blocks(&file, 10))?;
        let began = Instant::now();
        inside(&limited, || write_blocks(&file, 12))?;
        let took = began.elapsed();
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        let throttled = |cgroup| figure(&exports, cgroup, DISK_THROTTLED, "write");
        println!("{took:?}, {} writes held back", throttled(&limited));
        // The kernel gives a slice's worth of writes at once: nearly all of the others have to wait.
        ensure!(took > 500 * MS && took < 20 * SECOND, "12 writes of 10 per s took {took:?}");
        ensure!((6.0..=12.0).contains(&throttled(&limited)), "{} writes held back", throttled(&limited));
        ensure!(throttled(&free) == 0.0 && figure(&exports, &limited, DISK_THROTTLED, "read") == 0.0, "others were not");
        Ok(())
    }
}
