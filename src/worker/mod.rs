//! One worker: reserves jobs, runs the consumer, settles.
//!
//! `life` is what happens between the fork and the exit, `cycle` the loop over jobs, `control` the thread that answers
//! the master, `limits` when to be recycled. It knows nothing of the master but its end of the channel.

pub mod control;
pub mod limits;
