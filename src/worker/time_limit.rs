//! `run.max_job_seconds`: the control thread ends a job that takes too long. A script gets SIGTERM with all it has started,
//! and SIGKILL three seconds later; its job has failed, and the worker goes on. A native consumer cannot be ended alone:
//! its job is marked as failed and the worker ends.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::scoreboard::{Identity, Record};
use crate::sys::{clock, process};

/// From SIGTERM to SIGKILL.
const KILL_GRACE: Duration = Duration::from_secs(3);

/// The limit of one worker's jobs.
#[derive(Debug)]
pub struct TimeLimit {
    limit: Duration,
    /// The main thread is in the consumer.
    is_running: AtomicBool,
    /// Progress of the reservation whose job in hand was ended; 0: none was.
    ended: AtomicU64,
    stage: Mutex<Stage>,
}

#[derive(Debug)]
enum Stage {
    Watching,
    /// These were told to end, and are killed at this time.
    Terminated {
        condemned: Vec<Identity>,
        kill_at: Duration,
    },
}

/// What the control thread does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: no job is in hand.
    Rest,
    /// Look again at this time (monotonic).
    LookAt(Duration),
    /// A native consumer took too long: end the worker, whose job counts as failed.
    EndWorker,
}

impl TimeLimit {
    /// Of jobs that may take so long.
    pub fn new(limit: Duration) -> Self {
        Self {
            limit,
            is_running: AtomicBool::new(false),
            ended: AtomicU64::new(0),
            stage: Mutex::new(Stage::Watching),
        }
    }

    /// Main thread: the consumer begins; answers when to look after it (monotonic).
    pub fn begin(&self) -> Duration {
        self.is_running.store(true, Ordering::Release);
        clock::monotonic() + self.limit
    }

    /// Main thread: the consumer is left.
    pub fn end(&self) {
        self.is_running.store(false, Ordering::Release);
    }

    /// Main thread: the script died with a job in hand. Why that job has failed, if it was ended for its time.
    pub fn verdict(&self, record: Record<'_>) -> Option<String> {
        let ended = self.ended.swap(0, Ordering::AcqRel);
        (ended != 0 && ended == record.progress_word()).then(|| self.words())
    }

    fn words(&self) -> String {
        format!("timeout limit_ms={}", self.limit.as_millis())
    }

    /// Control thread: ends the job in hand if it has run for too long.
    pub fn check(&self, record: Record<'_>, label: &str) -> Next {
        let now = clock::monotonic();
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if let Stage::Terminated { condemned, kill_at } = &*stage {
            if now < *kill_at {
                return Next::LookAt(*kill_at);
            }
            end(condemned, Signal::SIGKILL);
            *stage = Stage::Watching;
        }
        if !self.is_running.load(Ordering::Acquire) {
            return Next::Rest;
        }
        let victim = record.progress_word();
        let (since, at) = (record.since(), record.since() + self.limit);
        if now < at {
            return Next::LookAt(at);
        }
        log::warn!(
            "job took too long {label} ran_ms={} limit_ms={}",
            now.saturating_sub(since).as_millis(),
            self.limit.as_millis()
        );
        let script = record.script();
        if !script.is_alive() {
            return match record.fail_job_in_hand(victim) {
                true => Next::EndWorker,
                // It ended at the last moment.
                false => Next::LookAt(now + self.limit),
            };
        }
        self.ended.store(victim, Ordering::Release);
        let condemned: Vec<Identity> = process::descent(script.pid)
            .into_iter()
            .map(Identity::of)
            .collect();
        end(&condemned, Signal::SIGTERM);
        let kill_at = now + KILL_GRACE;
        *stage = Stage::Terminated { condemned, kill_at };
        Next::LookAt(kill_at)
    }
}

/// Its group as well: who joined it since.
fn end(condemned: &[Identity], signal: Signal) {
    for (place, one) in condemned.iter().enumerate() {
        if !one.is_alive() {
            continue;
        }
        let _ = match place {
            0 => process::signal_group(one.pid, signal),
            _ => process::signal(one.pid, signal),
        };
    }
}
