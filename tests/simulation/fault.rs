//! Planted faults: a master or supervisor that is wrong in one way, made by tampering with what passes between the
//! supervisor and the world. Production code knows nothing of it. The judge sees what truly happened and what was truly
//! done, so that each of these must be found out.

use std::time::{Duration, Instant};

use stark::supervisor::{Action, Event, KillReason, Role, Supervisor};

use stark::channel::message::ToWorker;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Every fourth fork is forgotten.
    DropSpawn,
    /// Every fourth fork is made twice.
    DoubleSpawn,
    /// A jump of the clock is fed in small steps, so that the master's pause is not seen as one.
    SplitPause,
    /// What an old generation says is taken for the word of the new one.
    StaleAsNew,
    /// Every fourth exit is not reaped.
    ForgetReap,
    /// Time runs twice as fast for the supervisor.
    FastClock,
    /// No SIGKILL for silence.
    DropKill,
    /// The keeper is told to leave together with the first worker.
    EagerKeeper,
    /// The reload asks the next worker as well, without waiting.
    HastyReload,
    /// The consumer is started at once after every crash.
    NoBackoff,
    /// The exit is given twice.
    DoubleExit,
}

/// Sits between supervisor and world.
pub struct Tampered {
    pub supervisor: Supervisor,
    fault: Fault,
    begin: Instant,
    last: Instant,
    interval: Duration,
    count: u64,
}

impl Tampered {
    pub fn new(supervisor: Supervisor, fault: Fault, begin: Instant, interval: Duration) -> Self {
        Self {
            supervisor,
            fault,
            begin,
            last: begin,
            interval,
            count: 0,
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        let due = self.supervisor.next_deadline()?;
        match self.fault {
            Fault::FastClock => Some(self.begin + (due - self.begin) / 2),
            _ => Some(due),
        }
    }

    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        let event = match (self.fault, event) {
            (
                Fault::StaleAsNew,
                Event::Message {
                    slot,
                    generation: _,
                    message,
                },
            ) => Event::Message {
                slot,
                generation: self.generation(slot),
                message,
            },
            (Fault::ForgetReap, Event::Exited { .. }) if self.fourth() => Event::Tick,
            (_, event) => event,
        };
        match self.fault {
            Fault::FastClock => {
                let fast = self.begin + (now - self.begin) * 2;
                self.supervisor.handle(event, fast, &mut actions);
            }
            Fault::SplitPause => {
                while now > self.last + self.interval {
                    self.last += self.interval;
                    self.supervisor.handle(Event::Tick, self.last, &mut actions);
                }
                self.last = now;
                self.supervisor.handle(event, now, &mut actions);
            }
            _ => self.supervisor.handle(event, now, &mut actions),
        }
        actions
            .into_iter()
            .flat_map(|action| self.tamper(action))
            .collect()
    }

    fn tamper(&mut self, action: Action) -> Vec<Action> {
        match (self.fault, action) {
            (Fault::DropSpawn, Action::Spawn { .. }) if self.fourth() => vec![],
            (Fault::DoubleSpawn, spawn @ Action::Spawn { .. }) if self.fourth() => {
                vec![spawn.clone(), spawn]
            }
            (
                Fault::DropKill,
                Action::Kill {
                    why: KillReason::Heartbeat { .. },
                    ..
                },
            ) => vec![],
            (
                Fault::EagerKeeper,
                drain @ Action::Send {
                    message: ToWorker::Drain,
                    ..
                },
            ) => self.also(drain, Role::Keeper, 0),
            (
                Fault::HastyReload,
                recycle @ Action::Send {
                    message: ToWorker::Recycle(_),
                    ..
                },
            ) => {
                let Action::Send { slot, .. } = recycle else {
                    return vec![recycle];
                };
                self.also(recycle, Role::Worker, slot + 1)
            }
            (
                Fault::NoBackoff,
                Action::Spawn {
                    slot, generation, ..
                },
            ) => vec![Action::Spawn {
                slot,
                generation,
                consumer_delay: Duration::ZERO,
            }],
            (Fault::DoubleExit, exit @ Action::Exit { .. }) => vec![exit.clone(), exit],
            (_, action) => vec![action],
        }
    }

    /// The same message to the first running process of that role from that slot on.
    fn also(&self, action: Action, role: Role, from: usize) -> Vec<Action> {
        let slots = self.supervisor.slots().enumerate().skip(from);
        let mut others = slots.filter(|(_, s)| s.role == role && s.state.name() == "running");
        match (others.next(), &action) {
            (Some((slot, view)), Action::Send { message, .. }) => {
                let other = Action::Send {
                    slot,
                    generation: view.generation,
                    message: message.clone(),
                };
                vec![action, other]
            }
            _ => vec![action],
        }
    }

    fn fourth(&mut self) -> bool {
        self.count += 1;
        self.count.is_multiple_of(4)
    }

    fn generation(&self, slot: usize) -> u64 {
        let mut slots = self.supervisor.slots();
        slots.nth(slot).map_or(0, |view| view.generation)
    }
}
