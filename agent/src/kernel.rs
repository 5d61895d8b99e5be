//! What this kernel is and can do, and everything that touches it: facts, offsets, loading, attaching, pinning.

pub mod absent;
pub mod btf;
pub mod capabilities;
pub mod clock;
pub mod descriptors;
pub mod facts;
pub mod load;
pub mod mounts;
pub mod pin;
pub mod price;
pub mod sys;
