//! The records of the `disk` signal.

use crate::{bucket, known::Known};

/// Index of the first bucket of durations, in units of 2^-30 s: what took up to 2^-17 s (7.6 µs) is in the zero bucket.
pub const DURATION_FIRST: i32 = 104;

/// Buckets of durations: position 0, then 22 octaves of eight up to 32 s; longer ones are in the last.
pub const DURATION_LEN: usize = 1 + 22 * 8;

/// Requests of all devices together that are noted. Of more, those used last are: what is in flight is, unless it is so many.
pub const REQUESTS_LEN: usize = 8192;

/// Tasks that may sync a file at once. More are not counted, but for their number.
pub const SYNCS_LEN: usize = 1024;

/// Rows of devices: 256 devices with four directions each. Of more devices only `/proc/diskstats` is exported.
pub const DEVICE_ROWS_LEN: u32 = 1024;

/// The position of a duration in ns among the [`DURATION_LEN`] buckets.
#[inline(always)]
pub const fn duration_position(ns: u64) -> usize {
    bucket::duration_position::<DURATION_FIRST, DURATION_LEN>(ns)
}

/// What a request does: the kind of a [`Row`] and of a [`DeviceRow`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Direction {
    /// Reads.
    Read,
    /// Writes, or fills with zeros.
    Write,
    /// Tells the device that blocks are not in use any more.
    Discard,
    /// Has the device write down what is in its cache. It has no bytes.
    Flush,
}

impl Direction {
    /// Each with its name, in the order of their kinds.
    pub const ALL: [(Self, &'static str); 4] =
        [(Self::Read, "read"), (Self::Write, "write"), (Self::Discard, "discard"), (Self::Flush, "flush")];

    /// Of a request with these flags (`request.cmd_flags`), `None` of one that is no such thing: a command of a driver, or of a zone.
    ///
    /// The kernel may number them anew (`enum req_op`), but has kept these since 5.10. An odd number carries data to the device; those from
    /// 32 on are of drivers.
    #[inline(always)]
    pub const fn of_flags(flags: u32) -> Option<Self> {
        match flags & 0xff {
            0 => Some(Self::Read),
            2 => Some(Self::Flush),
            3 => Some(Self::Discard),
            op if op < 32 && op & 1 == 1 => Some(Self::Write),
            _ => None,
        }
    }
}

/// The kind of the [`Row`] that has how long tasks waited for syncs.
pub const SYNC: u32 = Direction::ALL.len() as u32;

/// A [`Row`]'s kind is below this.
pub const ROW_KINDS: u32 = SYNC + 1;

record! {
    /// A request that a device has got. `DISK_REQUESTS[address of the request]`.
    pub struct Request {
        /// CLOCK_MONOTONIC in ns when it was issued; 0 when it is done. The entry stays: its device uses the request again.
        pub issued_ns: u64,
        /// The id of the cgroup that it is of.
        pub cgroup: u64,
        /// The slot of the cgroup that it was of when it was done last: mostly the same one's.
        pub slot: Known,
    }
}

record! {
    /// A task that syncs a file. `DISK_SYNCS[thread id]`.
    pub struct Sync {
        /// CLOCK_MONOTONIC in ns when it began.
        pub began_ns: u64,
        /// The first argument, an address, of the function that it began in. What that calls ends inside, and is not counted: `fsync` ends
        /// up in `vfs_fsync_range`, and a file system that is made of another (overlayfs) syncs the other's file.
        pub of: u64,
    }
}

counts! {
    /// What one slot had of one [`Direction`], or of syncs. `DISK_ROWS[{slot, kind}]`.
    pub struct Row {
        /// Bytes that were completed without an error; 0 of syncs.
        pub bytes: u64,
        /// Sum of all durations in ns.
        pub sum_ns: u64,
        /// By duration: requests from their start to their completion.
        pub buckets: [u64; DURATION_LEN],
    }
}

counts! {
    /// What one device had of one [`Direction`]. `DISK_DEVICES[{major << 20 | minor, direction}]`.
    pub struct DeviceRow {
        /// Time from start to issue in ns, of requests with a known start.
        pub waiting_ns: u64,
        /// Time from issue to completion in ns.
        pub device_ns: u64,
        /// Requests, or parts of one, that ended with an error.
        pub errors: u64,
        /// Sum of all durations in ns.
        pub sum_ns: u64,
        /// By duration, from start to completion.
        pub buckets: [u64; DURATION_LEN],
    }
}

counts! {
    /// What one slot had beside that. `DISK_COUNTS[slot]`; any CPU adds.
    pub struct DiskCounts {
        /// Reads and writes that had to wait for the cgroup's `io.max`.
        pub throttled: [u64; 2],
        /// Syncs that ended with an error.
        pub sync_errors: u64,
    }
}

counts! {
    /// What was not counted. `DISK_LOST[0]`; any CPU adds.
    pub struct Lost {
        /// Requests of which the entry was used for another, since more than [`REQUESTS_LEN`] are in use.
        pub requests: u64,
        /// Syncs, since [`SYNCS_LEN`] tasks were in one.
        pub syncs: u64,
        /// Requests and syncs whose cgroup or device has no row, since there was no memory for one.
        pub rows: u64,
    }
}

record! {
    /// Offsets into kernel structs in bytes, found in the running kernel's BTF; frozen before the programs load.
    pub struct Facts {
        /// `request.cmd_flags`, 32 bits
        pub rq_flags: u64,
        /// `request.__data_len`, 32 bits
        pub rq_data_len: u64,
        /// `request.bio`
        pub rq_bio: u64,
        /// `request.start_time_ns`
        pub rq_start_ns: u64,
        /// `request.rq_disk`, or `request.q` where the disk is the queue's.
        pub rq_disk: u64,
        /// `request_queue.disk`
        pub queue_disk: u64,
        /// 1 where the disk is the queue's (since 5.17), 0 where it is the request's.
        pub disk_is_of_queue: u64,
        /// `gendisk.major`, 32 bits
        pub disk_major: u64,
        /// `gendisk.first_minor`, 32 bits
        pub disk_minor: u64,
        /// `bio.bi_blkg`
        pub bio_blkg: u64,
        /// `bio.bi_opf`, 32 bits
        pub bio_flags: u64,
        /// `blkcg_gq.blkcg`
        pub blkg_blkcg: u64,
        /// `blkcg.css.cgroup`
        pub blkcg_cgroup: u64,
        /// `cgroup.level`, 32 bits; 0 of the root
        pub cgroup_level: u64,
        /// `cgroup.kn`
        pub cgroup_kn: u64,
        /// `kernfs_node.id`
        pub kn_id: u64,
        /// 1 where the io controller is in cgroup2, so that a request's own cgroup is one of its.
        pub by_bio: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_by_seconds_boundaries() {
        // 2^-17 s = 7629.4 ns is the zero bucket's bound; 32 s is 22 octaves above it.
        assert_eq!([0, 7629, 7631].map(duration_position), [0, 0, 1]);
        assert_eq!((duration_position(31_999_990_000), duration_position(32_001_000_000)), (DURATION_LEN - 1, DURATION_LEN - 1));
        assert_eq!(duration_position(499_999_900), 16 * 8);
    }

    #[test]
    fn a_requests_flags_say_what_it_does() {
        const FUA: u32 = 1 << 17;
        let of = Direction::of_flags;
        assert_eq!([of(0), of(FUA | 1), of(3), of(FUA | 2)].map(|d| d.map(|d| d as u32)), [Some(0), Some(1), Some(2), Some(3)]);
        // Zeros and appends carry data to the device; a report of zones and a command of a driver are none of these.
        assert_eq!([of(7), of(9), of(10), of(34), of(35)].map(|d| d.is_some()), [true, true, false, false, false]);
        assert!(Direction::ALL.iter().zip(0..).all(|((direction, _), kind)| *direction as u32 == kind));
    }
}
