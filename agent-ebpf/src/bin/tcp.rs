//! The tcp signal, for kernels that compare and exchange: see `tcp/programs.rs`.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "the program macros make undocumented functions beside the documented ones")]

#[path = "tcp/count.rs"]
mod count;
#[path = "tcp/open.rs"]
mod open;
#[path = "tcp/programs.rs"]
mod programs;
#[path = "tcp/quality.rs"]
mod quality;

agent_ebpf::object!(FACTS: agent_common::tcp::Facts);

/// Whether programs may have the instruction that compares and exchanges.
const EXCHANGES: bool = true;
