//! Decides who is spawned, asked, drained, killed and replaced: events and time in, actions out.
//!
//! Pure: no clock, no log line, no system call. In each turn the master feeds the messages (last words come before the
//! exit they explain), the exits, the orders (so that no pid is signalled that was reaped in this turn) and then one
//! [`Event::Tick`]. It performs the actions of each event in their order before it feeds the next one, and what came of a
//! spawn is the next one. Limits are judged on the tick alone: an answer that has arrived counts before its lack is
//! punished.
//!
//! `life` follows a process, `deadline` the time; `stop` ends a daemon, `rolling` reloads it.

mod deadline;
mod event;
mod life;
mod policy;
mod rolling;
mod slot;
mod stop;
#[cfg(test)]
mod tests;
mod view;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

pub use event::{Action, Ending, Event, Exit, Fact, KillReason, Order, Pid};
pub use policy::{
    BACKOFF_FIRST, BACKOFF_MAX, FAILED_DELAY, HEALTHY_AFTER, KEEPER_BACKOFF_MAX, KEEPER_TIMEOUT,
    KILL_GRACE, MISSED_HEARTBEATS, Policy, Role, SPAWN_BACKOFF_MAX, SlotPolicy,
};
pub use slot::{Process, SlotState};
pub use view::{Counters, Phase, SlotView};

use rolling::Rolling;
use slot::Slot;

use crate::jitter::Jitter;

/// Supervises the processes of one daemon.
#[derive(Debug)]
pub struct Supervisor {
    policy: Policy,
    slots: Vec<Slot>,
    stage: Stage,
    rolling: Option<Rolling>,
    counters: Counters,
    jitter: Jitter,
    /// All processes are asked at one moment, so that their answers cost one wake-up each and not more.
    next_heartbeat: Instant,
    /// The last turn.
    seen_at: Instant,
}

/// Where the daemon stands.
#[derive(Debug)]
enum Stage {
    /// Some workers have never been ready.
    Starting {
        awaited: BTreeSet<usize>,
    },
    Up,
    /// Processes drain; nothing is spawned any more.
    Stopping {
        status: u8,
    },
    /// Everything was killed and is to be reaped.
    Killing {
        status: u8,
    },
    /// The exit was given; nothing follows.
    Exited,
}

impl Supervisor {
    /// Plans a process for every slot; the first tick spawns them. Slots whose lock is held are told before it, by
    /// [`Event::Occupied`], which spares them a generation.
    pub fn new(policy: Policy, now: Instant) -> Self {
        let slots = policy.slots.iter().cloned();
        let slots: Vec<Slot> = slots.map(|slot| Slot::new(slot, now)).collect();
        let workers = (0..slots.len()).filter(|&i| slots[i].policy.role == Role::Worker);
        Self {
            stage: Stage::Starting {
                awaited: workers.collect(),
            },
            slots,
            rolling: None,
            counters: Counters::default(),
            jitter: Jitter::new(policy.seed),
            next_heartbeat: now + policy.heartbeat_interval,
            seen_at: now,
            policy,
        }
    }

    /// Takes one event and appends what has to be done. `now` never goes back.
    pub fn handle(&mut self, event: Event, now: Instant, actions: &mut Vec<Action>) {
        if matches!(self.stage, Stage::Exited) {
            return;
        }
        self.forgive_pause(now, actions);
        match event {
            Event::Spawned {
                slot,
                generation,
                pid,
            } => {
                if self.is_current(slot, generation) {
                    self.spawned(slot, pid, now, actions);
                }
            }
            Event::SpawnFailed {
                slot,
                generation,
                error,
            } => {
                if self.is_current(slot, generation) {
                    self.spawn_failed(slot, error, now, actions);
                }
            }
            Event::Message {
                slot,
                generation,
                message,
            } => {
                if self.is_current(slot, generation) {
                    self.message(slot, message, now, actions);
                }
            }
            Event::Exited { pid, exit } => self.exited(pid, exit, now, actions),
            Event::Occupied { slot, pid } => self.occupied(slot, pid, now),
            Event::Vacated { slot, pid } => self.vacated(slot, pid, now),
            Event::Order(order) => self.order(order, now, actions),
            Event::Tick => self.tick(now, actions),
        }
        self.announce_ready(actions);
        self.advance_stop(now, actions);
        debug_assert_eq!(self.check_invariants(), Ok(()));
    }

    /// When the next [`Event::Tick`] is due, at the latest; none after [`Action::Exit`].
    pub fn next_deadline(&self) -> Option<Instant> {
        if matches!(self.stage, Stage::Exited) {
            return None;
        }
        let states = (0..self.slots.len()).filter_map(|index| self.state_deadline(index));
        let silences = (0..self.slots.len()).filter_map(|index| self.silence_deadline(index));
        states.chain(silences).chain([self.next_heartbeat]).min()
    }

    fn is_current(&self, slot: usize, generation: u64) -> bool {
        self.slots
            .get(slot)
            .is_some_and(|slot| slot.generation == generation)
    }

    /// When the common heartbeat is late by a whole interval, the master itself was stopped (SIGSTOP, a debugger, a
    /// machine asleep), and perhaps everybody with it: what passed since its last turn is nobody's fault.
    fn forgive_pause(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if now > self.next_heartbeat + self.policy.heartbeat_interval {
            let pause = now.saturating_duration_since(self.seen_at);
            for slot in &mut self.slots {
                slot.forgive(pause, now);
            }
            self.next_heartbeat = now;
            self.counters.stalls += 1;
            actions.push(Action::Report(Fact::Paused { pause }));
        }
        self.seen_at = now;
    }

    fn occupied(&mut self, index: usize, pid: Pid, now: Instant) {
        match self.slots[index].state {
            SlotState::Waiting { .. } | SlotState::Spawning { .. } => {
                self.slots[index].state = match self.stage {
                    Stage::Starting { .. } | Stage::Up => SlotState::Occupied { pid, since: now },
                    // The holder leaves by itself, and nobody follows it.
                    Stage::Stopping { .. } | Stage::Killing { .. } | Stage::Exited => {
                        SlotState::Retired
                    }
                };
            }
            // Told twice; or a process of ours is there, and it sees to the lock itself.
            SlotState::Occupied { .. }
            | SlotState::Evicting { .. }
            | SlotState::Starting { .. }
            | SlotState::Running { .. }
            | SlotState::Draining { .. }
            | SlotState::Failed { .. }
            | SlotState::Stopping { .. }
            | SlotState::Terminating { .. }
            | SlotState::Killed { .. }
            | SlotState::Retired => {}
        }
    }

    fn vacated(&mut self, index: usize, pid: Pid, now: Instant) {
        let slot = &mut self.slots[index];
        match slot.state {
            SlotState::Occupied { pid: holder, .. } | SlotState::Evicting { pid: holder }
                if holder == pid =>
            {
                slot.state = match self.stage {
                    Stage::Starting { .. } | Stage::Up => SlotState::Waiting {
                        spawn_at: now,
                        consumer_delay: Duration::ZERO,
                    },
                    Stage::Stopping { .. } | Stage::Killing { .. } | Stage::Exited => {
                        SlotState::Retired
                    }
                };
            }
            // Another one's news, or old news.
            SlotState::Occupied { .. }
            | SlotState::Evicting { .. }
            | SlotState::Waiting { .. }
            | SlotState::Spawning { .. }
            | SlotState::Starting { .. }
            | SlotState::Running { .. }
            | SlotState::Draining { .. }
            | SlotState::Failed { .. }
            | SlotState::Stopping { .. }
            | SlotState::Terminating { .. }
            | SlotState::Killed { .. }
            | SlotState::Retired => {}
        }
    }

    fn announce_ready(&mut self, actions: &mut Vec<Action>) {
        if let Stage::Starting { awaited } = &self.stage
            && awaited.is_empty()
        {
            self.stage = Stage::Up;
            actions.push(Action::AllReady);
        }
    }

    /// Kills the slot's process, if one lives there.
    fn kill(&mut self, index: usize, why: KillReason, actions: &mut Vec<Action>) {
        let state = &mut self.slots[index].state;
        if let Some(&mut process) = state.living() {
            *state = SlotState::Killed { process, why };
            actions.push(Action::Kill {
                slot: index,
                pid: process.pid,
                why,
            });
        }
    }

    /// What holds after every event, whatever it was.
    fn check_invariants(&self) -> Result<(), String> {
        // Holders are left out: one may be gone already and its number be given to a child of ours.
        let pids = self.slots.iter().filter_map(|slot| slot.state.process());
        let pids: Vec<Pid> = pids.map(|process| process.pid).collect();
        if pids.iter().collect::<BTreeSet<_>>().len() != pids.len() {
            return Err(format!("a pid twice: {pids:?}"));
        }
        for (index, slot) in self.slots.iter().enumerate() {
            let leaves = matches!(
                slot.state,
                SlotState::Stopping { .. } | SlotState::Terminating { .. }
            );
            let fits = match self.stage {
                Stage::Starting { .. } | Stage::Up => !leaves && slot.state != SlotState::Retired,
                Stage::Stopping { .. } => {
                    let waits = matches!(slot.state, SlotState::Waiting { .. });
                    let too_early = slot.policy.role == Role::Keeper && leaves;
                    !waits && (!too_early || self.is_retired(Role::Worker))
                }
                Stage::Killing { .. } => matches!(
                    slot.state,
                    SlotState::Spawning { .. } | SlotState::Killed { .. } | SlotState::Retired
                ),
                Stage::Exited => slot.state == SlotState::Retired,
            };
            if !fits {
                return Err(format!(
                    "slot {index} is {} while {:?}",
                    slot.state.name(),
                    self.stage
                ));
            }
        }
        Ok(())
    }
}
