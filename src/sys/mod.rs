//! What the kernel offers and safe Rust does not: the only place with `unsafe`.
//! Functions here are small and decide nothing; policy lives with their callers.

pub mod affinity;
pub mod clock;
pub mod descriptors;
pub mod locks;
pub mod map;
pub mod memory;
pub mod process;
pub mod signals;
pub mod spawn;
pub mod title;
pub mod unix;
