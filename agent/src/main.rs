//! podmeter: what every container on this node really uses, measured in the kernel, exported as OTLP.
mod aggregate;
mod cgroups;
mod config;
mod histogram;
mod kernel;
mod signals;
mod top;
fn main() {}
