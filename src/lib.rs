//! stark: a prefork worker daemon for Redis queues.
//!
//! A master forks workers and keeps them alive; workers take jobs from a Redis list and hand them to a consumer, mostly
//! a script kept warm beside them; a keeper watches the queue and wakes who is idle. The program is [`cli::main`].
//! docs/ARCHITECTURE.md tells how the parts play together and why.
//!
//! | module | owns |
//! |---|---|
//! | [`cli`] | what may be typed |
//! | [`config`] | settings: read, checked, printed |
//! | `daemon` | pidfile, background, user, log |
//! | `master` | the loop that waits, collects, lets decide and performs |
//! | [`supervisor`] | all decisions on processes; pure |
//! | `worker` | a worker's life, its loop over jobs, its control thread |
//! | [`consumer`] | what runs a job: builtin, or a script behind its host |
//! | [`queue`] | the protocol on Redis: keys, scripts, tokens, reclaim |
//! | `keeper` | the watch on the queue, and lists of slots that are no more |
//! | [`scoreboard`] | records of slots, shared by all processes, which outlive them |
//! | [`channel`] | the socketpair between master and worker |
//! | `admin` | the port that Redis clients ask |
//! | [`resp`] | the protocol of Redis, within bounds; pure |
//! | `jitter` | seeded randomness; pure |
//! | [`sys`] | what the kernel offers and safe Rust does not |
//!
//! Imports go one way; `tests/layering.rs` holds the table. Of the modules, those are public that tests look into; what a
//! native consumer needs is re-exported here: [`Consumer`], [`Job`], [`Outcome`].

mod admin;
pub mod channel;
pub mod cli;
pub mod config;
pub mod consumer;
mod daemon;
pub mod jitter;
mod keeper;
mod master;
pub mod queue;
pub mod resp;
pub mod scoreboard;
pub mod supervisor;
#[expect(
    unsafe_code,
    reason = "what the kernel offers and safe Rust does not; nowhere else"
)]
pub mod sys;
mod worker;

pub use consumer::{Consumer, Outcome};
pub use queue::Job;
