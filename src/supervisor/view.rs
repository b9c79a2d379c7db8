//! What an operator sees of the supervision: phase, slots and counters, for INFO and its kin. Decides nothing.

use std::time::Instant;

use super::policy::Role;
use super::slot::SlotState;
use super::{Stage, Supervisor};
use crate::channel::message::RecycleReason;

/// Where the daemon stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Some workers have never been ready.
    Starting,
    /// At work.
    Running,
    /// At work; workers are replaced one by one.
    Reloading,
    /// Stopping, or stopped.
    Draining,
}

/// What happened to workers since the master's start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Processes forked.
    pub spawned: u64,
    /// Planned ends, in the order of [`RecycleReason::ALL`]; who left unasked counts as by order.
    pub recycled: [u64; RecycleReason::ALL.len()],
    /// Unplanned ends.
    pub crashed: u64,
    /// Pauses of the master itself.
    pub stalls: u64,
}

/// A slot as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotView<'a> {
    /// What lives there.
    pub role: Role,
    /// State and process.
    pub state: SlotState,
    /// Of the process there, or of the last one.
    pub generation: u64,
    /// Crashes in a row.
    pub crashes: u32,
    /// When the next process is forked, or this one's consumer started, if that is delayed.
    pub next_start: Option<Instant>,
    /// Why the consumer cannot be started, in its own words.
    pub failure: Option<&'a str>,
}

impl Supervisor {
    /// All slots, in their order.
    pub fn slots(&self) -> impl Iterator<Item = SlotView<'_>> {
        self.slots.iter().map(|slot| SlotView {
            role: slot.policy.role,
            state: slot.state,
            generation: slot.generation,
            crashes: slot.crashes,
            next_start: next_start(&slot.state),
            failure: slot.failure.as_ref().map(|it| it.message.as_str()),
        })
    }

    /// What happened to workers since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Where the daemon stands.
    pub fn phase(&self) -> Phase {
        match (&self.stage, &self.rolling) {
            (Stage::Starting { .. }, _) => Phase::Starting,
            (Stage::Up, None) => Phase::Running,
            (Stage::Up, Some(_)) => Phase::Reloading,
            (Stage::Stopping { .. } | Stage::Killing { .. } | Stage::Exited, _) => Phase::Draining,
        }
    }
}

/// When a delayed start is due.
fn next_start(state: &SlotState) -> Option<Instant> {
    match state {
        SlotState::Waiting { spawn_at, .. } => Some(*spawn_at),
        SlotState::Starting {
            process,
            consumer_delay,
            ..
        } => (!consumer_delay.is_zero()).then(|| process.spawned_at + *consumer_delay),
        SlotState::Spawning { .. }
        | SlotState::Occupied { .. }
        | SlotState::Evicting { .. }
        | SlotState::Running { .. }
        | SlotState::Draining { .. }
        | SlotState::Failed { .. }
        | SlotState::Stopping { .. }
        | SlotState::Terminating { .. }
        | SlotState::Killed { .. }
        | SlotState::Retired => None,
    }
}
