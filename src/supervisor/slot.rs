//! One slot: the state of its process, with the times that belong to it, and its history over generations. Transitions
//! that concern one slot alone are here; who is spawned, drained and killed when is decided by the supervisor.

use std::time::{Duration, Instant};

use super::event::{Ending, Exit, KillReason, Pid};
use super::policy::{HEALTHY_AFTER, SlotPolicy};
use crate::channel::message::RecycleReason;

/// Where a slot stands. `since` begins a limit and is moved by the master's pauses; the limits are in the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// No process; one is forked at the first tick from `spawn_at` on.
    Waiting {
        /// When to fork.
        spawn_at: Instant,
        /// Passed on to the process.
        consumer_delay: Duration,
    },
    /// The master was told to fork and has not answered yet.
    Spawning {
        /// Passed on to the process.
        consumer_delay: Duration,
    },
    /// A worker of an older master holds the slot's lock.
    Occupied {
        /// The holder; not a child of ours.
        pid: Pid,
        /// When it was found.
        since: Instant,
    },
    /// The holder waited too long and was killed; its lock is not free yet.
    Evicting {
        /// The holder.
        pid: Pid,
    },
    /// Forked, not ready yet.
    Starting {
        /// The process.
        process: Process,
        /// The start timeout runs from here.
        since: Instant,
        /// It starts its consumer so long after the fork.
        consumer_delay: Duration,
    },
    /// Ready.
    Running {
        /// The process.
        process: Process,
    },
    /// It finishes the job in hand and leaves, however long that takes; a successor follows.
    Draining {
        /// The process.
        process: Process,
        /// Why it is replaced.
        why: RecycleReason,
    },
    /// It said that its consumer cannot be started, and is leaving.
    Failed {
        /// The process.
        process: Process,
        /// When it said so.
        since: Instant,
    },
    /// It was told to drain because the daemon stops.
    Stopping {
        /// The process.
        process: Process,
        /// When it was told.
        since: Instant,
    },
    /// It did not drain in time and got a SIGTERM.
    Terminating {
        /// The process.
        process: Process,
        /// When it got it.
        since: Instant,
    },
    /// It got a SIGKILL; only its reaping leads out.
    Killed {
        /// The process.
        process: Process,
        /// Why.
        why: KillReason,
    },
    /// The daemon stops and the slot is empty for good.
    Retired,
}

/// A process of ours, forked and not reaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Ours alone until it is reaped.
    pub pid: Pid,
    /// When it was forked.
    pub spawned_at: Instant,
    /// When it said that it is ready.
    pub ready_at: Option<Instant>,
    /// Its last sign of life: its fork, or a message. Moved to the end of the master's pauses.
    pub heard_at: Instant,
    /// Resident memory of the process and its script's group in its last answer, in bytes.
    pub rss_bytes: u64,
    /// The newest heartbeat that was answered.
    pub(super) answered: u64,
}

impl Process {
    pub(super) fn new(pid: Pid, now: Instant) -> Self {
        Self {
            pid,
            spawned_at: now,
            ready_at: None,
            heard_at: now,
            rss_bytes: 0,
            answered: 0,
        }
    }
}

impl SlotState {
    /// The word in logs and replies.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Waiting { .. } => "waiting",
            Self::Spawning { .. } => "spawning",
            Self::Occupied { .. } => "occupied",
            Self::Evicting { .. } => "evicting",
            Self::Starting { .. } => "starting",
            Self::Running { .. } => "running",
            Self::Draining { .. } => "draining",
            Self::Failed { .. } => "failed",
            Self::Stopping { .. } => "stopping",
            Self::Terminating { .. } => "terminating",
            Self::Killed { .. } => "killed",
            Self::Retired => "retired",
        }
    }

    /// The process of ours that lives there or is not reaped yet.
    pub fn process(&self) -> Option<&Process> {
        match self {
            Self::Starting { process, .. }
            | Self::Running { process }
            | Self::Draining { process, .. }
            | Self::Failed { process, .. }
            | Self::Stopping { process, .. }
            | Self::Terminating { process, .. }
            | Self::Killed { process, .. } => Some(process),
            Self::Waiting { .. }
            | Self::Spawning { .. }
            | Self::Occupied { .. }
            | Self::Evicting { .. }
            | Self::Retired => None,
        }
    }

    /// The process if it is not killed yet: it is asked for heartbeats, and may be told and killed.
    pub(super) fn living(&mut self) -> Option<&mut Process> {
        match self {
            Self::Starting { process, .. }
            | Self::Running { process }
            | Self::Draining { process, .. }
            | Self::Failed { process, .. }
            | Self::Stopping { process, .. }
            | Self::Terminating { process, .. } => Some(process),
            Self::Waiting { .. }
            | Self::Spawning { .. }
            | Self::Occupied { .. }
            | Self::Evicting { .. }
            | Self::Killed { .. }
            | Self::Retired => None,
        }
    }

    /// The beginning of the limit that may get somebody killed.
    fn since_mut(&mut self) -> Option<&mut Instant> {
        match self {
            Self::Occupied { since, .. }
            | Self::Starting { since, .. }
            | Self::Failed { since, .. }
            | Self::Stopping { since, .. }
            | Self::Terminating { since, .. } => Some(since),
            Self::Waiting { .. }
            | Self::Spawning { .. }
            | Self::Evicting { .. }
            | Self::Running { .. }
            | Self::Draining { .. }
            | Self::Killed { .. }
            | Self::Retired => None,
        }
    }
}

/// A slot: what lives there now, and what lived there before.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) policy: SlotPolicy,
    pub(super) state: SlotState,
    /// Of the process there, or of the last one.
    pub(super) generation: u64,
    /// Crashes in a row.
    pub(super) crashes: u32,
    /// Generations since the last one that reclaimed, the living one included.
    pub(super) unreclaimed: u32,
    /// Refused forks in a row.
    pub(super) refusals: u32,
    /// Heartbeats asked for, over all generations.
    pub(super) asked: u64,
    /// Why the consumer could not be started, until one could.
    pub(super) failure: Option<Failure>,
}

/// A process said that its consumer cannot be started.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    /// Of the process.
    generation: u64,
    /// The consumer's own words.
    pub(super) message: String,
}

impl Slot {
    /// An empty slot whose process is due at once.
    pub(super) fn new(policy: SlotPolicy, now: Instant) -> Self {
        Self {
            generation: policy.last_generation,
            policy,
            state: SlotState::Waiting {
                spawn_at: now,
                consumer_delay: Duration::ZERO,
            },
            crashes: 0,
            unreclaimed: 0,
            refusals: 0,
            asked: 0,
            failure: None,
        }
    }

    /// The slot's process said that its consumer cannot be started.
    pub(super) fn fail(&mut self, message: String) {
        self.failure = Some(Failure {
            generation: self.generation,
            message,
        });
    }

    fn has_failed(&self) -> bool {
        let failure = self.failure.as_ref();
        failure.is_some_and(|failure| failure.generation == self.generation)
    }

    /// Takes the answer to a heartbeat; answers overtaken by newer ones prove nothing.
    pub(super) fn answered(&mut self, sequence: u64, rss_bytes: u64, now: Instant) {
        let asked = self.asked;
        if let Some(process) = self.state.living()
            && sequence > process.answered
            && sequence <= asked
        {
            process.answered = sequence;
            process.rss_bytes = rss_bytes;
            process.heard_at = now;
        }
    }

    /// A process that was ready for long enough has no crash history.
    pub(super) fn forget_crashes(&mut self, now: Instant) {
        let ready_at = self.state.process().and_then(|process| process.ready_at);
        if ready_at.is_some_and(|at| now.saturating_duration_since(at) >= HEALTHY_AFTER) {
            self.crashes = 0;
        }
    }

    /// Takes the master's pause out of all limits; heartbeats begin anew.
    pub(super) fn forgive(&mut self, pause: Duration, now: Instant) {
        if let Some(since) = self.state.since_mut() {
            *since += pause;
        }
        if let Some(process) = self.state.living() {
            process.heard_at = now;
        }
    }

    /// What the exit of this slot's process means.
    pub(super) fn ending(&self, exit: Exit) -> Ending {
        match (self.state, exit) {
            (SlotState::Running { .. }, Exit::Status(0)) => Ending::Left,
            (SlotState::Draining { why, .. }, Exit::Status(0)) => Ending::Recycled(why),
            (SlotState::Terminating { .. }, _) => Ending::Stopped,
            (SlotState::Failed { .. }, _) => Ending::Failed,
            // A refused start: what failed was told to drain with all the others.
            (SlotState::Stopping { .. }, Exit::Status(_)) if self.has_failed() => Ending::Failed,
            (SlotState::Stopping { .. }, Exit::Status(0)) => Ending::Stopped,
            (SlotState::Killed { why, .. }, _) => Ending::Killed(why),
            // Status 0 before it was ready as well: a loop of such starts must back off.
            (SlotState::Starting { .. }, _)
            | (
                SlotState::Running { .. } | SlotState::Draining { .. } | SlotState::Stopping { .. },
                Exit::Status(_) | Exit::Signal(_),
            ) => Ending::Crashed,
            // Without a process of ours there is nothing to reap.
            (
                SlotState::Waiting { .. }
                | SlotState::Spawning { .. }
                | SlotState::Occupied { .. }
                | SlotState::Evicting { .. }
                | SlotState::Retired,
                _,
            ) => Ending::Crashed,
        }
    }
}
