//! The master: one loop, four steps. It waits for the nearest deadline, collects what happened as events, lets the
//! supervisor decide, and performs what it says. It talks to no store and waits for nobody.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::{Events, Poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::Signal;

use crate::admin::{self, Admin};
use crate::config::{Config, Pool};
use crate::daemon::background::Readiness;
use crate::daemon::{Failure, Prepared, logging, status};
use crate::scoreboard::Scoreboard;
use crate::supervisor::{Action, Event, Fact, KillReason, Policy, Role, SlotPolicy, Supervisor};
use crate::sys::{descriptors, process, title};

mod birth;
mod collect;
mod figures;
mod logger;
mod recycles;
mod report;
mod seat;
mod signals;
mod spawn;

use collect::{SIGNALS, TOKENS_PER_SEAT};
use figures::Figures;
use logger::Logger;
use report::{Name, Reporter};
use seat::{Occupant, Seat};
use signals::MasterSignals;

/// Descriptors of the master beside those of seats, pools and clients: files, listeners, poll, signals, and what is open
/// for a moment, such as a new channel or a client that is told that there is no room.
const OWN_DESCRIPTORS: usize = 40;

/// Its channel, and a watch on the process that holds its lock.
const DESCRIPTORS_PER_SEAT: usize = 2;

/// Its bells.
const DESCRIPTORS_PER_POOL: usize = 2;

/// From the fork of a keeper to its first word; it waits for nobody before that.
const KEEPER_START_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the daemon until it was stopped; returns its exit status.
///
/// # Errors
/// What kept it from starting. Once it was ready it does not fail.
pub fn run(
    config: &Config,
    prepared: Prepared,
    is_foreground: bool,
    readiness: &mut Readiness,
) -> Result<u8, Failure> {
    std::panic::set_hook(Box::new(|panic| log::error!("panicked: {panic}")));
    logging::set_role("master");
    title::set(&format!("stark: {} master", config.main.name));
    // Whoever started us by exec may have had children of its own.
    let mut not_ours = process::children();
    let mut master = match Master::new(config, &prepared, is_foreground) {
        Ok(master) => master,
        Err(err) => {
            prepared.leave();
            return Err(Failure::new(
                status::CANNOT_CREATE,
                format!("cannot start master: {err}"),
            ));
        }
    };
    let ended = master.run(readiness);
    log::info!(
        "master exit status={}",
        ended
            .as_ref()
            .map_or_else(|failure| failure.status, |status| *status)
    );
    let Master { logger, .. } = master;
    not_ours.extend(logger.pid());
    end_orphans(&not_ours);
    prepared.leave();
    logger.finish();
    ended
}

/// What scripts had started in sessions of their own came to us, their subreaper, and must not outlive the daemon.
fn end_orphans(not_ours: &[i32]) {
    let mut seen = not_ours.to_vec();
    // The children of those that end come to us in turn.
    loop {
        process::reap_all();
        let mut orphans = process::children();
        orphans.retain(|pid| !seen.contains(pid));
        if orphans.is_empty() {
            return;
        }
        for pid in orphans {
            seen.push(pid);
            match process::signal(pid, Signal::SIGKILL) {
                Ok(()) => {
                    log::info!("killed what a script left running pid={pid}");
                    process::wait(pid);
                }
                Err(err) => {
                    log::warn!("cannot kill what a script left running pid={pid} err={err}")
                }
            }
        }
    }
}

struct Master<'a> {
    config: &'a Config,
    prepared: &'a Prepared,
    poll: Poll,
    signals: MasterSignals,
    admin: Admin,
    board: Arc<Scoreboard>,
    seats: Vec<Seat>,
    supervisor: Supervisor,
    bells: Bells,
    figures: Figures,
    /// How many descriptors we were started with.
    descriptor_limit: u64,
    logger: Logger,
    reporter: Reporter,
    /// Why the start was refused, for the starting command.
    refusal: Option<String>,
}

/// What wakes processes that sleep.
struct Bells {
    /// One idle worker per unit; per pool.
    doors: Vec<EventFd>,
    /// The keeper; per pool.
    keeper: Vec<EventFd>,
}

impl<'a> Master<'a> {
    fn new(config: &'a Config, prepared: &'a Prepared, is_foreground: bool) -> io::Result<Self> {
        process::become_subreaper();
        let path = prepared.files.board();
        let board = Scoreboard::open(&path).map_err(|err| about(&path, &err))?;
        board.forget_queues();
        let board = Arc::new(board);
        let numbers = Arc::clone(&board);
        logging::follow(move || numbers.log_generation().load(Ordering::Relaxed));
        let title = format!("stark: {} logger", config.main.name);
        let logger = Logger::start(title, Instant::now())?;
        let seats = seats(config, &board)?;
        let now = Instant::now();
        let policy = Policy {
            slots: seats
                .iter()
                .map(|seat| slot_policy(config, seat, &board))
                .collect(),
            heartbeat_interval: config.main.heartbeat_interval,
            shutdown_timeout: config.main.shutdown_timeout,
            seed: prepared.nonce,
        };
        let poll = Poll::new()?;
        let signals = MasterSignals::install(poll.registry(), SIGNALS, is_foreground)?;
        let first_token = SIGNALS.0 + 1 + TOKENS_PER_SEAT * seats.len();
        let descriptor_limit = descriptors::limit();
        let max_clients = room_for_clients(config, &seats);
        let listener = prepared.listener.try_clone()?;
        let address = listener.local_addr()?;
        let socket = prepared.socket.as_ref();
        let main = &config.main;
        let admin = Admin::new(
            admin::Listeners {
                tcp: listener,
                unix: socket.map(|socket| socket.listener()).transpose()?,
            },
            poll.registry(),
            first_token,
            admin::Limits::new(max_clients),
            admin::Access::new(main.password.as_ref(), main.readonly_password.as_ref()),
        )?;
        let path = prepared.files.port();
        prepared
            .files
            .write_port(address.port())
            .map_err(|err| about(&path, &err))?;
        log::info!("admin listening addr={address}");
        if let Some(socket) = socket {
            log::info!("admin listening addr=unix:{}", socket.path().display());
        }
        Ok(Self {
            bells: Bells::new(config.pools.len())?,
            figures: Figures::new(address.port()),
            logger,
            supervisor: Supervisor::new(policy, now),
            config,
            prepared,
            poll,
            signals,
            admin,
            board,
            seats,
            descriptor_limit,
            reporter: Reporter::default(),
            refusal: None,
        })
    }

    fn run(&mut self, readiness: &mut Readiness) -> Result<u8, Failure> {
        let mut events = VecDeque::new();
        self.find_older_workers(&mut events);
        let mut happened = Events::with_capacity(256);
        loop {
            if let Some(status) = self.decide_and_perform(&mut events, readiness) {
                self.admin.close(self.poll.registry());
                return match self.refusal.take() {
                    Some(message) if status != 0 => {
                        let failure = Failure::new(status, message);
                        readiness.failed(&failure);
                        Err(failure)
                    }
                    _ => {
                        // Nobody hears this any more if it was ready.
                        let stopped = "cannot start the daemon: it was stopped before it was ready";
                        readiness.failed(&Failure::new(status::FAILED, stopped));
                        Ok(status)
                    }
                };
            }
            self.wait(&mut happened);
            self.collect(&happened, &mut events);
        }
    }

    fn wait(&mut self, happened: &mut Events) {
        let now = Instant::now();
        let deadlines = [
            self.supervisor.next_deadline(),
            self.admin.next_deadline(now),
            self.logger.next_deadline(),
        ];
        let timeout = deadlines
            .into_iter()
            .flatten()
            .min()
            .map(|deadline| deadline.saturating_duration_since(now));
        // epoll counts whole milliseconds: mio rounds up, so that the last one is not spun through.
        match self.poll.poll(happened, timeout) {
            Ok(()) => {}
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => log::error!("cannot wait for events: {err}"),
        }
    }

    /// Until nothing follows from what happened; the exit status when that is the end.
    fn decide_and_perform(
        &mut self,
        events: &mut VecDeque<Event>,
        readiness: &mut Readiness,
    ) -> Option<u8> {
        let mut actions = Vec::new();
        if events.is_empty() {
            events.push_back(Event::Tick);
        }
        let (config, seats) = (self.config, &self.seats);
        self.reporter
            .report_due(Instant::now(), |slot| name(config, &seats[slot]));
        while let Some(event) = events.pop_front() {
            self.supervisor.handle(event, Instant::now(), &mut actions);
            for action in std::mem::take(&mut actions) {
                if let Some(status) = self.perform(action, events, readiness) {
                    return Some(status);
                }
            }
        }
        None
    }

    fn perform(
        &mut self,
        action: Action,
        events: &mut VecDeque<Event>,
        readiness: &mut Readiness,
    ) -> Option<u8> {
        match action {
            Action::Spawn {
                slot,
                generation,
                consumer_delay,
            } => {
                // In front: it comes before anything else of this process.
                events.push_front(self.spawn(slot, generation, consumer_delay));
            }
            Action::Send {
                slot,
                generation,
                message,
            } => {
                self.seats[slot].send(generation, &message);
            }
            Action::Terminate { slot, pid } => {
                self.seats[slot].signal_script(&self.board, Signal::SIGTERM);
                log::info!(
                    "{} terminated{} pid={pid}",
                    self.name(slot).role,
                    self.name(slot).place
                );
                self.signal(pid, Signal::SIGTERM);
            }
            // Its number may be another process's by now.
            Action::Kill {
                slot,
                pid,
                why: KillReason::Holder { .. },
            } if !self.is_holder(slot, pid) => {}
            Action::Kill { slot, pid, why } => {
                report::report_kill(&self.name(slot), pid, why);
                if matches!(why, KillReason::Memory { .. }) {
                    self.seats[slot].kill_descent_of_script(&self.board);
                }
                self.seats[slot].signal_script(&self.board, Signal::SIGKILL);
                self.signal(pid, Signal::SIGKILL);
            }
            Action::AllReady => {
                readiness.ready();
                let workers = self
                    .seats
                    .iter()
                    .filter(|seat| !matches!(seat.occupant, Occupant::Keeper))
                    .count();
                log::info!("master ready workers={workers}");
            }
            Action::Exit { status } => {
                let (config, seats) = (self.config, &self.seats);
                self.reporter
                    .report_rest(Instant::now(), |slot| name(config, &seats[slot]));
                return Some(status);
            }
            Action::Report(fact) => {
                if let Fact::StartRefused { slot, message } = &fact {
                    self.refusal = Some(format!(
                        "cannot start worker{}: {message}",
                        self.name(*slot).place
                    ));
                }
                let (config, seats) = (self.config, &self.seats);
                self.reporter
                    .report(&fact, Instant::now(), |slot| name(config, &seats[slot]));
            }
        }
        None
    }

    fn signal(&self, pid: i32, signal: Signal) {
        if let Err(err) = process::signal(pid, signal) {
            log::error!("cannot send {signal} pid={pid} err={err}");
        }
    }

    fn is_holder(&self, slot: usize, pid: i32) -> bool {
        let Occupant::Worker { place, .. } = self.seats[slot].occupant else {
            return false;
        };
        self.board
            .holder(place)
            .is_ok_and(|holder| holder == Some(pid))
    }

    fn name(&self, slot: usize) -> Name {
        name(self.config, &self.seats[slot])
    }
}

/// How who sits there is named in log lines.
fn name(config: &Config, seat: &Seat) -> Name {
    match &seat.occupant {
        Occupant::Worker { pool, slot, .. } => Name {
            role: "worker",
            place: format!(" pool={} slot={slot}", config.pools[*pool].name),
        },
        Occupant::Keeper => Name {
            role: "keeper",
            place: String::new(),
        },
    }
}

impl Bells {
    fn new(pools: usize) -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let door = || EventFd::from_value_and_flags(0, flags | EfdFlags::EFD_SEMAPHORE);
        Ok(Self {
            doors: (0..pools).map(|_| door()).collect::<nix::Result<_>>()?,
            keeper: (0..pools)
                .map(|_| EventFd::from_value_and_flags(0, flags))
                .collect::<nix::Result<_>>()?,
        })
    }
}

/// How many clients may connect. Each costs a descriptor, and those that workers need are not theirs: else a flood of
/// clients would keep the master from forking.
fn room_for_clients(config: &Config, seats: &[Seat]) -> usize {
    let wanted = config.main.max_clients.get();
    let per_pools = config.pools.len() * DESCRIPTORS_PER_POOL;
    let own = OWN_DESCRIPTORS + seats.len() * DESCRIPTORS_PER_SEAT + per_pools;
    let limit = descriptors::raise_limit((own + wanted) as u64);
    let room = usize::try_from(limit)
        .unwrap_or(usize::MAX)
        .saturating_sub(own);
    if room < wanted {
        log::warn!(
            "fewer clients than configured max_clients={room} configured={wanted} descriptors={limit}"
        );
    }
    room.clamp(1, wanted)
}

/// A seat per worker, numbered on across pools, and one for the keeper when there is a queue to watch.
fn seats(config: &Config, board: &Scoreboard) -> io::Result<Vec<Seat>> {
    let mut seats = Vec::new();
    let mut places = Vec::new();
    let cores = crate::sys::affinity::usable_cores();
    for (pool, settings) in config.pools.iter().enumerate() {
        for slot in 0..settings.worker.count as u32 {
            let place = board.claim(&settings.name, slot, &|place| places.contains(&place))?;
            places.push(place);
            let number = seats.len();
            let core = birth::core(&settings.worker.affinity, &cores, &config.main.name, number);
            seats.push(Seat::new(Occupant::Worker {
                pool,
                slot,
                number,
                place,
                core,
            }));
        }
    }
    if config.pools.iter().any(|pool| pool.queue.is_some()) {
        seats.push(Seat::new(Occupant::Keeper));
    }
    Ok(seats)
}

fn slot_policy(config: &Config, seat: &Seat, board: &Scoreboard) -> SlotPolicy {
    match seat.occupant {
        Occupant::Worker { pool, place, .. } => {
            let Pool { run, worker, .. } = &config.pools[pool];
            SlotPolicy {
                role: Role::Worker,
                start_timeout: worker.start_timeout,
                memory_limit_bytes: run.memory_limit_bytes,
                last_generation: board.record(place).generation(),
            }
        }
        Occupant::Keeper => SlotPolicy {
            role: Role::Keeper,
            start_timeout: KEEPER_START_TIMEOUT,
            memory_limit_bytes: u64::MAX,
            last_generation: 0,
        },
    }
}

/// Totals of all slots that live, over all their generations.
fn totals(seats: &[Seat], board: &Scoreboard) -> crate::scoreboard::Totals {
    let mut sum = crate::scoreboard::Totals::default();
    for totals in seats
        .iter()
        .filter_map(|seat| seat.record(board))
        .map(|record| record.totals())
    {
        sum.runs += totals.runs;
        sum.failures += totals.failures;
        sum.run_time += totals.run_time;
        sum.reclaimed += totals.reclaimed;
    }
    sum
}

/// An error that names its file.
fn about(path: &Path, err: &io::Error) -> io::Error {
    io::Error::new(err.kind(), format!("{}: {err}", path.display()))
}
