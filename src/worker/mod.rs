//! One worker: reserves jobs, runs the consumer, settles.
//!
//! `life` is what happens between the fork and the exit, `cycle` the loop over jobs, `control` the thread that answers
//! the master, `limits` when to be recycled, `hold` the reserved list, `overdue` what becomes of jobs behind a long one,
//! `outage` what is told of a store that is away, `runner` the consumer. It knows nothing of the master but its end of the channel.

pub mod control;
mod cycle;
mod hold;
mod life;
pub mod limits;
pub mod outage;
pub mod overdue;
mod runner;

pub use life::{Birth, live};
