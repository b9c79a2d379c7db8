//! The life of the process in a slot, event by event: forked, heard, reaped, replaced. Deadlines are in `deadline`,
//! the daemon's end in `stop`.

use std::time::{Duration, Instant};

use super::event::{Action, Ending, Exit, Fact, KillReason, Pid};
use super::policy::{self, FAILED_DELAY, KEEPER_BACKOFF_MAX, Role};
use super::slot::{Process, SlotState};
use super::{Stage, Supervisor};
use crate::channel::message::{RecycleReason, ToMaster};

impl Supervisor {
    /// Asks for the slot's next generation.
    pub(super) fn spawn(
        &mut self,
        index: usize,
        consumer_delay: Duration,
        actions: &mut Vec<Action>,
    ) {
        let slot = &mut self.slots[index];
        slot.generation += 1;
        slot.state = SlotState::Spawning { consumer_delay };
        actions.push(Action::Spawn {
            slot: index,
            generation: slot.generation,
            consumer_delay,
        });
    }

    pub(super) fn spawned(
        &mut self,
        index: usize,
        pid: Pid,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let Some(consumer_delay) = self.spawning(index) else {
            return;
        };
        let slot = &mut self.slots[index];
        slot.refusals = 0;
        slot.unreclaimed += 1;
        slot.state = SlotState::Starting {
            process: Process::new(pid, now),
            since: now,
            consumer_delay,
        };
        if slot.policy.role == Role::Worker {
            self.counters.spawned += 1;
        }
        match (&self.stage, self.slots[index].policy.role) {
            (Stage::Starting { .. } | Stage::Up | Stage::Exited, _) => {}
            (Stage::Stopping { .. }, Role::Worker) => self.drain(index, now, actions),
            // It is drained after the last worker.
            (Stage::Stopping { .. }, Role::Keeper) => {}
            (Stage::Killing { .. }, _) => self.kill(index, KillReason::ShutdownNow, actions),
        }
    }

    pub(super) fn spawn_failed(
        &mut self,
        index: usize,
        error: String,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let Some(consumer_delay) = self.spawning(index) else {
            return;
        };
        // Somebody waits for the start, and limits that are too low for it do not rise by waiting.
        if matches!(&self.stage, Stage::Starting { awaited } if awaited.contains(&index)) {
            self.retire(index);
            self.refuse_start(index, format!("cannot fork: {error}"), now, actions);
            return;
        }
        let slot = &mut self.slots[index];
        slot.refusals += 1;
        let retry_in = policy::spawn_backoff(slot.refusals);
        actions.push(Action::Report(Fact::SpawnRefused {
            slot: index,
            generation: slot.generation,
            error,
            retry_in,
        }));
        slot.state = match self.stage {
            Stage::Starting { .. } | Stage::Up => SlotState::Waiting {
                spawn_at: now + retry_in,
                consumer_delay,
            },
            Stage::Stopping { .. } | Stage::Killing { .. } | Stage::Exited => SlotState::Retired,
        };
    }

    /// The consumer's delay of a fork that was asked for and is not answered.
    fn spawning(&self, index: usize) -> Option<Duration> {
        match self.slots[index].state {
            SlotState::Spawning { consumer_delay } => Some(consumer_delay),
            // Every spawn is answered once, and nothing else ends it.
            SlotState::Waiting { .. }
            | SlotState::Occupied { .. }
            | SlotState::Evicting { .. }
            | SlotState::Starting { .. }
            | SlotState::Running { .. }
            | SlotState::Draining { .. }
            | SlotState::Failed { .. }
            | SlotState::Stopping { .. }
            | SlotState::Terminating { .. }
            | SlotState::Killed { .. }
            | SlotState::Retired => None,
        }
    }

    /// Takes a message of the slot's living process.
    pub(super) fn message(
        &mut self,
        index: usize,
        message: ToMaster,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let slot = &mut self.slots[index];
        let Some(process) = slot.state.living() else {
            // Killed: its last words change nothing.
            return;
        };
        match message {
            ToMaster::Heartbeat {
                sequence,
                rss_bytes,
            } => slot.answered(sequence, rss_bytes, now),
            ToMaster::Reclaimed => {
                process.heard_at = now;
                slot.unreclaimed = 0;
            }
            ToMaster::Ready => {
                process.heard_at = now;
                self.ready(index, now, actions);
            }
            ToMaster::Recycling(reason) => {
                process.heard_at = now;
                self.recycling(index, reason);
            }
            ToMaster::Failed { message } => {
                process.heard_at = now;
                self.failed(index, message, now, actions);
            }
        }
    }

    fn ready(&mut self, index: usize, now: Instant, actions: &mut Vec<Action>) {
        let slot = &mut self.slots[index];
        match slot.state {
            SlotState::Starting { mut process, .. } => {
                process.ready_at = Some(now);
                slot.state = SlotState::Running { process };
                slot.unreclaimed = 0;
                slot.failure = None;
                actions.push(Action::Report(Fact::Ready {
                    slot: index,
                    pid: process.pid,
                    generation: slot.generation,
                    start: now.saturating_duration_since(process.spawned_at),
                }));
                if let Stage::Starting { awaited } = &mut self.stage {
                    awaited.remove(&index);
                }
                self.roll_on_ready(index);
                // Its memory is known from the start, and not only after the next common heartbeat.
                self.ask(index, actions);
            }
            // It crossed with an order to leave, or with the worker's own wish.
            SlotState::Draining { .. }
            | SlotState::Failed { .. }
            | SlotState::Stopping { .. }
            | SlotState::Terminating { .. } => {}
            // Said twice; or nobody is there to say it.
            SlotState::Running { .. }
            | SlotState::Waiting { .. }
            | SlotState::Spawning { .. }
            | SlotState::Occupied { .. }
            | SlotState::Evicting { .. }
            | SlotState::Killed { .. }
            | SlotState::Retired => {}
        }
    }

    fn recycling(&mut self, index: usize, why: RecycleReason) {
        let slot = &mut self.slots[index];
        match slot.state {
            SlotState::Starting { process, .. } | SlotState::Running { process } => {
                slot.state = SlotState::Draining { process, why };
            }
            // The answer to our own order, or leaving for a stronger reason; or nobody is there.
            SlotState::Draining { .. }
            | SlotState::Failed { .. }
            | SlotState::Stopping { .. }
            | SlotState::Terminating { .. }
            | SlotState::Waiting { .. }
            | SlotState::Spawning { .. }
            | SlotState::Occupied { .. }
            | SlotState::Evicting { .. }
            | SlotState::Killed { .. }
            | SlotState::Retired => {}
        }
    }

    fn failed(&mut self, index: usize, message: String, now: Instant, actions: &mut Vec<Action>) {
        let slot = &mut self.slots[index];
        match slot.state {
            SlotState::Starting { process, .. }
            | SlotState::Running { process }
            | SlotState::Draining { process, .. } => {
                slot.fail(message.clone());
                slot.state = SlotState::Failed {
                    process,
                    since: now,
                };
                let is_first_start = matches!(self.stage, Stage::Starting { .. });
                if is_first_start && slot.policy.role == Role::Worker {
                    self.refuse_start(index, message, now, actions);
                    return;
                }
                actions.push(Action::Report(Fact::ConsumerFailed {
                    slot: index,
                    pid: process.pid,
                    generation: slot.generation,
                    message,
                    retry_in: FAILED_DELAY,
                }));
            }
            // It leaves in any case, and this is why.
            SlotState::Stopping { .. } => slot.fail(message),
            // It leaves already; or nobody is there.
            SlotState::Failed { .. }
            | SlotState::Terminating { .. }
            | SlotState::Waiting { .. }
            | SlotState::Spawning { .. }
            | SlotState::Occupied { .. }
            | SlotState::Evicting { .. }
            | SlotState::Killed { .. }
            | SlotState::Retired => {}
        }
    }

    /// Takes the exit of a reaped child.
    pub(super) fn exited(&mut self, pid: Pid, exit: Exit, now: Instant, actions: &mut Vec<Action>) {
        let is_it = |process: &Process| process.pid == pid;
        let mut slots = self.slots.iter();
        let Some(index) = slots.position(|slot| slot.state.process().is_some_and(is_it)) else {
            return;
        };
        let slot = &mut self.slots[index];
        slot.forget_crashes(now);
        let ending = slot.ending(exit);
        actions.push(Action::Report(Fact::Exited {
            slot: index,
            pid,
            generation: slot.generation,
            exit,
            ending,
        }));
        self.count(index, ending);
        if !ending.is_planned() {
            self.roll_on_crash(index, actions);
        }
        match &self.stage {
            Stage::Starting { awaited } if !ending.is_planned() && awaited.contains(&index) => {
                self.retire(index);
                self.refuse_start(index, refusal(exit, ending), now, actions);
            }
            Stage::Starting { .. } | Stage::Up => self.succeed(index, ending, now),
            Stage::Stopping { .. } | Stage::Killing { .. } | Stage::Exited => self.retire(index),
        }
    }

    /// Plans the successor of a process that ended so.
    fn succeed(&mut self, index: usize, ending: Ending, now: Instant) {
        let slot = &mut self.slots[index];
        let (spawn_after, consumer_delay) = match (ending, slot.policy.role) {
            (Ending::Recycled(_), _) => {
                slot.crashes = 0;
                (Duration::ZERO, Duration::ZERO)
            }
            (Ending::Failed, Role::Worker) => (Duration::ZERO, FAILED_DELAY),
            // One that leaves unasked soon after its start backs off too, lest it be forked without end.
            (
                Ending::Left
                | Ending::Stopped
                | Ending::Failed
                | Ending::Killed(_)
                | Ending::Crashed,
                role,
            ) => {
                slot.crashes = slot.crashes.saturating_add(1);
                let full = policy::crash_backoff(slot.crashes);
                match role {
                    Role::Worker if slot.unreclaimed < 2 => {
                        // Its predecessor's jobs are reclaimed at once, whatever ails the consumer.
                        (Duration::ZERO, self.jitter.half_to_full(full))
                    }
                    Role::Worker => (self.jitter.half_to_full(full), Duration::ZERO),
                    Role::Keeper => {
                        let full = full.min(KEEPER_BACKOFF_MAX);
                        (self.jitter.half_to_full(full), Duration::ZERO)
                    }
                }
            }
        };
        slot.state = SlotState::Waiting {
            spawn_at: now + spawn_after,
            consumer_delay,
        };
    }

    fn count(&mut self, index: usize, ending: Ending) {
        if self.slots[index].policy.role == Role::Keeper {
            return;
        }
        match ending {
            Ending::Recycled(reason) => self.counters.recycled[reason as usize] += 1,
            Ending::Left => self.counters.recycled[RecycleReason::Order as usize] += 1,
            Ending::Stopped => {}
            Ending::Failed | Ending::Killed(_) | Ending::Crashed => {
                if !ending.is_planned() {
                    self.counters.crashed += 1;
                }
            }
        }
    }
}

/// Why a daemon does not start whose worker ended so before it was ready.
fn refusal(exit: Exit, ending: Ending) -> String {
    match ending {
        Ending::Killed(KillReason::StartTimeout { limit, .. }) => {
            format!("worker was not ready within {limit:?}")
        }
        Ending::Killed(why) => {
            format!("worker was killed before it was ready ({})", why.name())
        }
        Ending::Recycled(_) | Ending::Left | Ending::Stopped | Ending::Failed | Ending::Crashed => {
            format!("worker {exit} before it was ready")
        }
    }
}
