//! The world: processes that answer, fall silent, crash, hang, ignore orders; messages that are lost, late, overtaken;
//! exits that are noticed late; forks that are refused; a master that is stopped, alone or with everybody.
//!
//! A history is a troubled time, then a calm in which everything must recover, then a shutdown (at any time in some
//! histories). Everything is drawn from one seed.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use stark::channel::message::{RecycleReason, ToMaster, ToWorker};
use stark::supervisor::{
    Action, Ending, Event, Exit, Fact, KillReason, Order, Phase, Pid, Policy, Role, SlotPolicy,
    Supervisor,
};

use super::chance::Chance;
use super::fault::{Fault, Tampered};
use super::judge::{self, Judge, Verdict, Violation};

/// Enough for the longest job, a backoff, a start timeout, and a reload of all workers, one after the other.
const CALM: Duration = Duration::from_secs(300);
/// Events kept for the report of a failure.
const MEMORY: usize = 60;
const LIMIT_BYTES: u64 = 1 << 30;

/// A history has three parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Season {
    /// Everything goes wrong now and then.
    Trouble,
    /// Nothing new goes wrong, and everything recovers.
    Calm,
    /// The shutdown.
    Stop,
}

/// What the world has planned.
#[derive(Debug)]
enum Happening {
    Arrive(Event),
    Process(Pid, u64, Step),
    HolderLeaves(usize),
    MasterStops(Duration),
    EverybodyStops(Duration),
}

/// What a process does by itself.
#[derive(Clone, Copy, Debug)]
enum Step {
    Reclaim,
    Ready,
    Fail,
    Recycle(RecycleReason),
    FallSilent,
    Grow,
    Leave(Exit),
}

#[derive(Debug)]
struct Process {
    slot: usize,
    generation: u64,
    /// Pids are used again; births are not.
    birth: u64,
    silent: bool,
    rss_bytes: u64,
    ignores_orders: bool,
    dead: bool,
}

pub struct World {
    chance: Chance,
    begin: Instant,
    now: Instant,
    master: Tampered,
    judge: Judge,
    roles: Vec<Role>,
    agenda: BTreeMap<(Instant, u64), Happening>,
    inbox: Vec<Event>,
    stopped_until: Instant,
    processes: BTreeMap<Pid, Process>,
    /// Living workers of an older master, by slot.
    holders: BTreeMap<usize, Pid>,
    season: Season,
    trouble_ends: Instant,
    /// The first generation of every slot starts well.
    gentle_start: bool,
    interval: Duration,
    counter: u64,
    log: VecDeque<String>,
    tally: Tally,
}

/// How often the supervisor did what, by the word for it.
pub type Tally = BTreeMap<&'static str, u64>;

/// Plays one history; the error is the broken promise and the last events before it.
pub fn play(seed: u64, fault: Fault) -> Result<Tally, (Violation, String)> {
    let mut world = World::new(seed, fault);
    world.plan();
    match world.play() {
        Ok(()) => Ok(std::mem::take(&mut world.tally)),
        Err(violation) => {
            let log: Vec<String> = world.log.drain(..).collect();
            Err((violation, log.join("\n")))
        }
    }
}

/// A panic inside the supervisor (its own invariants) shows what led to it as well.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for line in &self.log {
                eprintln!("{line}");
            }
        }
    }
}

impl World {
    fn new(seed: u64, fault: Fault) -> Self {
        let mut chance = Chance::new(seed);
        let interval = chance.millis(1, 5) * 1000;
        let slot = |role, chance: &mut Chance| SlotPolicy {
            role,
            start_timeout: chance.millis(3, 60) * 1000,
            memory_limit_bytes: LIMIT_BYTES,
            last_generation: chance.below(3) * 1000,
        };
        let workers = 1 + chance.below(4);
        let mut slots: Vec<SlotPolicy> = (0..workers)
            .map(|_| slot(Role::Worker, &mut chance))
            .collect();
        if chance.percent(80) {
            slots.push(slot(Role::Keeper, &mut chance));
        }
        let policy = Policy {
            heartbeat_interval: interval,
            shutdown_timeout: chance.pick(&[0, 1, 10, 30]) * Duration::from_secs(1),
            seed: chance.next(),
            slots,
        };
        let now = Instant::now();
        let supervisor = Supervisor::new(policy.clone(), now);
        Self {
            judge: Judge::new(&policy, now),
            master: Tampered::new(supervisor, fault, now, interval),
            roles: policy.slots.iter().map(|slot| slot.role).collect(),
            begin: now,
            now,
            agenda: BTreeMap::new(),
            inbox: Vec::new(),
            stopped_until: now,
            processes: BTreeMap::new(),
            holders: BTreeMap::new(),
            season: Season::Trouble,
            trouble_ends: now + chance.millis(20_000, 150_000),
            gentle_start: chance.percent(80),
            interval,
            counter: 0,
            log: VecDeque::new(),
            tally: Tally::new(),
            chance,
        }
    }

    /// Draws what comes from outside: holders, orders, pauses.
    fn plan(&mut self) {
        let trouble = (self.trouble_ends - self.begin).as_millis() as u64;
        for slot in 0..self.roles.len() {
            if self.roles[slot] == Role::Worker && self.chance.percent(8) {
                let occupied = self.occupy(slot);
                self.inbox.push(occupied);
            }
        }
        for _ in 0..self.chance.below(4) {
            let at = self.chance.millis(0, trouble);
            let length = self.chance.millis(1, 12) * self.chance.pick(&[100, 1000, 10_000]);
            let pause = match self.chance.percent(50) {
                true => Happening::MasterStops(length),
                false => Happening::EverybodyStops(length),
            };
            self.after(at, pause);
        }
        for _ in 0..self.chance.below(4) {
            let at = self.chance.millis(0, trouble);
            self.after(at, Happening::Arrive(Event::Order(Order::Reload)));
        }
        if self.chance.percent(30) {
            let at = self.chance.millis(0, trouble);
            let order = self.chance.pick(&[Order::Shutdown, Order::ShutdownNow]);
            self.after(at, Happening::Arrive(Event::Order(order)));
            if self.chance.percent(20) {
                let again = at + self.chance.millis(0, 5000);
                self.after(again, Happening::Arrive(Event::Order(Order::Shutdown)));
            }
        }
    }

    fn play(&mut self) -> Verdict {
        self.turn()?;
        self.run_until(self.trouble_ends)?;
        self.season = Season::Calm;
        // The last pause may reach into the calm.
        let calm_begins = self.trouble_ends.max(self.stopped_until);
        self.run_until(calm_begins + CALM)?;
        self.season = Season::Stop;
        if !self.judge.is_stopping() {
            self.judge.calm_ends()?;
            if self.master.supervisor.phase() != Phase::Running {
                return Err(Violation {
                    rule: judge::RECOVERS,
                    detail: self.snapshot(),
                });
            }
            self.inbox.push(Event::Order(Order::Shutdown));
            self.trouble_the_stop();
        }
        self.run_until(self.now + Duration::from_secs(3600))?;
        let rule = judge::STOPS;
        let detail = String::from("no exit");
        self.judge
            .exit
            .map_or(Err(Violation { rule, detail }), |_| Ok(()))
    }

    /// Some do not hear the order to leave, and the master may be stopped meanwhile.
    fn trouble_the_stop(&mut self) {
        for process in self.processes.values_mut() {
            process.ignores_orders |= self.chance.percent(20);
        }
        if self.chance.percent(30) {
            let at = self.chance.millis(0, 40_000);
            let length = self.chance.millis(100, 10_000);
            self.after(at, Happening::MasterStops(length));
        }
    }

    /// Goes on until that moment, or the master's exit.
    fn run_until(&mut self, end: Instant) -> Verdict {
        while self.judge.exit.is_none() {
            let wake = self.wake();
            match self.agenda.first_key_value() {
                Some((&(at, _), _)) if at <= wake.min(end) => {
                    self.now = at.max(self.now);
                    let happening = self.agenda.pop_first().expect("just seen").1;
                    self.happen(happening);
                }
                _ if wake <= end => {
                    self.now = wake;
                    self.turn()?;
                }
                _ => break,
            }
        }
        Ok(())
    }

    /// When the master's next turn begins.
    fn wake(&mut self) -> Instant {
        let due = match self.inbox.is_empty() {
            true => self.master.next_deadline().unwrap_or(self.now),
            false => self.now,
        };
        due.max(self.stopped_until).max(self.now)
    }

    fn turn(&mut self) -> Verdict {
        self.judge.turn_begins(self.now);
        let mut events = std::mem::take(&mut self.inbox);
        events.sort_by_key(place_in_turn);
        loop {
            events.push(Event::Tick);
            let mut actions = Vec::new();
            for event in events.drain(..) {
                actions.extend(self.feed(event)?);
            }
            for action in actions {
                events.extend(self.perform(action)?);
            }
            if events.is_empty() {
                return self.judge.turn_ends();
            }
        }
    }

    fn feed(&mut self, event: Event) -> Result<Vec<Action>, Violation> {
        let is_stale = self.judge.is_stale(&event);
        if event != Event::Tick {
            self.note(format!(
                "-> {event:?}{}",
                if is_stale { " (stale)" } else { "" }
            ));
        }
        if let Event::Exited { pid, .. } = event {
            self.processes.remove(&pid);
        }
        self.judge.delivered(&event);
        // A pause is seen with the first event of a turn, whatever that is.
        let before = is_stale.then(|| self.snapshot());
        let stalls = self.master.supervisor.counters().stalls;
        let told = format!("{event:?}");
        let actions = self.master.handle(event, self.now);
        let paused = self.master.supervisor.counters().stalls > stalls;
        if before.is_some_and(|before| before != self.snapshot() && !paused) {
            return Err(Violation {
                rule: judge::STALE,
                detail: told,
            });
        }
        Ok(actions)
    }

    fn snapshot(&self) -> String {
        let slots: Vec<_> = self.master.supervisor.slots().collect();
        format!("{slots:?} {:?}", self.master.supervisor.phase())
    }

    fn perform(&mut self, action: Action) -> Result<Option<Event>, Violation> {
        self.note(format!("<- {action:?}"));
        self.judge.acts(&action)?;
        *self.tally.entry(word(&action)).or_default() += 1;
        match action {
            Action::Spawn {
                slot,
                generation,
                consumer_delay,
            } => return Ok(Some(self.fork(slot, generation, consumer_delay))),
            Action::Send {
                slot,
                generation,
                message,
            } => self.receive(slot, generation, message),
            Action::Terminate { pid, .. } => {
                let ignores = self.processes.get(&pid).is_some_and(|p| p.ignores_orders);
                if !ignores {
                    let exit = self.chance.pick(&[Exit::Status(0), Exit::Signal(15)]);
                    let delay = self.chance.millis(0, 100);
                    self.step(pid, delay, Step::Leave(exit));
                }
            }
            Action::Kill {
                slot,
                why: KillReason::Holder { .. },
                ..
            } => {
                let delay = self.chance.millis(0, 500);
                self.after(delay, Happening::HolderLeaves(slot));
            }
            Action::Kill { pid, .. } => {
                // A process in the kernel's hands dies when those let go.
                let most = if self.chance.percent(5) { 4000 } else { 50 };
                let delay = self.chance.millis(0, most);
                self.step(pid, delay, Step::Leave(Exit::Signal(9)));
            }
            Action::AllReady | Action::Exit { .. } | Action::Report(_) => {}
        }
        Ok(None)
    }

    /// A worker of an older master takes the slot's lock.
    fn occupy(&mut self, slot: usize) -> Event {
        let pid = self.free_pid();
        self.holders.insert(slot, pid);
        if self.chance.percent(60) {
            let leaves = self.chance.millis(0, 60_000);
            self.after(leaves, Happening::HolderLeaves(slot));
        }
        Event::Occupied { slot, pid }
    }

    fn fork(&mut self, slot: usize, generation: u64, consumer_delay: Duration) -> Event {
        // It was forked just before its master was killed, and nobody saw it until now.
        if self.is_troubled() && self.roles[slot] == Role::Worker && self.chance.percent(1) {
            return self.occupy(slot);
        }
        if self.is_troubled() && self.chance.percent(5) {
            return Event::SpawnFailed {
                slot,
                generation,
                error: "refused".into(),
            };
        }
        let pid = self.free_pid();
        self.counter += 1;
        let troubled = self.is_troubled();
        let process = Process {
            slot,
            generation,
            birth: self.counter,
            silent: false,
            rss_bytes: LIMIT_BYTES / 2,
            ignores_orders: troubled && self.chance.percent(10),
            dead: false,
        };
        self.processes.insert(pid, process);
        self.live(pid, generation, consumer_delay);
        Event::Spawned {
            slot,
            generation,
            pid,
        }
    }

    /// Draws the life of a new process.
    fn live(&mut self, pid: Pid, generation: u64, consumer_delay: Duration) {
        let is_first = generation % 1000 == 1;
        let troubled = self.is_troubled() && !(is_first && self.gentle_start);
        let crash = self.chance.pick(&[
            Exit::Status(1),
            Exit::Status(0),
            Exit::Signal(9),
            Exit::Signal(11),
        ]);
        if troubled && self.chance.percent(8) {
            let delay = self.chance.millis(0, 30);
            return self.step(pid, delay, Step::Leave(crash));
        }
        let mut at = self.chance.millis(0, 50);
        self.step(pid, at, Step::Reclaim);
        at += consumer_delay + self.chance.millis(1, 2000);
        match self.chance.below(100) {
            0..6 if troubled => {
                self.step(pid, at, Step::Fail);
                let leaves = at + self.chance.millis(0, 500);
                return self.step(pid, leaves, Step::Leave(Exit::Status(1)));
            }
            // Never ready, or it says that it fails and stays.
            6..8 if troubled => return,
            8..9 if troubled => return self.step(pid, at, Step::Fail),
            9..20 if troubled => return self.step(pid, at, Step::Leave(crash)),
            _ => self.step(pid, at, Step::Ready),
        }
        if !self.is_troubled() {
            return;
        }
        at += self.chance.millis(0, 1000) * self.chance.pick(&[1, 10, 60]);
        match self.chance.below(100) {
            0..20 => self.step(pid, at, Step::Leave(crash)),
            20..30 => self.step(pid, at, Step::FallSilent),
            30..45 => {
                let reason = self.chance.pick(&RecycleReason::ALL);
                self.step(pid, at, Step::Recycle(reason));
            }
            45..50 => self.step(pid, at, Step::Grow),
            _ => {}
        }
    }

    /// A message from the master reaches its process.
    fn receive(&mut self, slot: usize, generation: u64, message: ToWorker) {
        let is_it = |p: &Process| p.slot == slot && p.generation == generation && !p.dead;
        let Some((&pid, process)) = self.processes.iter().find(|(_, p)| is_it(p)) else {
            return;
        };
        let (silent, deaf, rss_bytes) = (process.silent, process.ignores_orders, process.rss_bytes);
        match message {
            ToWorker::Heartbeat { sequence } => {
                if silent || (self.is_troubled() && self.chance.percent(3)) {
                    return;
                }
                let late = self.is_troubled() && self.chance.percent(5);
                let most = if late { 1500 } else { 20 };
                let delay = self.chance.millis(0, most) * self.interval.as_secs() as u32;
                let message = ToMaster::Heartbeat {
                    sequence,
                    rss_bytes,
                };
                self.say(slot, generation, message, delay);
            }
            ToWorker::Recycle(reason) => {
                let delay = self.chance.millis(0, 20);
                self.step(pid, delay, Step::Recycle(reason));
            }
            ToWorker::Drain => {
                if !deaf {
                    let delay = self.job();
                    self.step(pid, delay, Step::Leave(Exit::Status(0)));
                }
            }
        }
    }

    /// How long the job in hand takes.
    fn job(&mut self) -> Duration {
        let longest = if self.is_troubled() { 60 } else { 10 };
        let factor = self.chance.pick(&[1, 10, 10, longest]);
        self.chance.millis(0, 1000) * factor
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrive(event) => self.inbox.push(event),
            Happening::Process(pid, birth, step) => {
                let is_it = |p: &&Process| p.birth == birth && !p.dead;
                if self.processes.get(&pid).filter(is_it).is_some() {
                    self.take_step(pid, step);
                }
            }
            Happening::HolderLeaves(slot) => {
                if let Some(pid) = self.holders.remove(&slot) {
                    let notice = self.chance.millis(0, 200);
                    self.after(notice, Happening::Arrive(Event::Vacated { slot, pid }));
                }
            }
            // One pause may have shifted another one into the calm.
            Happening::MasterStops(_) | Happening::EverybodyStops(_)
                if self.season == Season::Calm => {}
            Happening::MasterStops(length) => {
                self.note(format!("   the master stops for {length:?}"));
                self.stopped_until = self.stopped_until.max(self.now + length);
            }
            Happening::EverybodyStops(length) => {
                self.note(format!("   everybody stops for {length:?}"));
                self.stopped_until = self.stopped_until.max(self.now) + length;
                let later = std::mem::take(&mut self.agenda).into_iter();
                self.agenda = later
                    .map(|((at, order), h)| ((at + length, order), h))
                    .collect();
            }
        }
    }

    fn take_step(&mut self, pid: Pid, step: Step) {
        let process = self.processes.get_mut(&pid).expect("alive");
        let (slot, generation) = (process.slot, process.generation);
        let delay = self.chance.millis(0, 10);
        match step {
            Step::Reclaim => self.say(slot, generation, ToMaster::Reclaimed, delay),
            Step::Ready => self.say(slot, generation, ToMaster::Ready, delay),
            Step::Fail => {
                let message = String::from("cannot load");
                self.say(slot, generation, ToMaster::Failed { message }, delay);
            }
            Step::Recycle(reason) => {
                self.say(slot, generation, ToMaster::Recycling(reason), delay);
                let delay = self.job();
                self.step(pid, delay, Step::Leave(Exit::Status(0)));
            }
            Step::FallSilent => process.silent = true,
            Step::Grow => process.rss_bytes = LIMIT_BYTES * 2,
            Step::Leave(exit) => {
                process.dead = true;
                let most = if self.chance.percent(5) { 1000 } else { 20 };
                let notice = self.chance.millis(0, most);
                self.after(notice, Happening::Arrive(Event::Exited { pid, exit }));
                self.say_late(slot, generation);
            }
        }
    }

    /// Words of the dead that arrive when a successor lives.
    fn say_late(&mut self, slot: usize, generation: u64) {
        if self.chance.percent(30) {
            let delay = self.chance.millis(0, 5000);
            let sequence = self.chance.below(200);
            let rss_bytes = LIMIT_BYTES * self.chance.below(3);
            let heartbeat = ToMaster::Heartbeat {
                sequence,
                rss_bytes,
            };
            let message = match self.chance.below(5) {
                0 => ToMaster::Ready,
                1 => ToMaster::Reclaimed,
                2 => ToMaster::Recycling(RecycleReason::Age),
                3 => ToMaster::Failed {
                    message: "late".into(),
                },
                _ => heartbeat,
            };
            self.say(slot, generation, message, delay);
        }
    }

    fn say(&mut self, slot: usize, generation: u64, message: ToMaster, delay: Duration) {
        let event = Event::Message {
            slot,
            generation,
            message,
        };
        self.after(delay, Happening::Arrive(event));
    }

    fn step(&mut self, pid: Pid, delay: Duration, step: Step) {
        if let Some(process) = self.processes.get(&pid) {
            let birth = process.birth;
            self.after(delay, Happening::Process(pid, birth, step));
        }
    }

    fn after(&mut self, delay: Duration, happening: Happening) {
        self.counter += 1;
        let at = self.now + delay;
        self.agenda.insert((at, self.counter), happening);
    }

    /// The kernel gives a number again as soon as its last owner is reaped.
    fn free_pid(&mut self) -> Pid {
        loop {
            let pid = 2 + self.chance.below(20) as Pid;
            let is_held = self.holders.values().any(|holder| *holder == pid);
            if !is_held && !self.processes.contains_key(&pid) {
                return pid;
            }
        }
    }

    fn is_troubled(&self) -> bool {
        self.season == Season::Trouble
    }

    fn note(&mut self, what: String) {
        if self.log.len() == MEMORY {
            self.log.pop_front();
        }
        let at = self.now - self.begin;
        self.log
            .push_back(format!("{:>10.3} {what}", at.as_secs_f64()));
    }
}

/// The order that a turn of the master promises to its supervisor.
fn place_in_turn(event: &Event) -> u8 {
    match event {
        Event::Occupied { .. } | Event::Vacated { .. } => 0,
        Event::Message { .. } => 1,
        Event::Exited { .. } => 2,
        Event::Order(_) => 3,
        Event::Spawned { .. } | Event::SpawnFailed { .. } => 4,
        Event::Tick => 5,
    }
}

fn word(action: &Action) -> &'static str {
    match action {
        Action::Spawn { consumer_delay, .. } if consumer_delay.is_zero() => "spawn",
        Action::Spawn { .. } => "spawn with a delay",
        Action::Send { message, .. } => match message {
            ToWorker::Heartbeat { .. } => "heartbeat asked",
            ToWorker::Drain => "drain",
            ToWorker::Recycle(_) => "recycle",
        },
        Action::Terminate { .. } => "terminate",
        Action::Kill { why, .. } => why.name(),
        Action::AllReady => "all ready",
        Action::Exit { status: 0 } => "exit",
        Action::Exit { .. } => "exit refused",
        Action::Report(fact) => match fact {
            Fact::Ready { .. } => "ready",
            Fact::Exited { ending, .. } => match ending {
                Ending::Recycled(_) => "recycled",
                Ending::Left => "left",
                Ending::Stopped => "stopped",
                Ending::Failed => "failed",
                Ending::Killed(_) => "killed",
                Ending::Crashed => "crashed",
            },
            Fact::ConsumerFailed { .. } => "consumer failed",
            Fact::StartRefused { .. } => "start refused",
            Fact::SpawnRefused { .. } => "spawn refused",
            Fact::Paused { .. } => "paused",
            Fact::ReloadFinished => "reload finished",
            Fact::ReloadStopped { .. } => "reload stopped",
        },
    }
}
