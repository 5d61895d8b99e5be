//! Programs for `cargo xtask bench` alone: what an empty program costs, so that every figure can be given above it.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the program macros make undocumented functions beside the documented ones")]

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

agent_ebpf::object!();

/// Does nothing at each context switch.
#[btf_tracepoint(function = "sched_switch")]
fn bench_empty_on_switch(_ctx: BtfTracePointContext) -> i32 {
    0
}
