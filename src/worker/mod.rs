//! One worker: reserves jobs, runs the consumer, settles.
//!
//! `life` is what happens between the fork and the exit, `cycle` the loop over jobs, `control` the thread that answers
//! the master, `limits` when to be recycled, `hold` the reserved list, `outage` what is told of a store that is away,
//! `runner` the consumer, `care` what is looked after while a job runs (`alarm`, `overdue`, `time_limit`). It knows nothing of the
//! master but its end of the channel.

mod alarm;
mod care;
pub mod control;
mod cycle;
mod hold;
mod judge;
mod life;
pub mod limits;
pub mod outage;
mod overdue;
pub mod past;
mod runner;
mod time_limit;

pub use life::{Birth, live};
