//! stark: a prefork worker daemon for Redis queues.

pub mod admin;
pub mod channel;
pub mod cli;
pub mod config;
pub mod consumer;
pub mod daemon;
pub mod keeper;
pub mod master;
pub mod queue;
pub mod resp;
pub mod scoreboard;
pub mod supervisor;
#[expect(
    unsafe_code,
    reason = "what the kernel offers and safe Rust does not; nowhere else"
)]
pub mod sys;
pub mod worker;
