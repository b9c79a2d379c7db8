//! The only place for `unsafe`: small wrappers of what the kernel offers, which decide nothing.

pub mod spawn;
