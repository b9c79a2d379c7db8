//! The tick: which deadline a state has, what happens when it has passed, memory, and the common heartbeat. Limits begin
//! with the state that holds them, so that no stale one can fire.

use std::time::{Duration, Instant};

use super::event::{Action, KillReason, Pid};
use super::policy::KILL_GRACE;
use super::slot::{Process, SlotState};
use super::{Stage, Supervisor};
use crate::channel::message::ToWorker;

impl Supervisor {
    pub(super) fn tick(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for index in 0..self.slots.len() {
            self.slots[index].forget_crashes(now);
            if self.silence_deadline(index).is_some_and(|at| at <= now) {
                self.kill_silent(index, now, actions);
            }
            self.limit_memory(index, actions);
            if self.state_deadline(index).is_some_and(|at| at <= now) {
                self.expire(index, now, actions);
            }
        }
        if self.next_heartbeat <= now {
            self.ask_all(now, actions);
        }
        self.roll(actions);
    }

    /// When the slot's state has lasted long enough.
    pub(super) fn state_deadline(&self, index: usize) -> Option<Instant> {
        let slot = &self.slots[index];
        let drain_timeout = self.policy.drain_timeout(slot.policy.role);
        match slot.state {
            SlotState::Waiting { spawn_at, .. } => Some(spawn_at),
            SlotState::Occupied { since, .. } => Some(since + self.policy.shutdown_timeout),
            SlotState::Starting {
                since,
                consumer_delay,
                ..
            } => Some(since + consumer_delay + slot.policy.start_timeout),
            SlotState::Failed { since, .. } => Some(since + slot.policy.start_timeout),
            SlotState::Stopping { since, .. } => Some(since + drain_timeout),
            SlotState::Terminating { since, .. } => Some(since + KILL_GRACE),
            SlotState::Spawning { .. }
            | SlotState::Evicting { .. }
            | SlotState::Running { .. }
            | SlotState::Draining { .. }
            | SlotState::Killed { .. }
            | SlotState::Retired => None,
        }
    }

    /// Does what [`Self::state_deadline`] was for.
    fn expire(&mut self, index: usize, now: Instant, actions: &mut Vec<Action>) {
        let slot = &mut self.slots[index];
        let passed = |since| now.saturating_duration_since(since);
        match slot.state {
            SlotState::Waiting { consumer_delay, .. } => self.spawn(index, consumer_delay, actions),
            SlotState::Starting {
                since,
                consumer_delay,
                ..
            } => {
                let limit = consumer_delay + slot.policy.start_timeout;
                let after = passed(since);
                self.kill(index, KillReason::StartTimeout { after, limit }, actions);
            }
            SlotState::Failed { since, .. } => {
                let limit = slot.policy.start_timeout;
                let after = passed(since);
                self.kill(index, KillReason::StartTimeout { after, limit }, actions);
            }
            SlotState::Stopping { process, .. } => {
                slot.state = SlotState::Terminating {
                    process,
                    since: now,
                };
                actions.push(Action::Terminate {
                    slot: index,
                    pid: process.pid,
                });
            }
            SlotState::Terminating { since, .. } => {
                let why = KillReason::ShutdownTimeout {
                    after: passed(since),
                    limit: KILL_GRACE,
                };
                self.kill(index, why, actions);
            }
            SlotState::Occupied { pid, since } => self.evict(index, pid, passed(since), actions),
            // These last as long as it takes.
            SlotState::Spawning { .. }
            | SlotState::Evicting { .. }
            | SlotState::Running { .. }
            | SlotState::Draining { .. }
            | SlotState::Killed { .. }
            | SlotState::Retired => {}
        }
    }

    fn evict(&mut self, index: usize, pid: Pid, waited: Duration, actions: &mut Vec<Action>) {
        match self.stage {
            Stage::Starting { .. } | Stage::Up => {
                let limit = self.policy.shutdown_timeout;
                self.slots[index].state = SlotState::Evicting { pid };
                actions.push(Action::Kill {
                    slot: index,
                    pid,
                    why: KillReason::Holder { waited, limit },
                });
            }
            // The slot is not needed any more, and the holder leaves by itself.
            Stage::Stopping { .. } | Stage::Killing { .. } | Stage::Exited => self.retire(index),
        }
    }

    /// When the process has been silent for too long.
    pub(super) fn silence_deadline(&self, index: usize) -> Option<Instant> {
        let mut state = self.slots[index].state;
        let process = state.living()?;
        Some(process.heard_at + self.policy.heartbeat_timeout())
    }

    fn kill_silent(&mut self, index: usize, now: Instant, actions: &mut Vec<Action>) {
        if let Some(process) = self.slots[index].state.living() {
            let why = KillReason::Heartbeat {
                silent: now.saturating_duration_since(process.heard_at),
                limit: self.policy.heartbeat_timeout(),
            };
            self.kill(index, why, actions);
        }
    }

    fn limit_memory(&mut self, index: usize, actions: &mut Vec<Action>) {
        let slot = &mut self.slots[index];
        let limit_bytes = slot.policy.kill_above_bytes();
        if let Some(&mut Process { rss_bytes, .. }) = slot.state.living()
            && rss_bytes > limit_bytes
        {
            let why = KillReason::Memory {
                rss_bytes,
                limit_bytes,
            };
            self.kill(index, why, actions);
        }
    }

    fn ask_all(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for index in 0..self.slots.len() {
            self.ask(index, actions);
        }
        self.next_heartbeat = now + self.policy.heartbeat_interval;
    }

    /// Asks the slot's process, if one lives there, for a sign of life and its memory.
    pub(super) fn ask(&mut self, index: usize, actions: &mut Vec<Action>) {
        let slot = &mut self.slots[index];
        if slot.state.living().is_some() {
            slot.asked += 1;
            actions.push(Action::Send {
                slot: index,
                generation: slot.generation,
                message: ToWorker::Heartbeat {
                    sequence: slot.asked,
                },
            });
        }
    }
}
