//! The queue: a list of jobs on a Redis server, and the protocol by which workers take them without losing one.
//!
//! A worker holds its jobs in a list of its own in the store, whose first element is a [`Token`]. Jobs move only inside
//! scripts, and each names the token it expects, so a command of a dead connection that still runs late changes
//! nothing. `reserve` is a worker's side of it, `watch` the keeper's, `producer` and `check` the command line's.
//! The scoreboard, waiting, logging and the order of a worker's life belong to others.

pub mod backoff;
pub mod batch;
mod check;
mod connection;
mod error;
mod job;
pub mod keys;
mod producer;
mod reserve;
pub mod script;
mod socket;
mod token;
mod watch;

pub use backoff::Backoff;
pub use batch::{Batch, Measured};
pub use check::{Checked, check};
pub use error::QueueError;
pub use job::{Job, Reservation, Settled};
pub use keys::{Keys, Registered};
pub use producer::Producer;
pub use reserve::{Identity, Queue, Reclaimed};
pub use token::Token;
pub use watch::{Event, Tracking, Watch};
