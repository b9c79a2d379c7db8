//! What the supervisor is told and what it answers. Events are facts and orders from the master, actions are what the
//! master has to do next; both are plain data. Actions carry the measured value beside the limit, and [`Fact`]s carry
//! what is worth a log line, so that the master only prints and performs.

use std::fmt;
use std::time::Duration;

use crate::channel::message::{RecycleReason, ToMaster, ToWorker};

/// A process id as the kernel counts them; always positive.
pub type Pid = i32;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// [`Action::Spawn`] was performed. Comes before any other event of this process.
    Spawned {
        /// Slot of the process.
        slot: usize,
        /// As in the action.
        generation: u64,
        /// The new process.
        pid: Pid,
    },
    /// [`Action::Spawn`] could not be performed: the kernel refused the fork.
    SpawnFailed {
        /// Slot without a process.
        slot: usize,
        /// As in the action.
        generation: u64,
        /// What the kernel said.
        error: String,
    },
    /// A process said something; dropped when another generation lives in the slot.
    Message {
        /// Slot of the sender.
        slot: usize,
        /// Generation of the sender.
        generation: u64,
        /// What it said.
        message: ToMaster,
    },
    /// A child was reaped; unknown ones (orphans that the master inherited) are ignored.
    Exited {
        /// The reaped process.
        pid: Pid,
        /// How it ended.
        exit: Exit,
    },
    /// A worker of an older master holds the slot's lock. Told before the first tick, or instead of a fork.
    Occupied {
        /// The slot that must wait.
        slot: usize,
        /// The holder; not a child of ours.
        pid: Pid,
    },
    /// The holder of [`Event::Occupied`] is gone.
    Vacated {
        /// The slot that is free now.
        slot: usize,
        /// The former holder.
        pid: Pid,
    },
    /// An operator wants something.
    Order(Order),
    /// The turn's last event: time to look at deadlines and to spawn.
    Tick,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It left with this status.
    Status(i32),
    /// This signal ended it.
    Signal(i32),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "exited with status {status}"),
            Self::Signal(signal) => write!(f, "was ended by signal {signal}"),
        }
    }
}

/// What an operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Finish the jobs in hand and leave; given twice it means [`Order::ShutdownNow`].
    Shutdown,
    /// Kill everything and leave.
    ShutdownNow,
    /// Replace the workers one by one.
    Reload,
}

/// What the master has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Fork a process for the slot; answered by [`Event::Spawned`], [`Event::SpawnFailed`] or [`Event::Occupied`].
    Spawn {
        /// The slot, empty until now.
        slot: usize,
        /// One higher than the slot's last.
        generation: u64,
        /// How long the process waits before it starts its consumer; it reclaims at once.
        consumer_delay: Duration,
    },
    /// Send a message to the slot's process.
    Send {
        /// The receiver's slot.
        slot: usize,
        /// The receiver's generation.
        generation: u64,
        /// The message.
        message: ToWorker,
    },
    /// SIGTERM to the script and its worker.
    Terminate {
        /// Slot of the process.
        slot: usize,
        /// The worker.
        pid: Pid,
    },
    /// SIGKILL to the process and its groups.
    Kill {
        /// Slot of the process.
        slot: usize,
        /// The process; a child of ours except for [`KillReason::Holder`].
        pid: Pid,
        /// For the log.
        why: KillReason,
    },
    /// Every worker has been ready; said once.
    AllReady,
    /// All slots are empty for good: leave with this status. The last action there is.
    Exit {
        /// 0 as ordered, 69 after a refused start.
        status: u8,
    },
    /// Worth a log line.
    Report(Fact),
}

/// Why a process is killed: what was measured, beside its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReason {
    /// It was not ready in time (or, after saying that it cannot start, did not leave).
    StartTimeout {
        /// Since the fork.
        after: Duration,
        /// The consumer's delay and `worker.start_seconds`.
        limit: Duration,
    },
    /// It was silent.
    Heartbeat {
        /// Since its last sign of life.
        silent: Duration,
        /// Three heartbeat intervals.
        limit: Duration,
    },
    /// It used more than 150 % of `run.memory_limit`.
    Memory {
        /// Resident memory of worker and script.
        rss_bytes: u64,
        /// The 150 %.
        limit_bytes: u64,
    },
    /// It outlived the order to drain and the SIGTERM after it.
    ShutdownTimeout {
        /// Since the SIGTERM.
        after: Duration,
        /// The three seconds that it has then.
        limit: Duration,
    },
    /// An operator did not want to wait.
    ShutdownNow,
    /// It belongs to an older master and held the slot's lock for too long.
    Holder {
        /// Since it was found.
        waited: Duration,
        /// `main.shutdown_timeout`.
        limit: Duration,
    },
}

impl KillReason {
    /// The word in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::StartTimeout { .. } => "start_timeout",
            Self::Heartbeat { .. } => "heartbeat",
            Self::Memory { .. } => "memory",
            Self::ShutdownTimeout { .. } => "shutdown_timeout",
            Self::ShutdownNow => "shutdown_now",
            Self::Holder { .. } => "holder",
        }
    }
}

/// What is worth a log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A process can take jobs (or keep house).
    Ready {
        /// Its slot.
        slot: usize,
        /// The process.
        pid: Pid,
        /// Its generation.
        generation: u64,
        /// From fork to ready.
        start: Duration,
    },
    /// A process is gone.
    Exited {
        /// Its slot.
        slot: usize,
        /// The process, reaped.
        pid: Pid,
        /// Its generation.
        generation: u64,
        /// What the kernel says.
        exit: Exit,
        /// What it means.
        ending: Ending,
    },
    /// The consumer cannot be started; the slot tries again.
    ConsumerFailed {
        /// The slot.
        slot: usize,
        /// The process that tried.
        pid: Pid,
        /// Its generation.
        generation: u64,
        /// The consumer's own words.
        message: String,
        /// Until the next attempt.
        retry_in: Duration,
    },
    /// The first start of a worker failed: the daemon stops with status 69.
    StartRefused {
        /// The slot.
        slot: usize,
        /// The consumer's own words, or how the worker ended.
        message: String,
    },
    /// The kernel refused a fork.
    SpawnRefused {
        /// The slot.
        slot: usize,
        /// The generation that was not to be.
        generation: u64,
        /// What the kernel said.
        error: String,
        /// Until the next attempt.
        retry_in: Duration,
    },
    /// The master itself did not run for so long; nobody is blamed for that time.
    Paused {
        /// Since its last turn.
        pause: Duration,
    },
    /// Every worker was replaced.
    ReloadFinished,
    /// A replaced worker's successor did not become ready; the others stay as they are.
    ReloadStopped {
        /// Slot of the successor.
        slot: usize,
    },
}

/// What the end of a process means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Announced by itself or asked for: a planned replacement.
    Recycled(RecycleReason),
    /// Status 0 from a ready process that nobody had asked, as after a SIGTERM by hand.
    Left,
    /// The end of a shutdown.
    Stopped,
    /// It had said that its consumer cannot be started.
    Failed,
    /// Killed by us.
    Killed(KillReason),
    /// Anything else; SIGKILL here was not sent by us.
    Crashed,
}

impl Ending {
    /// Whether this is nothing to worry about.
    pub fn is_planned(self) -> bool {
        match self {
            Self::Recycled(_) | Self::Left | Self::Stopped => true,
            Self::Failed | Self::Crashed => false,
            Self::Killed(why) => match why {
                KillReason::ShutdownTimeout { .. } | KillReason::ShutdownNow => true,
                KillReason::StartTimeout { .. }
                | KillReason::Heartbeat { .. }
                | KillReason::Memory { .. }
                | KillReason::Holder { .. } => false,
            },
        }
    }
}
