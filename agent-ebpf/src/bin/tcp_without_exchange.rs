//! The tcp signal, for kernels that do not compare and exchange: before Linux 5.12, on ARM before 5.18.
//!
//! The same programs as those of `tcp.rs`. These kernels refuse a program that has the instruction, even where it is never reached.
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
const EXCHANGES: bool = false;
