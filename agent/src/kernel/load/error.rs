//! Why an object could not be brought into the kernel, and which of the verifier's many lines says so.

use std::{io, path::PathBuf};

use aya::programs::ProgramError;

use crate::kernel::{btf::BtfError, mounts::MountError, pin::PinError};

/// Why something could not be brought into the kernel.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel shows no types, or damaged ones.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// bpffs is missing.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Pins cannot be used.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The machine's CPUs are unknown.
    #[error("could not read the list of CPUs")]
    Cpus(#[source] io::Error),
    /// The object's maps could not be created.
    #[error("could not create the maps of {object}")]
    Object {
        /// The object.
        object: &'static str,
        /// What aya or the kernel said.
        #[source]
        source: Box<aya::EbpfError>,
    },
    /// The object lacks what the agent expects of it.
    #[error("{object} has no {what} {name}: the agent and its eBPF objects are of different builds")]
    Missing {
        /// The object.
        object: &'static str,
        /// `map` or `program`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The kernel refused to load a program.
    #[error("could not load {program}{}", source.verdict())]
    Refused {
        /// The program.
        program: String,
        /// What the kernel said; the verifier's log is on further lines.
        #[source]
        source: Refusal,
    },
    /// A program could not be attached or run.
    #[error("could not {action} {program}")]
    Program {
        /// `load`, `attach`, `run`, `call`.
        action: &'static str,
        /// The program.
        program: String,
        /// The kernel's error.
        #[source]
        source: Box<ProgramError>,
    },
    /// Another program is attached to the same cgroup in such a way that the kernel lets none be attached beside it.
    #[error(
        "could not attach {program}: {others} to {} in a way that allows no other program beside it; have it attached with \
         BPF_F_ALLOW_MULTI or as a link, or detach it",
        path.display()
    )]
    Exclusive {
        /// The program.
        program: String,
        /// Which programs are there, as the beginning of a sentence: `program 12 (legacy) is attached`.
        others: String,
        /// The cgroup.
        path: PathBuf,
    },
    /// The configuration leaves the program out.
    #[error("could not load {program}: bpf.leave_out names it")]
    LeftOut {
        /// The program.
        program: String,
    },
    /// The kernel would take the program, and may crash where it runs.
    #[error("{program} is not loaded: {why}")]
    Crashes {
        /// The program.
        program: String,
        /// Where, and since or until when.
        why: &'static str,
    },
    /// The cgroup that programs are attached to could not be opened.
    #[error("could not open the root of the cgroup tree at {}", path.display())]
    Root {
        /// The mount point of cgroup2.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// A link could not be made, pinned, taken over or read.
    #[error("could not {action} the link of {program}")]
    Link {
        /// `make`, `pin`, `open` or `read`.
        action: &'static str,
        /// The program.
        program: String,
        /// The kernel's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A map could not be read or written.
    #[error("could not {action} the map {map}")]
    Map {
        /// What was being done.
        action: &'static str,
        /// The map.
        map: &'static str,
        /// The kernel's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl LoadError {
    /// Whether a program could not be run because its CPU is offline (`bpf_prog_test_run_raw_tp`, `smp_call_function_single`).
    pub fn is_of_no_cpu(&self) -> bool {
        let Self::Program { action: "run", source, .. } = self else { return false };
        matches!(&**source, ProgramError::SyscallError(error) if error.io_error.raw_os_error() == Some(nix::libc::ENXIO))
    }

    /// Of a program that could not be loaded.
    pub(super) fn of_load(program: &str, error: ProgramError) -> Self {
        let program = program.to_owned();
        match error {
            ProgramError::LoadError { io_error, verifier_log } => {
                Self::Refused { program, source: Refusal { error: io_error, log: verifier_log.to_string() } }
            }
            other => Self::Program { action: "load", program, source: Box::new(other) },
        }
    }
}

/// What the kernel said when it refused a program.
#[derive(Debug, thiserror::Error)]
#[error("{error}{}{log}", if log.is_empty() { "" } else { "\n" })]
pub struct Refusal {
    error: io::Error,
    /// The verifier's log; empty where the program did not get that far.
    log: String,
}

impl Refusal {
    /// The verifier's reason, as the end of a sentence.
    fn verdict(&self) -> String {
        reason(&self.log).map(|reason| format!(": {reason}")).unwrap_or_default()
    }
}

/// The line of a verifier's log that says why it refused a program.
///
/// The log first follows the program instruction by instruction. The reason comes after the instruction that it is about, and only
/// statistics come after it (`print_verification_stats` in the kernel's verifier.c).
fn reason(log: &str) -> Option<&str> {
    const STATISTICS: [&str; 5] = ["processed ", "verification time ", "stack depth ", "insns ", "max_states"];
    let is_reason = |line: &&str| {
        let is_instruction = line.split_once(':').is_some_and(|(number, _)| number.bytes().all(|b| b.is_ascii_digit()));
        let is_state = line.starts_with("R0") || line.starts_with("R1=") || line.starts_with("from ") || line.starts_with(';');
        !line.is_empty() && !is_instruction && !is_state && !STATISTICS.iter().any(|start| line.starts_with(start))
    };
    log.lines().map(str::trim).rev().find(is_reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_that_went_offline_is_told_from_a_kernel_that_refuses() {
        let of = |action, errno| {
            let io_error = io::Error::from_raw_os_error(errno);
            let source = ProgramError::SyscallError(aya::sys::SyscallError { call: "bpf_prog_test_run", io_error });
            LoadError::Program { action, program: "cpu_settle".to_owned(), source: Box::new(source) }
        };
        assert!(of("run", nix::libc::ENXIO).is_of_no_cpu());
        assert!(!of("run", nix::libc::EPERM).is_of_no_cpu());
        assert!(!of("attach", nix::libc::ENXIO).is_of_no_cpu());
        assert!(!LoadError::Cpus(io::Error::from_raw_os_error(nix::libc::ENXIO)).is_of_no_cpu());
    }

    #[test]
    fn the_verifiers_reason_is_found_among_its_lines() {
        let refused = "func#0 @0\n0: R1=ctx() R10=fp0\n; let path = ctx.arg(1); @ cgroups.rs:60\n0: (79) r3 = *(u64 *)(r1 +8)\n\
            func 'cgroup_mkdir' arg1 has btf_id 12 type STRUCT 'x'\n1: R1=ctx() R3_w=scalar()\n\
            1: (85) call bpf_probe_read_kernel_str#115\nprogram of this type cannot use helper bpf_probe_read_kernel_str#115\n\
            verification time 25 usec\nstack depth 0\nprocessed 2 insns (limit 1000000) max_states_per_insn 0 total_states 0 \
            peak_states 0 mark_read 0\n";
        assert_eq!(reason(refused), Some("program of this type cannot use helper bpf_probe_read_kernel_str#115"));
        let old = "0: (bf) r6 = r1\nR1 type=ctx expected=fp\nprocessed 1 insns (limit 1000000)";
        assert_eq!(reason(old), Some("R1 type=ctx expected=fp"));
        assert_eq!(reason("0: R1=ctx() R10=fp0\n"), None);
        assert_eq!(reason(""), None);
    }
}
