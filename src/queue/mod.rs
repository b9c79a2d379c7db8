//! The queue: a list of jobs on a Redis server, and the protocol by which workers take them without losing one.
//!
//! A worker holds its jobs in a list of its own in the store, whose first element is a [`Token`]. Jobs move only inside
//! scripts, and each names the token it expects, so a command of a dead connection that still runs late changes
//! nothing. A queue has one key or several: the first one that has jobs is served. `reserve` is a worker's side of it,
//! `giveback` that of its control thread, `watch`, `due` and `sample` the keeper's, `producer` and `check` the command line's.
//! The scoreboard, waiting, logging and the order of a worker's life belong to others.

pub mod backoff;
pub mod batch;
mod check;
mod connection;
mod due;
mod error;
mod giveback;
pub mod header;
mod job;
pub mod keys;
mod producer;
mod reclaim;
mod reserve;
pub mod retry;
mod sample;
pub mod script;
mod socket;
mod token;
mod watch;

pub use backoff::Backoff;
pub use batch::{Batch, Measured};
pub use check::{Checked, check};
pub use due::{Due, Moved};
pub use error::QueueError;
pub use giveback::Tail;
pub use header::Header;
pub use job::{Extent, Job, Reservation, Settled};
pub use keys::{Keys, Registered};
pub use producer::Producer;
pub use reclaim::{Past, Reclaimed};
pub use reserve::{Identity, Queue};
pub use retry::{Fate, Verdict, fate};
pub use sample::{Sample, Sampler};
pub use token::Token;
pub use watch::{Event, Tracking, Watch};
