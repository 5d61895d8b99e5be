//! podmeter: what every container on this node really uses, measured in the kernel, exported as OTLP.
mod aggregate;
mod export;
mod histogram;
mod signals;
mod top;
fn main() {}
