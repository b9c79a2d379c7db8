//! What runs jobs: the trait that native consumers implement, the outcomes they answer with, the built-in ones, and
//! scripts kept warm beside the worker ([`script::Script`]). Called by the worker process on its main thread; where
//! jobs come from and what becomes of an outcome is the worker's and the queue's affair.

pub mod builtin;
mod hosts;
mod link;
mod output;
mod pace;
mod process;
pub mod script;
mod wire;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::queue::Job;

/// What a consumer says of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is finished.
    Done,
    /// It failed, with a reason in one line.
    Failed(String),
    /// Run it again, not before `after` has passed.
    Retry {
        /// Counted from now.
        after: Duration,
        /// In one line.
        reason: String,
    },
    /// Set it aside for good.
    Bury(String),
}

/// What a run without a job came to (pools without a queue).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ran {
    /// There was something to do; call again at once.
    Something,
    /// There was nothing to do; pause before the next call.
    Nothing,
    /// It failed, with a reason in one line.
    Failed(String),
}

/// Who runs the consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerInfo {
    /// The daemon's name.
    pub name: String,
    /// The pool's name.
    pub pool: String,
    /// Number of the slot in its pool, from 0.
    pub index: usize,
    /// Which process of the slot this is, from 1.
    pub generation: u64,
    /// stark's version.
    pub version: String,
}

/// A consumer of jobs that lives in the worker itself. A panic in any method is caught by the callers below.
pub trait Consumer {
    /// Called once before the first job.
    ///
    /// # Errors
    /// Why it cannot be used, in one line; the worker then does not become ready.
    fn init(&mut self, _worker: &WorkerInfo) -> Result<(), String> {
        Ok(())
    }

    /// Does the work of one job.
    fn run(&mut self, job: &Job) -> Outcome;

    /// Called again and again in pools without a queue.
    fn run_idle(&mut self) -> Ran {
        Ran::Nothing
    }

    /// Called once after the last job.
    fn complete(&mut self) {}
}

/// [`Consumer::init`]; a panic is a refusal.
///
/// # Errors
/// The consumer's own words.
pub fn init(consumer: &mut dyn Consumer, worker: &WorkerInfo) -> Result<(), String> {
    caught(|| consumer.init(worker)).unwrap_or_else(Err)
}

/// [`Consumer::run`]; a panic is a failed job.
pub fn run(consumer: &mut dyn Consumer, job: &Job) -> Outcome {
    caught(|| consumer.run(job)).unwrap_or_else(Outcome::Failed)
}

/// [`Consumer::run_idle`]; a panic is a failed run.
pub fn run_idle(consumer: &mut dyn Consumer) -> Ran {
    caught(|| consumer.run_idle()).unwrap_or_else(Ran::Failed)
}

/// [`Consumer::complete`].
///
/// # Errors
/// The words of a panic.
pub fn complete(consumer: &mut dyn Consumer) -> Result<(), String> {
    caught(|| consumer.complete())
}

/// The consumer may be left half changed by a panic. It is called again nevertheless, as a script is after an
/// exception: what it keeps between jobs is its own responsibility.
fn caught<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| format!("panicked: {}", words(&*panic)))
}

fn words(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Panics;

    impl Consumer for Panics {
        fn init(&mut self, _worker: &WorkerInfo) -> Result<(), String> {
            panic!("no database")
        }
        fn run(&mut self, job: &Job) -> Outcome {
            panic!("{} bytes are too many", job.payload.len())
        }
        fn run_idle(&mut self) -> Ran {
            std::panic::panic_any(7)
        }
        fn complete(&mut self) {
            panic!("twice")
        }
    }

    #[test]
    fn a_panic_is_a_failure_with_its_words() {
        let worker = WorkerInfo {
            name: "test".into(),
            pool: "test".into(),
            index: 0,
            generation: 1,
            version: "0".into(),
        };
        let job = Job::by_hand("q", Vec::new());
        assert_eq!(
            init(&mut Panics, &worker),
            Err("panicked: no database".into())
        );
        assert_eq!(
            run(&mut Panics, &job),
            Outcome::Failed("panicked: 0 bytes are too many".into())
        );
        assert_eq!(
            run_idle(&mut Panics),
            Ran::Failed("panicked: no message".into())
        );
        assert_eq!(complete(&mut Panics), Err("panicked: twice".into()));
    }
}
