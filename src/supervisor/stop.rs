//! The end of a daemon: orders, the refused start, and the way from "drain" over SIGTERM and SIGKILL to the exit.
//! Workers leave first; the keeper leaves after the last of them, since it gives back what killed ones held.

use std::time::Instant;

use super::event::{Action, Fact, KillReason, Order};
use super::policy::Role;
use super::slot::SlotState;
use super::{Stage, Supervisor};
use crate::channel::message::ToWorker;

/// Exit status when the script or the queue was refused at start (EX_UNAVAILABLE).
const START_REFUSED: u8 = 69;

impl Supervisor {
    pub(super) fn order(&mut self, order: Order, now: Instant, actions: &mut Vec<Action>) {
        match (order, &self.stage) {
            (Order::Reload, Stage::Starting { .. } | Stage::Up) => self.reload(),
            (Order::Shutdown, Stage::Starting { .. } | Stage::Up) => {
                self.begin_stop(0, now, actions);
            }
            (Order::ShutdownNow, Stage::Starting { .. } | Stage::Up) => self.kill_all(0, actions),
            // Whoever asks twice does not want to wait.
            (Order::Shutdown | Order::ShutdownNow, Stage::Stopping { status }) => {
                self.kill_all(*status, actions);
            }
            // What stops is not reloaded, and nothing is faster than SIGKILL.
            (Order::Reload, Stage::Stopping { .. } | Stage::Killing { .. } | Stage::Exited)
            | (Order::Shutdown | Order::ShutdownNow, Stage::Killing { .. } | Stage::Exited) => {}
        }
    }

    /// Ends a daemon whose worker could not be started, in the worker's words.
    pub(super) fn refuse_start(
        &mut self,
        index: usize,
        message: String,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        actions.push(Action::Report(Fact::StartRefused {
            slot: index,
            message,
        }));
        self.begin_stop(START_REFUSED, now, actions);
    }

    fn begin_stop(&mut self, status: u8, now: Instant, actions: &mut Vec<Action>) {
        self.rolling = None;
        self.stage = Stage::Stopping { status };
        for index in 0..self.slots.len() {
            match (self.slots[index].policy.role, self.slots[index].state) {
                (Role::Worker, _) => self.drain(index, now, actions),
                // Nothing is spawned any more; a keeper that lives waits for the workers.
                (Role::Keeper, SlotState::Waiting { .. }) => self.retire(index),
                (Role::Keeper, _) => {}
            }
        }
    }

    /// Tells the slot's process to leave; an empty slot is retired.
    pub(super) fn drain(&mut self, index: usize, now: Instant, actions: &mut Vec<Action>) {
        let slot = &mut self.slots[index];
        match slot.state {
            SlotState::Starting { process, .. }
            | SlotState::Running { process }
            | SlotState::Draining { process, .. }
            | SlotState::Failed { process, .. } => {
                slot.state = SlotState::Stopping {
                    process,
                    since: now,
                };
                actions.push(Action::Send {
                    slot: index,
                    generation: slot.generation,
                    message: ToWorker::Drain,
                });
            }
            // A killed holder needs no more of us.
            SlotState::Waiting { .. } | SlotState::Evicting { .. } => self.retire(index),
            // A fork under way is told once it is answered, a holder leaves by itself, the others are leaving.
            SlotState::Spawning { .. }
            | SlotState::Occupied { .. }
            | SlotState::Stopping { .. }
            | SlotState::Terminating { .. }
            | SlotState::Killed { .. }
            | SlotState::Retired => {}
        }
    }

    fn kill_all(&mut self, status: u8, actions: &mut Vec<Action>) {
        self.rolling = None;
        self.stage = Stage::Killing { status };
        for index in 0..self.slots.len() {
            self.kill(index, KillReason::ShutdownNow, actions);
            match self.slots[index].state {
                SlotState::Waiting { .. }
                | SlotState::Occupied { .. }
                | SlotState::Evicting { .. } => self.retire(index),
                // A fork under way is killed once it is answered; the killed are to be reaped.
                SlotState::Spawning { .. }
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
    }

    pub(super) fn retire(&mut self, index: usize) {
        self.slots[index].state = SlotState::Retired;
    }

    /// Lets the keeper go after the last worker, and the master after the last process.
    pub(super) fn advance_stop(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let status = match self.stage {
            Stage::Starting { .. } | Stage::Up | Stage::Exited => return,
            Stage::Stopping { status } => {
                if self.is_retired(Role::Worker) {
                    for index in 0..self.slots.len() {
                        self.drain(index, now, actions);
                    }
                }
                status
            }
            Stage::Killing { status } => status,
        };
        if self.is_retired(Role::Worker) && self.is_retired(Role::Keeper) {
            self.stage = Stage::Exited;
            actions.push(Action::Exit { status });
        }
    }

    /// Whether all slots of this role are empty for good.
    pub(super) fn is_retired(&self, role: Role) -> bool {
        let mut of_role = self.slots.iter().filter(|slot| slot.policy.role == role);
        of_role.all(|slot| slot.state == SlotState::Retired)
    }
}
