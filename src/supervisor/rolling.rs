//! The reload: workers are replaced one by one, the next only when the successor of the last is ready, so that at most
//! one slot is down because of it. A successor that does not become ready (its script is broken, say) ends the reload:
//! the workers that still run the old script are worth more than a second broken one.

use std::collections::VecDeque;

use super::Supervisor;
use super::event::{Action, Fact};
use super::policy::Role;
use super::slot::{Slot, SlotState};
use crate::channel::message::{RecycleReason, ToWorker};

/// A process to be replaced: its slot, and its generation.
type Old = (usize, u64);

/// A reload under way.
#[derive(Debug)]
pub(super) struct Rolling {
    /// To be replaced still, unless they were replaced meanwhile.
    todo: VecDeque<Old>,
    /// Being replaced: ready is awaited of a later generation.
    current: Option<Old>,
    /// 1, or 2 when another reload was ordered meanwhile: what was replaced before it may be old by now.
    rounds: u8,
}

impl Rolling {
    fn over(slots: &[Slot]) -> Self {
        let workers = slots.iter().enumerate();
        let workers = workers.filter(|(_, slot)| slot.policy.role == Role::Worker);
        Self {
            todo: workers.map(|(index, s)| (index, s.generation)).collect(),
            current: None,
            rounds: 1,
        }
    }

    /// Takes the next one, first who is not at work: nobody else may go down while it is.
    fn next(&mut self, slots: &[Slot]) -> Option<Old> {
        let is_down = |old: &Old| !matches!(slots[old.0].state, SlotState::Running { .. });
        let down = self.todo.iter().position(is_down);
        self.todo.remove(down.unwrap_or(0))
    }

    /// Whether this slot's successor is awaited, and lives.
    fn awaits(&self, index: usize, slot: &Slot) -> bool {
        self.current
            .is_some_and(|(current, old)| current == index && slot.generation > old)
    }
}

impl Supervisor {
    /// Begins a reload, or lets the one under way start over at its end.
    pub(super) fn reload(&mut self) {
        match &mut self.rolling {
            Some(rolling) => rolling.rounds = 2,
            None => self.rolling = Some(Rolling::over(&self.slots)),
        }
    }

    /// Goes on with the reload, if there is one and nothing is awaited.
    pub(super) fn roll(&mut self, actions: &mut Vec<Action>) {
        while let Some(rolling) = &mut self.rolling {
            if rolling.current.is_some() {
                return;
            }
            match rolling.next(&self.slots) {
                Some(old) => self.replace(old, actions),
                None => {
                    actions.push(Action::Report(Fact::ReloadFinished));
                    self.end_round();
                }
            }
        }
    }

    /// A process became ready: if the reload waited for it, the next one follows.
    pub(super) fn roll_on_ready(&mut self, index: usize) {
        let slot = &self.slots[index];
        if let Some(rolling) = &mut self.rolling
            && rolling.awaits(index, slot)
        {
            rolling.current = None;
        }
    }

    /// A process crashed or failed: if the reload waited for it, it ends here.
    pub(super) fn roll_on_crash(&mut self, index: usize, actions: &mut Vec<Action>) {
        let slot = &self.slots[index];
        if self.rolling.as_ref().is_some_and(|r| r.awaits(index, slot)) {
            actions.push(Action::Report(Fact::ReloadStopped { slot: index }));
            self.end_round();
        }
    }

    fn end_round(&mut self) {
        let again = self.rolling.take().is_some_and(|r| r.rounds > 1);
        self.rolling = again.then(|| Rolling::over(&self.slots));
    }

    /// Replaces this process, or waits for who came after it.
    fn replace(&mut self, old: Old, actions: &mut Vec<Action>) {
        let (index, generation) = old;
        let slot = &mut self.slots[index];
        let is_old = slot.generation == generation;
        let awaited = match slot.state {
            // One that still starts as well: it may have read the old script, or be waiting out a delay for nothing.
            SlotState::Starting { process, .. } | SlotState::Running { process } if is_old => {
                let why = RecycleReason::Reload;
                slot.state = SlotState::Draining { process, why };
                actions.push(Action::Send {
                    slot: index,
                    generation,
                    message: ToWorker::Recycle(why),
                });
                Some(old)
            }
            // Replaced by its own wish, or being replaced already: two slots must not be down at once.
            SlotState::Draining { .. }
            | SlotState::Failed { .. }
            | SlotState::Killed { .. }
            | SlotState::Waiting { .. }
            | SlotState::Starting { .. } => Some(old),
            // Forked after the order, so this generation will do.
            SlotState::Spawning { .. } => Some((index, slot.generation - 1)),
            // New already; or at work for an older master, and its successor will be new.
            SlotState::Running { .. } | SlotState::Occupied { .. } => None,
            // Not at work, but there is no telling when its lock is free.
            SlotState::Evicting { .. } => None,
            // A shutdown has cancelled the reload.
            SlotState::Stopping { .. } | SlotState::Terminating { .. } | SlotState::Retired => None,
        };
        if let Some(rolling) = &mut self.rolling {
            rolling.current = awaited;
        }
    }
}
