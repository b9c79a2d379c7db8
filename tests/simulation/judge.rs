//! The judge: knows what truly happened and what was truly done, keeps books of its own, and names the promise that was
//! broken. It shares no line with the supervisor, only the limits that users rely on.
//!
//! It keeps two clocks beside the real one. *Fair* time stands still in every gap between two turns that must be
//! forgiven (longer than two heartbeat intervals): nobody may be killed before his limit in fair time. *Strict* time
//! stands still in every gap that may be forgiven (longer than one): what is due in strict time must have been done.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use stark::channel::message::{ToMaster, ToWorker};
use stark::supervisor::{
    Action, BACKOFF_FIRST, BACKOFF_MAX, Event, Exit, FAILED_DELAY, Fact, HEALTHY_AFTER,
    KEEPER_BACKOFF_MAX, KEEPER_TIMEOUT, KILL_GRACE, KillReason, Order, Pid, Policy, Role,
    SPAWN_BACKOFF_MAX,
};

/// The world's own delays in killing and reaping, at most, over a whole stop.
const WORLD_DELAYS: Duration = Duration::from_secs(15);

/// A broken promise.
#[derive(Debug)]
pub struct Violation {
    pub rule: &'static str,
    pub detail: String,
}

pub type Verdict = Result<(), Violation>;

fn demand(holds: bool, rule: &'static str, detail: impl FnOnce() -> String) -> Verdict {
    if holds {
        return Ok(());
    }
    let detail = detail();
    Err(Violation { rule, detail })
}

pub const ONE_PROCESS: &str = "one process a slot";
pub const REAPED: &str = "every pid reaped";
pub const NOT_EARLY: &str = "nobody killed before his deadline";
pub const NOT_LATE: &str = "nobody lives past his deadline";
pub const FILLED: &str = "no slot empty for longer than its backoff";
pub const BACKOFF: &str = "backoff as promised";
pub const STOPS: &str = "a stop ends within its bound";
pub const ONE_EXIT: &str = "one exit, and nothing after it";
pub const NO_SPAWN: &str = "nothing spawned in a stop";
pub const KEEPER_LAST: &str = "the keeper outlives the workers";
pub const STALE: &str = "older generations change nothing";
pub const RELOAD: &str = "a reload has one slot down at a time";
pub const ORDERED: &str = "nothing that nobody ordered";
pub const RECOVERS: &str = "never given up";

/// A moment on all clocks.
#[derive(Clone, Copy, Debug)]
struct Moment {
    real: Instant,
    fair: Duration,
    strict: Duration,
}

/// What the judge knows of a process.
#[derive(Debug)]
struct Tenant {
    pid: Pid,
    generation: u64,
    spawned: Moment,
    heard: Moment,
    answered: u64,
    consumer_delay: Duration,
    ready: Option<Instant>,
    failed: Option<Moment>,
    /// It said that it recycles, or was told to.
    announced: bool,
    drain: Option<Moment>,
    terminated: Option<Moment>,
    killed: bool,
    over_memory: bool,
}

/// When an empty slot has to be filled, and how.
#[derive(Debug)]
struct Vacancy {
    earliest: Instant,
    latest: Instant,
    delay: (Duration, Duration),
}

#[derive(Debug)]
struct Seat {
    role: Role,
    start_timeout: Duration,
    memory_limit_bytes: u64,
    generation: u64,
    asked: u64,
    tenant: Option<Tenant>,
    holder: Option<(Pid, Moment)>,
    /// Forks that were asked for and not answered.
    forks: Vec<(u64, Duration)>,
    vacancy: Option<Vacancy>,
    crashes: u32,
    unreclaimed: u32,
    refusals: u32,
    was_ready: bool,
}

#[derive(Debug)]
pub struct Judge {
    interval: Duration,
    shutdown_timeout: Duration,
    seats: Vec<Seat>,
    clock: Moment,
    /// Ends of the last gaps that must, and that may, be forgiven.
    forgiven: Duration,
    maybe_forgiven: Duration,
    stop: Option<Moment>,
    kill_all: Option<Moment>,
    refused: bool,
    all_ready: bool,
    reloads: u32,
    /// Slots that were asked to recycle for a reload and have not been ready since.
    reload_down: BTreeSet<usize>,
    pub exit: Option<u8>,
}

impl Judge {
    pub fn new(policy: &Policy, now: Instant) -> Self {
        let seats = policy.slots.iter().map(|slot| Seat {
            role: slot.role,
            start_timeout: slot.start_timeout,
            memory_limit_bytes: slot.memory_limit_bytes,
            generation: slot.last_generation,
            asked: 0,
            tenant: None,
            holder: None,
            forks: Vec::new(),
            vacancy: Some(Vacancy {
                earliest: now,
                latest: now,
                delay: (Duration::ZERO, Duration::ZERO),
            }),
            crashes: 0,
            unreclaimed: 0,
            refusals: 0,
            was_ready: false,
        });
        Self {
            interval: policy.heartbeat_interval,
            shutdown_timeout: policy.shutdown_timeout,
            seats: seats.collect(),
            clock: Moment {
                real: now,
                fair: Duration::ZERO,
                strict: Duration::ZERO,
            },
            forgiven: Duration::ZERO,
            maybe_forgiven: Duration::ZERO,
            stop: None,
            kill_all: None,
            refused: false,
            all_ready: false,
            reloads: 0,
            reload_down: BTreeSet::new(),
            exit: None,
        }
    }

    pub fn is_stopping(&self) -> bool {
        self.stop.is_some()
    }

    /// A turn of the master begins.
    pub fn turn_begins(&mut self, now: Instant) {
        let gap = now - self.clock.real;
        self.clock.real = now;
        if gap <= self.interval * 2 {
            self.clock.fair += gap;
        } else {
            self.forgiven = self.clock.fair;
        }
        if gap <= self.interval {
            self.clock.strict += gap;
        } else {
            self.maybe_forgiven = self.clock.strict;
        }
    }

    /// Whether nobody who lives says this.
    pub fn is_stale(&self, event: &Event) -> bool {
        match event {
            Event::Message {
                slot, generation, ..
            } => {
                let tenant = self.seats[*slot].tenant.as_ref();
                tenant.is_none_or(|tenant| tenant.generation != *generation)
            }
            _ => false,
        }
    }

    /// Something reached the master.
    pub fn delivered(&mut self, event: &Event) {
        match event {
            Event::Message {
                slot,
                generation,
                message,
            } => self.heard(*slot, *generation, message),
            Event::Exited { pid, exit } => self.reaped(*pid, *exit),
            Event::Occupied { slot, pid } => {
                self.seats[*slot].holder = Some((*pid, self.clock));
                self.seats[*slot].vacancy = None;
                // Instead of the fork.
                self.seats[*slot].forks.clear();
            }
            Event::Vacated { slot, .. } => {
                self.seats[*slot].holder = None;
                self.seats[*slot].vacancy = Some(at_once(self.clock.real));
            }
            Event::Order(order) => self.ordered(*order),
            Event::Spawned {
                slot,
                generation,
                pid,
            } => self.spawned(*slot, *generation, *pid),
            Event::SpawnFailed {
                slot, generation, ..
            } => {
                let now = self.clock.real;
                let seat = &mut self.seats[*slot];
                let fork = seat.forks.iter().position(|fork| fork.0 == *generation);
                let (_, delay) = seat.forks.remove(fork.expect("asked for"));
                let wait = doubled(seat.refusals).min(SPAWN_BACKOFF_MAX);
                seat.refusals += 1;
                seat.vacancy = Some(Vacancy {
                    earliest: now + wait,
                    latest: now + wait,
                    delay: (delay, delay),
                });
            }
            Event::Tick => {}
        }
    }

    fn ordered(&mut self, order: Order) {
        if self.exit.is_some() {
            return;
        }
        match order {
            Order::Reload => self.reloads += 1,
            Order::Shutdown if self.stop.is_none() => self.stop = Some(self.clock),
            Order::Shutdown | Order::ShutdownNow => {
                self.stop.get_or_insert(self.clock);
                self.kill_all.get_or_insert(self.clock);
            }
        }
    }

    fn spawned(&mut self, slot: usize, generation: u64, pid: Pid) {
        let clock = self.clock;
        let seat = &mut self.seats[slot];
        let fork = seat.forks.iter().position(|fork| fork.0 == generation);
        let (_, consumer_delay) = seat.forks.remove(fork.expect("asked for"));
        seat.refusals = 0;
        seat.unreclaimed += 1;
        seat.tenant = Some(Tenant {
            pid,
            generation,
            spawned: clock,
            heard: clock,
            answered: 0,
            consumer_delay,
            ready: None,
            failed: None,
            announced: false,
            drain: None,
            terminated: None,
            killed: false,
            over_memory: false,
        });
    }

    fn heard(&mut self, slot: usize, generation: u64, message: &ToMaster) {
        let clock = self.clock;
        let seat = &mut self.seats[slot];
        let Some(tenant) = seat.tenant.as_mut() else {
            return;
        };
        if tenant.generation != generation || tenant.killed {
            return;
        }
        let leaves = tenant.announced || tenant.failed.is_some() || tenant.drain.is_some();
        match message {
            ToMaster::Heartbeat {
                sequence,
                rss_bytes,
            } => {
                if *sequence > tenant.answered && *sequence <= seat.asked {
                    tenant.answered = *sequence;
                    tenant.heard = clock;
                    tenant.over_memory = *rss_bytes > seat.memory_limit_bytes / 2 * 3;
                }
                return;
            }
            ToMaster::Reclaimed => seat.unreclaimed = 0,
            ToMaster::Ready if !leaves => {
                tenant.ready.get_or_insert(clock.real);
                seat.unreclaimed = 0;
                seat.was_ready = true;
                self.reload_down.remove(&slot);
            }
            ToMaster::Recycling(_) if !leaves => tenant.announced = true,
            ToMaster::Failed { .. } if tenant.failed.is_none() && tenant.drain.is_none() => {
                tenant.failed = Some(clock);
            }
            ToMaster::Ready | ToMaster::Recycling(_) | ToMaster::Failed { .. } => {}
        }
        tenant.heard = clock;
    }

    /// Strikes the process from the books and writes down when its successor is due.
    fn reaped(&mut self, pid: Pid, exit: Exit) {
        let now = self.clock.real;
        let lived = |seat: &&mut Seat| seat.tenant.as_ref().is_some_and(|t| t.pid == pid);
        let Some(seat) = self.seats.iter_mut().find(lived) else {
            return;
        };
        let tenant = seat.tenant.take().expect("just seen");
        if tenant.ready.is_some_and(|at| now - at >= HEALTHY_AFTER) {
            seat.crashes = 0;
        }
        let is_worker = seat.role == Role::Worker;
        let failed = tenant.failed.is_some() && !tenant.killed;
        seat.vacancy = Some(
            if tenant.announced && !failed && !tenant.killed && exit == Exit::Status(0) {
                seat.crashes = 0;
                at_once(now)
            } else if failed && is_worker {
                Vacancy {
                    delay: (FAILED_DELAY, FAILED_DELAY),
                    ..at_once(now)
                }
            } else {
                seat.crashes += 1;
                let full = match seat.crashes {
                    1 => Duration::ZERO,
                    n => doubled(n - 2).min(BACKOFF_MAX),
                };
                let full = if is_worker {
                    full
                } else {
                    full.min(KEEPER_BACKOFF_MAX)
                };
                if is_worker && seat.unreclaimed < 2 {
                    Vacancy {
                        delay: (full / 2, full),
                        ..at_once(now)
                    }
                } else {
                    Vacancy {
                        earliest: now + full / 2,
                        latest: now + full,
                        delay: (Duration::ZERO, Duration::ZERO),
                    }
                }
            },
        );
    }

    /// The master is about to do something.
    pub fn acts(&mut self, action: &Action) -> Verdict {
        demand(self.exit.is_none(), ONE_EXIT, || format!("{action:?}"))?;
        match action {
            Action::Spawn {
                slot,
                generation,
                consumer_delay,
            } => self.spawns(*slot, *generation, *consumer_delay),
            Action::Send {
                slot,
                generation,
                message,
            } => self.sends(*slot, *generation, message),
            Action::Terminate { slot, pid } => self.terminates(*slot, *pid),
            Action::Kill { slot, pid, why } => self.kills(*slot, *pid, *why),
            Action::AllReady => {
                let mut workers = self.seats.iter().filter(|seat| seat.role == Role::Worker);
                let all = workers.all(|seat| seat.was_ready);
                let once = !std::mem::replace(&mut self.all_ready, true);
                demand(all && once, ORDERED, || "all ready".into())
            }
            Action::Exit { status } => {
                self.exit = Some(*status);
                let expected = if self.refused { 69 } else { 0 };
                demand(*status == expected, ONE_EXIT, || format!("status {status}"))?;
                demand(self.stop.is_some(), ORDERED, || "exit".into())?;
                let nobody = self.seats.iter().all(|seat| seat.tenant.is_none());
                demand(nobody, REAPED, || "exit before the last reap".into())
            }
            Action::Report(Fact::StartRefused { .. }) => {
                self.refused = true;
                // An order in the same turn came after what refused the start, so that it is a second one.
                let ordered = self.stop.replace(self.clock);
                let first = ordered.is_none_or(|stop| stop.real == self.clock.real);
                self.kill_all = self.kill_all.or(ordered);
                demand(!self.all_ready && first, ORDERED, || "start refused".into())
            }
            Action::Report(_) => Ok(()),
        }
    }

    fn spawns(&mut self, slot: usize, generation: u64, delay: Duration) -> Verdict {
        let now = self.clock.real;
        let seat = &mut self.seats[slot];
        let detail = || format!("slot {slot} generation {generation} delay {delay:?}");
        demand(self.stop.is_none(), NO_SPAWN, detail)?;
        demand(
            seat.tenant.is_none() && seat.holder.is_none() && seat.forks.is_empty(),
            ONE_PROCESS,
            detail,
        )?;
        demand(generation == seat.generation + 1, ONE_PROCESS, detail)?;
        seat.generation = generation;
        seat.forks.push((generation, delay));
        let vacancy = seat.vacancy.take().ok_or_else(|| Violation {
            rule: ONE_PROCESS,
            detail: detail(),
        })?;
        let (least, most) = vacancy.delay;
        let fits = now >= vacancy.earliest && least <= delay && delay <= most;
        demand(fits, BACKOFF, || format!("{}: {vacancy:?}", detail()))
    }

    fn sends(&mut self, slot: usize, generation: u64, message: &ToWorker) -> Verdict {
        let detail = || format!("slot {slot} generation {generation}: {message:?}");
        if *message == ToWorker::Drain {
            let lives = |seat: &Seat| seat.role == Role::Worker && seat.tenant.is_some();
            let too_early = self.seats[slot].role == Role::Keeper && self.seats.iter().any(lives);
            demand(!too_early, KEEPER_LAST, detail)?;
            demand(self.stop.is_some(), ORDERED, detail)?;
        }
        if let ToWorker::Recycle(_) = message {
            demand(self.reloads > 0, ORDERED, detail)?;
            // One that is not at work is not taken down.
            let tenant = self.seats[slot].tenant.as_ref();
            let works = tenant.is_some_and(|tenant| tenant.ready.is_some());
            let others = self.reload_down.iter().any(|down| *down != slot);
            demand(!works || !others, RELOAD, detail)?;
            self.reload_down.insert(slot);
        }
        let clock = self.clock;
        let seat = &mut self.seats[slot];
        demand(generation == seat.generation, STALE, detail)?;
        if let ToWorker::Heartbeat { sequence } = message {
            demand(*sequence == seat.asked + 1, ORDERED, detail)?;
            seat.asked = *sequence;
        }
        let Some(tenant) = seat.tenant.as_mut() else {
            // It was reaped in the same turn: a closed channel takes no harm.
            return Ok(());
        };
        match message {
            ToWorker::Heartbeat { .. } => {}
            ToWorker::Drain => tenant.drain = Some(clock),
            ToWorker::Recycle(_) => tenant.announced = true,
        }
        Ok(())
    }

    fn terminates(&mut self, slot: usize, pid: Pid) -> Verdict {
        let clock = self.clock;
        let limit = self.drain_limit(slot);
        let tenant = self.tenant(slot, pid)?;
        let due = tenant.drain.is_some_and(|d| clock.fair - d.fair >= limit);
        tenant.terminated = Some(clock);
        demand(due, NOT_EARLY, || format!("SIGTERM to slot {slot} {pid}"))
    }

    fn kills(&mut self, slot: usize, pid: Pid, why: KillReason) -> Verdict {
        let (clock, forgiven) = (self.clock, self.forgiven);
        let detail = || format!("slot {slot} pid {pid}: {why:?}");
        let timeout = self.interval * 3;
        let start_timeout = self.seats[slot].start_timeout;
        if let KillReason::Holder { .. } = why {
            let holder = self.seats[slot].holder;
            let due = holder
                .is_some_and(|h| h.0 == pid && clock.fair - h.1.fair >= self.shutdown_timeout);
            return demand(due && self.stop.is_none(), NOT_EARLY, detail);
        }
        let kill_all = self.kill_all.is_some();
        let tenant = self.tenant(slot, pid)?;
        demand(!tenant.killed, ORDERED, detail)?;
        tenant.killed = true;
        let passed = |since: Moment| clock.fair - since.fair;
        let due = match why {
            KillReason::StartTimeout { .. } => match tenant.failed {
                Some(failed) => passed(failed) >= start_timeout,
                None => {
                    let limit = tenant.consumer_delay + start_timeout;
                    tenant.ready.is_none() && passed(tenant.spawned) >= limit
                }
            },
            KillReason::Heartbeat { .. } => clock.fair - tenant.heard.fair.max(forgiven) >= timeout,
            KillReason::Memory { .. } => tenant.over_memory,
            KillReason::ShutdownTimeout { .. } => {
                tenant.terminated.is_some_and(|at| passed(at) >= KILL_GRACE)
            }
            KillReason::ShutdownNow => kill_all,
            KillReason::Holder { .. } => unreachable!("handled above"),
        };
        demand(due, NOT_EARLY, detail)
    }

    /// Only a process that lives in the slot may be signalled: a pid that was reaped is somebody else's.
    fn tenant(&mut self, slot: usize, pid: Pid) -> Result<&mut Tenant, Violation> {
        let tenant = self.seats[slot].tenant.as_mut();
        tenant.filter(|t| t.pid == pid).ok_or_else(|| Violation {
            rule: REAPED,
            detail: format!("slot {slot} has no process {pid}"),
        })
    }

    fn drain_limit(&self, slot: usize) -> Duration {
        match self.seats[slot].role {
            Role::Worker => self.shutdown_timeout,
            Role::Keeper => KEEPER_TIMEOUT,
        }
    }

    /// A turn of the master is over: what was due has been done.
    pub fn turn_ends(&self) -> Verdict {
        let clock = self.clock;
        if self.exit.is_some() {
            return Ok(());
        }
        for (slot, seat) in self.seats.iter().enumerate() {
            let due = seat
                .vacancy
                .as_ref()
                .is_some_and(|v| clock.real >= v.latest);
            demand(!due || self.stop.is_some(), FILLED, || {
                format!("slot {slot}: {:?}", seat.vacancy)
            })?;
            if let Some(tenant) = seat.tenant.as_ref().filter(|tenant| !tenant.killed) {
                let overdue = self.overdue(slot, tenant);
                demand(overdue.is_none(), NOT_LATE, || {
                    format!("slot {slot}, {overdue:?}: {tenant:?}")
                })?;
            }
        }
        let within = |since: Option<Moment>, bound: Duration| {
            since.is_none_or(|since| clock.strict - since.strict <= bound + WORLD_DELAYS)
        };
        let bound = self.shutdown_timeout + KILL_GRACE + KEEPER_TIMEOUT + KILL_GRACE;
        demand(within(self.stop, bound), STOPS, || format!("{bound:?}"))?;
        demand(within(self.kill_all, Duration::ZERO), STOPS, || {
            "ordered at once".into()
        })
    }

    /// The limit that a living process has outlived, if any.
    fn overdue(&self, slot: usize, tenant: &Tenant) -> Option<&'static str> {
        let passed = |since: Moment| self.clock.strict - since.strict;
        let seat = &self.seats[slot];
        let starts = tenant.ready.is_none()
            && tenant.failed.is_none()
            && !tenant.announced
            && tenant.drain.is_none();
        let silence = self.clock.strict - tenant.heard.strict.max(self.maybe_forgiven);
        let drained = tenant.drain.map(passed);
        if tenant.over_memory {
            Some("memory")
        } else if silence >= self.interval * 3 && self.clock.strict > self.maybe_forgiven {
            Some("heartbeat")
        } else if starts && passed(tenant.spawned) >= tenant.consumer_delay + seat.start_timeout {
            Some("start")
        } else if tenant.terminated.is_none()
            && drained.is_some_and(|d| d >= self.drain_limit(slot))
        {
            Some("drain")
        } else if tenant.terminated.is_some_and(|at| passed(at) >= KILL_GRACE) {
            Some("terminated")
        } else {
            None
        }
    }

    /// After a long calm everybody is at work.
    pub fn calm_ends(&self) -> Verdict {
        for (slot, seat) in self.seats.iter().enumerate() {
            let works = seat.tenant.as_ref().is_some_and(|t| t.ready.is_some());
            demand(works, RECOVERS, || format!("slot {slot}: {seat:?}"))?;
        }
        demand(self.all_ready, RECOVERS, || "never all ready".into())
    }
}

fn at_once(now: Instant) -> Vacancy {
    Vacancy {
        earliest: now,
        latest: now,
        delay: (Duration::ZERO, Duration::ZERO),
    }
}

fn doubled(times: u32) -> Duration {
    BACKOFF_FIRST * 2u32.pow(times.min(16))
}
