//! What `INFO` can tell: plain facts, gathered by the master at the moment of the question. Pure data; `info` gives them
//! their names and order.

use std::time::Duration;

/// What the master knows at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The daemon.
    pub master: Master,
    /// Resident memory.
    pub memory: Memory,
    /// The admin port's own figures; it fills them in itself.
    pub clients: Clients,
    /// All slots, pool after pool; the place here is the number in the field's name.
    pub workers: Vec<Worker>,
    /// What happened to workers since the daemon began.
    pub totals: Totals,
    /// The queues of the pools.
    pub queues: Vec<Queue>,
    /// What the consumers did, in total.
    pub stats: Stats,
    /// Processor time.
    pub cpu: Cpu,
}

/// The daemon.
#[derive(Clone, Debug, Default)]
pub struct Master {
    /// `main.name`.
    pub name: String,
    /// Of stark.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// What it is about.
    pub state: MasterState,
    /// `main.host`.
    pub host: String,
    /// The port that is really bound.
    pub port: u16,
    /// Absolute path of the ini.
    pub config_file: String,
    /// `YYYY-MM-DD HH:MM:SS`, local time.
    pub started_at: String,
    /// Since then.
    pub uptime: Duration,
    /// Names this daemon in the store.
    pub node_id: String,
}

/// What the daemon is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MasterState {
    /// Takes jobs.
    #[default]
    Running,
    /// Finishes the jobs in hand, then ends.
    Draining,
    /// Replaces its workers.
    Reloading,
}

impl MasterState {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Reloading => "reloading",
        }
    }
}

/// Resident memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Of all workers with their scripts.
    pub used_bytes: u64,
    /// Of the master.
    pub master_bytes: u64,
}

/// The admin port's own figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clients {
    /// Now.
    pub connected: usize,
    /// `main.max_clients`.
    pub max: usize,
    /// Accepted since the daemon began, refused ones not counted.
    pub connections_received: u64,
    /// Since the daemon began, refused ones included.
    pub commands_processed: u64,
}

/// One slot.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Name of the pool.
    pub pool: String,
    /// None: the slot is empty.
    pub pid: Option<u32>,
    /// How many workers lived in this slot, this one included.
    pub generation: u64,
    /// What it does.
    pub state: WorkerState,
    /// The core it is pinned to.
    pub core: Option<usize>,
    /// Jobs that it ran.
    pub run_count: u64,
    /// Those of them that failed.
    pub failures: u64,
    /// Resident memory of worker and script.
    pub rss_bytes: u64,
    /// Processor time of worker and script.
    pub cpu_ms: u64,
    /// Since the last job ended; 0 while busy.
    pub idle_ms: u64,
    /// Age of the job in hand; 0 while idle.
    pub job_ms: u64,
    /// Until the next one is forked, when the slot backs off.
    pub next_start_ms: u64,
}

/// What a slot does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// Empty; a worker will be forked.
    Waiting,
    /// Forked, cannot take jobs yet.
    Starting,
    /// Waits for a job.
    Idle,
    /// Runs one.
    Busy,
    /// Waits for the queue's server.
    Away,
    /// Waits until its consumer may be started again.
    Backoff,
    /// Finishes the job in hand, then leaves.
    Draining,
    /// Killed, not yet reaped.
    Killed,
    /// Empty for good.
    Retired,
}

impl WorkerState {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Away => "away",
            Self::Backoff => "backoff",
            Self::Draining => "draining",
            Self::Killed => "killed",
            Self::Retired => "retired",
        }
    }
}

/// What happened to workers since the daemon began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Forked.
    pub spawned: u64,
    /// Replaced as planned.
    pub recycled: u64,
    /// Ended otherwise.
    pub crashed: u64,
}

/// The queue of a pool.
#[derive(Clone, Debug)]
pub struct Queue {
    /// Any bytes.
    pub key: Vec<u8>,
    /// `queue.type`.
    pub kind: &'static str,
    /// Does the server answer?
    pub is_connected: bool,
    /// Jobs in the list; none: not known yet.
    pub waiting: Option<u64>,
    /// Jobs in workers' hands, of all daemons.
    pub reserved: Option<u64>,
    /// Jobs that are not due yet.
    pub delayed: Option<u64>,
    /// Buried jobs.
    pub dead: Option<u64>,
    /// How long the next job has been waiting; an estimate.
    pub oldest: Option<Duration>,
    /// Since the figures were taken.
    pub sampled_ago: Option<Duration>,
}

/// What the consumers did, in total.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Jobs run.
    pub run_count: u64,
    /// Those of them that failed.
    pub run_failures: u64,
    /// Spent in them, all workers together.
    pub run_time: Duration,
    /// Of the last moments.
    pub runs_per_second: f64,
    /// The median of the runs' lengths; none: there was no run.
    pub run_p50: Option<Duration>,
    /// What 99 of 100 runs did not exceed.
    pub run_p99: Option<Duration>,
    /// Put back from workers that died.
    pub jobs_reclaimed: u64,
    /// Failed, and to be run again.
    pub jobs_retried: u64,
    /// Set aside for good.
    pub jobs_buried: u64,
    /// Pauses of the master itself that were forgiven.
    pub stalls: u64,
}

/// Processor time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    /// Of the master in the kernel.
    pub sys: Duration,
    /// Of the master.
    pub user: Duration,
    /// Of ended workers in the kernel.
    pub sys_children: Duration,
    /// Of ended workers.
    pub user_children: Duration,
}
