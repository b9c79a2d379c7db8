//! The socketpair between the master and one worker.

pub mod message;
