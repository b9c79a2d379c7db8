//! The settings in force: typed, checked, without loose ends. `raw` reads the ini as written, `units` sizes and
//! durations; [`Config`] is what the rest of the program sees.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

/// All settings of a daemon.
#[derive(Clone, Debug)]
pub struct Config {
    /// The ini file, absolute.
    pub file: PathBuf,
    /// `[main]`.
    pub main: Main,
    /// The pools, the default pool first.
    pub pools: Vec<Pool>,
}

/// `[main]`: the daemon itself.
#[derive(Clone, Debug)]
pub struct Main {
    /// Names files, titles and keys: letters, digits, `.`, `_`, `-`.
    pub name: String,
    /// Host of the admin port; a loopback address or `localhost`.
    pub host: String,
    /// Port of the admin port; 0 lets the kernel choose.
    pub port: u16,
    /// Holds run/, logs/ and data/; absolute.
    pub working_dir: PathBuf,
    /// Absolute.
    pub pid_file: PathBuf,
    /// Where log lines go.
    pub log: LogTarget,
    /// Lines below this level are not written.
    pub log_level: log::LevelFilter,
    /// Taken after binding, before forking, when started as root.
    pub user: Option<String>,
    /// Group to go with `user`; the user's own when absent.
    pub group: Option<String>,
    /// A worker silent for three of these is killed.
    pub heartbeat_interval: Duration,
    /// How long a stop waits for the jobs in hand.
    pub shutdown_timeout: Duration,
    /// Connections to the admin port.
    pub max_clients: NonZeroUsize,
}

/// Where log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// `logs/NAME-YYYY-MM-DD.log` in the working directory, a file per day (UTC).
    Daily {
        /// The directory, absolute.
        directory: PathBuf,
        /// The daemon's name.
        name: String,
    },
    /// One fixed file, absolute.
    File(PathBuf),
    /// `-`.
    Stderr,
}

/// A set of workers with the same settings.
#[derive(Clone, Debug)]
pub struct Pool {
    /// The daemon's name for the default pool.
    pub name: String,
    /// `[run]`.
    pub run: Run,
    /// `[worker]`.
    pub worker: Worker,
    /// `[queue]`; none: the consumer is called in a loop.
    pub queue: Option<Queue>,
    /// `[env]`: environment of scripts.
    pub env: BTreeMap<String, String>,
}

/// `[run]`: what is run.
#[derive(Clone, Debug)]
pub struct Run {
    /// The program behind the pool.
    pub program: Program,
    /// Where scripts run: the ini's directory, absolute.
    pub directory: PathBuf,
    /// Resident memory of a worker with its script's process group, in bytes.
    pub memory_limit_bytes: u64,
}

/// The program behind a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// A script kept warm in its language's host.
    Script {
        /// Absolute.
        file: PathBuf,
        /// Program and arguments, e.g. `["php"]`.
        interpreter: Vec<String>,
    },
    /// `run.builtin`.
    Builtin(Builtin),
}

/// `run.builtin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Builtin {
    /// Does nothing.
    Null,
    /// Logs the payload.
    Echo,
    /// Does what the payload says; for tests.
    Probe,
}

/// `[worker]`.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Slots of the pool.
    pub count: usize,
    /// Recycled after so many jobs; none: never.
    pub max_run_count: Option<u64>,
    /// Recycled at this age; none: never.
    pub max_run_time: Option<Duration>,
    /// Recycled after so long without a job; none: never.
    pub max_idle_time: Option<Duration>,
    /// Each limit is lowered by up to this share (0.0 to 1.0), drawn per generation.
    pub jitter: f64,
    /// Pools without queue: the pause after `run` had nothing to do.
    pub empty_sleep: Duration,
    /// From fork to ready.
    pub start_timeout: Duration,
    /// Cores of the workers.
    pub affinity: Affinity,
    /// Added to the niceness, -20 to 19.
    pub nice: i32,
}

/// `worker.affinity`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// One usable core per slot, round robin.
    Auto,
    /// Not pinned.
    None,
    /// One of these per slot, round robin.
    Cores(Vec<usize>),
}

/// `[queue]` with type redis.
#[derive(Clone, Debug)]
pub struct Queue {
    /// Where the server listens.
    pub address: Address,
    /// Number of the database.
    pub db: u32,
    /// ACL user; the default user when absent.
    pub username: Option<String>,
    /// Never logged.
    pub password: Option<String>,
    /// Budget for connecting and for each reply.
    pub timeout: Duration,
    /// The list that producers push to.
    pub key: String,
    /// How many jobs a worker may hold reserved.
    pub prefetch: Prefetch,
}

/// Where a queue server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Host name or address, and port.
    Tcp(String, u16),
    /// A socket's path.
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `queue.prefetch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefetch {
    /// About 20 ms of work, at most 1000 jobs.
    Auto,
    /// At most so many, 1 to 1000.
    Fixed(usize),
}
