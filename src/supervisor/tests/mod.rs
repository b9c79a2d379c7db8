//! A daemon of which every process is imagined, for the promises of supervision in the modules beside this one.

use std::time::{Duration, Instant};

mod deadline;
mod life;
mod rolling;
mod stop;

use super::*;
use crate::channel::message::{RecycleReason, ToMaster, ToWorker};

const INTERVAL: Duration = Duration::from_secs(2);
const START: Duration = Duration::from_secs(60);
const SHUTDOWN: Duration = Duration::from_secs(30);
const LIMIT_BYTES: u64 = 1000;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A supervisor with a master that performs every spawn at once and keeps what else it was told.
struct Daemon {
    supervisor: Supervisor,
    now: Instant,
    last_pid: Pid,
    /// Heartbeats are answered by all but these slots.
    silent: Vec<usize>,
    spawns: Vec<(usize, u64, Duration)>,
}

impl Daemon {
    /// So many workers, and a keeper in the slot after them.
    fn planned(workers: usize) -> Self {
        let slot = |role| SlotPolicy {
            role,
            start_timeout: START,
            memory_limit_bytes: LIMIT_BYTES,
            last_generation: 0,
        };
        let mut slots = vec![slot(Role::Worker); workers];
        slots.push(slot(Role::Keeper));
        let policy = Policy {
            slots,
            heartbeat_interval: INTERVAL,
            shutdown_timeout: SHUTDOWN,
            seed: 1,
        };
        let now = Instant::now();
        Self {
            supervisor: Supervisor::new(policy, now),
            now,
            last_pid: 100,
            silent: Vec::new(),
            spawns: Vec::new(),
        }
    }

    /// Forked, not ready.
    fn starting(workers: usize) -> Self {
        let mut daemon = Self::planned(workers);
        daemon.turn(&[]);
        daemon
    }

    /// Everybody ready.
    fn running(workers: usize) -> Self {
        let mut daemon = Self::starting(workers);
        for slot in 0..=workers {
            daemon.say(slot, ToMaster::Reclaimed);
            daemon.say(slot, ToMaster::Ready);
        }
        daemon.spawns.clear();
        daemon
    }

    /// One turn of the master; what is left after spawns and heartbeats.
    fn turn(&mut self, events: &[Event]) -> Vec<Action> {
        let mut pending: Vec<Event> = events.to_vec();
        let mut told = Vec::new();
        loop {
            pending.push(Event::Tick);
            let mut actions = Vec::new();
            for event in pending.drain(..) {
                self.supervisor.handle(event, self.now, &mut actions);
            }
            for action in actions {
                match action {
                    Action::Spawn {
                        slot,
                        generation,
                        consumer_delay,
                    } => {
                        self.spawns.push((slot, generation, consumer_delay));
                        self.last_pid += 1;
                        pending.push(Event::Spawned {
                            slot,
                            generation,
                            pid: self.last_pid,
                        });
                    }
                    Action::Send {
                        slot,
                        generation,
                        message: ToWorker::Heartbeat { sequence },
                    } => {
                        if !self.silent.contains(&slot) {
                            pending.push(answer(slot, generation, sequence, 1));
                        }
                    }
                    other => told.push(other),
                }
            }
            if pending.is_empty() {
                return told;
            }
        }
    }

    /// Lets time pass, with a turn whenever one is due.
    fn pass(&mut self, time: Duration) -> Vec<Action> {
        let end = self.now + time;
        let mut told = Vec::new();
        while let Some(due) = self.supervisor.next_deadline().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            told.extend(self.turn(&[]));
        }
        self.now = end;
        told
    }

    fn say(&mut self, slot: usize, message: ToMaster) -> Vec<Action> {
        let generation = self.generation(slot);
        self.turn(&[Event::Message {
            slot,
            generation,
            message,
        }])
    }

    fn exit(&mut self, slot: usize, exit: Exit) -> Vec<Action> {
        let pid = self.pid(slot);
        self.turn(&[Event::Exited { pid, exit }])
    }

    fn order(&mut self, order: Order) -> Vec<Action> {
        self.turn(&[Event::Order(order)])
    }

    fn crash(&mut self, slot: usize) -> Vec<Action> {
        self.exit(slot, Exit::Signal(11))
    }

    fn get_ready(&mut self, slot: usize) -> Vec<Action> {
        self.say(slot, ToMaster::Reclaimed);
        self.say(slot, ToMaster::Ready)
    }

    fn slot(&self, slot: usize) -> SlotView<'_> {
        self.supervisor.slots().nth(slot).expect("the slot exists")
    }

    fn generation(&self, slot: usize) -> u64 {
        self.slot(slot).generation
    }

    fn pid(&self, slot: usize) -> Pid {
        self.slot(slot).state.process().expect("a process").pid
    }

    fn state(&self, slot: usize) -> &'static str {
        self.slot(slot).state.name()
    }
}

fn answer(slot: usize, generation: u64, sequence: u64, rss_bytes: u64) -> Event {
    Event::Message {
        slot,
        generation,
        message: ToMaster::Heartbeat {
            sequence,
            rss_bytes,
        },
    }
}

fn kills(actions: &[Action]) -> Vec<(usize, &'static str)> {
    let kill = |action: &Action| match action {
        Action::Kill { slot, why, .. } => Some((*slot, why.name())),
        _ => None,
    };
    actions.iter().filter_map(kill).collect()
}

fn sent(actions: &[Action]) -> Vec<(usize, &ToWorker)> {
    let mut sent = Vec::new();
    for action in actions {
        if let Action::Send { slot, message, .. } = action {
            sent.push((*slot, message));
        }
    }
    sent
}

fn exit_status(actions: &[Action]) -> Option<u8> {
    actions.iter().find_map(|action| match action {
        Action::Exit { status } => Some(*status),
        _ => None,
    })
}
