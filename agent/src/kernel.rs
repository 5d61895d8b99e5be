//! Facts about this kernel.
pub mod btf;
