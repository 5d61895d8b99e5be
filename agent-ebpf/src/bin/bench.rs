//! Programs for `cargo xtask bench` alone: what an empty program costs, so that every figure can be given above it.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the program macros make undocumented functions beside the documented ones")]

use aya_ebpf::{
    macros::{btf_tracepoint, cgroup_skb, sock_ops},
    programs::{BtfTracePointContext, SkBuffContext, SockOpsContext},
};

agent_ebpf::object!();

/// Does nothing at each context switch.
#[btf_tracepoint(function = "sched_switch")]
fn bench_empty_on_switch(_ctx: BtfTracePointContext) -> i32 {
    0
}

/// Does nothing with each packet that the kernel drops.
#[btf_tracepoint(function = "kfree_skb")]
fn bench_empty_on_free(_ctx: BtfTracePointContext) -> i32 {
    0
}

/// Does nothing where a device gets a request.
#[btf_tracepoint(function = "block_rq_issue")]
fn bench_empty_on_issue(_ctx: BtfTracePointContext) -> i32 {
    0
}

/// Does nothing where a device has done a request.
#[btf_tracepoint(function = "block_rq_complete")]
fn bench_empty_on_complete(_ctx: BtfTracePointContext) -> i32 {
    0
}

/// Does nothing with each packet that a socket sends.
#[cgroup_skb(egress)]
fn bench_empty_on_egress(_ctx: SkBuffContext) -> i32 {
    1
}

/// Does nothing with each packet that a socket receives.
#[cgroup_skb(ingress)]
fn bench_empty_on_ingress(_ctx: SkBuffContext) -> i32 {
    1
}

/// Does nothing at each event of a TCP socket.
#[sock_ops]
fn bench_empty_on_event(_ctx: SockOpsContext) -> u32 {
    1
}
