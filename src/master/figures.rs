//! What `INFO` shows, gathered from the supervisor, the scoreboard and the kernel at the moment it is asked.

use std::time::{Duration, Instant};

use super::seat::{Occupant, Seat};
use crate::admin::snapshot::{self, Snapshot};
use crate::config::Config;
use crate::daemon::{Prepared, VERSION};
use crate::scoreboard::{Counts, RunTimes, Scoreboard, State, Totals};
use crate::supervisor::{Phase, SlotState, SlotView, Supervisor};
use crate::sys::{clock, memory};

/// Figures that need memory of the past.
pub struct Figures {
    port: u16,
    started: Instant,
    started_at: String,
    /// Runs in total, at two moments at least a second apart.
    older: (Instant, u64),
    newer: (Instant, u64),
}

impl Figures {
    /// At the start; `port` is the one really bound.
    pub fn new(port: u16) -> Self {
        let now = Instant::now();
        Self {
            port,
            started: now,
            started_at: clock::local_time(),
            older: (now, 0),
            newer: (now, 0),
        }
    }

    /// Remembers the number of runs about once a second, when the master is awake anyway.
    pub fn sample(&mut self, now: Instant, runs: impl FnOnce() -> u64) {
        if now.duration_since(self.newer.0) >= Duration::from_secs(1) {
            self.older = self.newer;
            self.newer = (now, runs());
        }
    }

    /// All of `INFO`; the admin port fills in its own figures.
    pub fn snapshot(
        &self,
        config: &Config,
        prepared: &Prepared,
        board: &Scoreboard,
        seats: &[Seat],
        supervisor: &Supervisor,
    ) -> Snapshot {
        let slots: Vec<(&Seat, SlotView<'_>)> = seats.iter().zip(supervisor.slots()).collect();
        let workers: Vec<snapshot::Worker> = slots
            .iter()
            .filter_map(|(seat, view)| worker(config, board, seat, view))
            .collect();
        let counters = supervisor.counters();
        let totals = totals(seats, board);
        let times = run_times(seats, board);
        let own = memory::own_cpu_time();
        let children = memory::children_cpu_time();
        Snapshot {
            master: snapshot::Master {
                name: config.main.name.clone(),
                version: VERSION.into(),
                pid: std::process::id(),
                state: match supervisor.phase() {
                    Phase::Starting | Phase::Running => snapshot::MasterState::Running,
                    Phase::Reloading => snapshot::MasterState::Reloading,
                    Phase::Draining => snapshot::MasterState::Draining,
                },
                host: config.main.host.clone(),
                port: self.port,
                config_file: config.file.display().to_string(),
                started_at: self.started_at.clone(),
                uptime: self.started.elapsed(),
                node_id: prepared.node.clone(),
            },
            memory: snapshot::Memory {
                used_bytes: workers.iter().map(|worker| worker.rss_bytes).sum(),
                master_bytes: memory::resident_bytes(std::process::id() as i32),
            },
            clients: snapshot::Clients::default(),
            workers,
            totals: snapshot::Totals {
                spawned: counters.spawned,
                recycled: counters.recycled.iter().sum(),
                crashed: counters.crashed,
            },
            queues: queues(config, board),
            stats: snapshot::Stats {
                run_count: totals.runs,
                run_failures: totals.failures,
                run_time: totals.run_time,
                runs_per_second: self.runs_per_second(totals.runs),
                jobs_reclaimed: totals.reclaimed,
                jobs_retried: totals.retried,
                jobs_buried: totals.buried,
                run_p50: times.quantile(0.5),
                run_p99: times.quantile(0.99),
                stalls: counters.stalls,
            },
            cpu: snapshot::Cpu {
                sys: own.system,
                user: own.user,
                sys_children: children.system,
                user_children: children.user,
            },
        }
    }

    fn runs_per_second(&self, runs: u64) -> f64 {
        let seconds = self.older.0.elapsed().as_secs_f64();
        if seconds > 0.0 {
            runs.saturating_sub(self.older.1) as f64 / seconds
        } else {
            0.0
        }
    }
}

/// Totals of all slots that live, over all their generations.
pub(super) fn totals(seats: &[Seat], board: &Scoreboard) -> Totals {
    let mut sum = Totals::default();
    for record in seats.iter().filter_map(|seat| seat.record(board)) {
        let totals = record.totals();
        sum.runs += totals.runs;
        sum.failures += totals.failures;
        sum.run_time += totals.run_time;
        sum.reclaimed += totals.reclaimed;
        sum.retried += totals.retried;
        sum.buried += totals.buried;
    }
    sum
}

fn run_times(seats: &[Seat], board: &Scoreboard) -> RunTimes {
    let mut times = RunTimes::default();
    for record in seats.iter().filter_map(|seat| seat.record(board)) {
        record.add_run_times(&mut times);
    }
    times
}

fn worker(
    config: &Config,
    board: &Scoreboard,
    seat: &Seat,
    view: &SlotView<'_>,
) -> Option<snapshot::Worker> {
    let Occupant::Worker { pool, core, .. } = seat.occupant else {
        return None;
    };
    let record = seat.record(board)?;
    let process = view.state.process();
    let is_its_record = process.is_some_and(|process| record.worker().pid == process.pid);
    let state = worker_state(
        &view.state,
        if is_its_record {
            record.state()
        } else {
            State::Starting
        },
    );
    let now = clock::monotonic();
    let in_state_ms = now.saturating_sub(record.since()).as_millis() as u64;
    let (run_count, failures) = if is_its_record {
        record.of_this_generation()
    } else {
        (0, 0)
    };
    let next_start = view
        .next_start
        .map(|at| at.saturating_duration_since(Instant::now()).as_millis() as u64);
    let own_next_start = record
        .next_start_ms()
        .saturating_sub(now.as_millis() as u64);
    Some(snapshot::Worker {
        pool: config.pools[pool].name.clone(),
        pid: process.map(|process| process.pid as u32),
        generation: view.generation,
        state,
        core,
        run_count,
        failures,
        rss_bytes: process.map_or(0, |process| process.rss_bytes),
        cpu_ms: if is_its_record { record.cpu_ms() } else { 0 },
        idle_ms: if state == snapshot::WorkerState::Idle {
            in_state_ms
        } else {
            0
        },
        job_ms: if state == snapshot::WorkerState::Busy {
            in_state_ms
        } else {
            0
        },
        next_start_ms: next_start.unwrap_or(0).max(own_next_start),
    })
}

/// The supervisor knows whether a process should live; the record what one that lives does.
fn worker_state(slot: &SlotState, record: State) -> snapshot::WorkerState {
    match slot {
        SlotState::Waiting { .. }
        | SlotState::Spawning { .. }
        | SlotState::Occupied { .. }
        | SlotState::Evicting { .. } => snapshot::WorkerState::Waiting,
        SlotState::Starting { .. } | SlotState::Running { .. } => match record {
            State::Starting => snapshot::WorkerState::Starting,
            State::Idle => snapshot::WorkerState::Idle,
            State::Busy => snapshot::WorkerState::Busy,
            State::Away => snapshot::WorkerState::Away,
            State::Backoff => snapshot::WorkerState::Backoff,
            State::Draining => snapshot::WorkerState::Draining,
        },
        SlotState::Draining { .. }
        | SlotState::Failed { .. }
        | SlotState::Stopping { .. }
        | SlotState::Terminating { .. } => snapshot::WorkerState::Draining,
        SlotState::Killed { .. } => snapshot::WorkerState::Killed,
        SlotState::Retired => snapshot::WorkerState::Retired,
    }
}

fn queues(config: &Config, board: &Scoreboard) -> Vec<snapshot::Queue> {
    let now = clock::monotonic();
    let queue = |(number, (pool, key)): (usize, (usize, usize))| {
        let queue = config.pools[pool].queue.as_ref()?;
        let sample = board.queue_sample(number);
        let counted = |count: fn(&Counts) -> u64| sample.counts.as_ref().map(count);
        let seen = sample.counts.map(|counts| counts.at);
        let seen = seen.or(sample.waiting.map(|(_, at)| at));
        Some(snapshot::Queue {
            key: queue.keys[key].clone().into_bytes(),
            kind: "redis",
            is_connected: sample.is_connected,
            waiting: sample.waiting.map(|(waiting, _)| waiting),
            reserved: counted(|counts| counts.reserved),
            delayed: counted(|counts| counts.delayed),
            dead: counted(|counts| counts.dead),
            oldest: sample.counts.map(|counts| counts.oldest),
            sampled_ago: seen.map(|at| now.saturating_sub(at)),
        })
    };
    (0..).zip(config.queues()).filter_map(queue).collect()
}
