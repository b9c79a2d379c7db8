//! The settings in force: typed, checked, without loose ends. [`load`] makes a [`Config`] of an ini file, the environment
//! and `--set`, or tells all that is wrong with them; [`to_ini`] writes one down again. `raw` reads what is written,
//! `layers` (with `sections`) knows the names and which value wins, `inherit` what named pools have from the unnamed
//! sections, `check` (with `access`, `pools`, `run`, `queue` and `retry`) what values mean, `units` sizes and durations.

mod access;
mod check;
mod inherit;
mod layers;
mod mistakes;
mod pools;
mod print;
mod queue;
mod raw;
mod retry;
mod run;
mod sections;
pub mod units;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::io::Read;
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::check::Check;
pub use self::check::MAX_WORKERS;
use self::layers::Layers;
pub use self::mistakes::Mistakes;
use self::mistakes::Place;
pub use self::pools::{MAX_KEYS, MAX_POOLS};
pub use self::print::to_ini;
pub use self::retry::Retry;
use crate::sys::affinity;

/// An ini file longer than this, in bytes, is none.
const MAX_FILE: u64 = 1 << 20;

/// What a successful [`load`] gives.
#[derive(Debug)]
pub struct Loaded {
    /// The settings in force.
    pub config: Config,
    /// What deserves a word, but stops nothing; one line each.
    pub warnings: Vec<String>,
}

/// What settings are read in: the parts of a process that they depend on.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Environment variables; those that are not UTF-8 are left out.
    pub environment: BTreeMap<String, String>,
    /// The current directory, where `script_file` is looked for first.
    pub directory: PathBuf,
    /// Numbers of the usable cores; empty: unknown, so that none is refused.
    pub cores: Vec<usize>,
    /// What `worker.count = auto` stands for: usable cores, or the CPU quota if that is less.
    pub parallelism: usize,
}

impl Surroundings {
    /// Those of this process.
    pub fn of_this_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self {
            environment: std::env::vars_os().filter_map(text).collect(),
            directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            cores: affinity::usable_cores(),
            // The standard library asks for the affinity mask and the quotas of cgroup v1 and v2.
            parallelism: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
        }
    }
}

/// Reads the settings of a daemon from its ini file, the environment and `--set section.key=value` arguments, the later
/// ones over the earlier.
///
/// # Errors
/// Everything that is wrong, not only the first.
pub fn load(file: &Path, overrides: &[String]) -> Result<Loaded, Mistakes> {
    load_in(file, overrides, &Surroundings::of_this_process())
}

/// [`load`] in other surroundings.
///
/// # Errors
/// As [`load`].
pub fn load_in(file: &Path, overrides: &[String], here: &Surroundings) -> Result<Loaded, Mistakes> {
    let mut mistakes = Mistakes::default();
    let shown = file.display().to_string();
    // Through its components, which drops the `.` of `./worker.ini`.
    let absolute: PathBuf = here.directory.join(file).components().collect();
    let (mode, bytes) = match read_file(&absolute) {
        Ok(read) => read,
        Err(err) => {
            let what = format!("cannot read the settings: {err}");
            mistakes.add(&Place::in_file(&shown, 0), what);
            return Err(mistakes);
        }
    };
    let variables = |name: &str| here.environment.get(name).cloned();
    let environment = here.environment.iter();
    let layers = Layers {
        file: raw::read_ini(&shown, &bytes, &variables, &mut mistakes),
        environment: raw::read_environment(
            environment.map(|(name, text)| (name.as_str(), text.as_str())),
        ),
        overrides: raw::read_overrides(overrides, &mut mistakes),
    };
    let holds_password = access::holds_password(&layers.file);
    let mut warnings = Vec::new();
    let given = layers::join(layers, &mut mistakes, &mut warnings);
    let mut check = Check::new(&absolute, &shown, here, &mut mistakes, &mut warnings);
    let config = check.config(&given, &absolute);
    if holds_password {
        check.warn_if_readable(&shown, mode);
    }
    match mistakes.is_empty() {
        true => Ok(Loaded { config, warnings }),
        false => Err(mistakes),
    }
}

/// Mode and content.
fn read_file(file: &Path) -> std::io::Result<(u32, Vec<u8>)> {
    let file = std::fs::File::open(file)?;
    let mode = file.metadata()?.permissions().mode();
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MAX_FILE {
        true => Err(std::io::Error::other("longer than 1 MiB")),
        false => Ok((mode, bytes)),
    }
}

/// All settings of a daemon.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The ini file, absolute.
    pub file: PathBuf,
    /// `[main]`.
    pub main: Main,
    /// The pools: the default pool first if there is one, then in the file's order of first mention.
    pub pools: Vec<Pool>,
}

impl Config {
    /// Every queue once, as the pool's and the key's place, in their order. One that several pools share is the first
    /// one's.
    pub fn queues(&self) -> Vec<(usize, usize)> {
        let mut seen = HashSet::new();
        let mut queues = Vec::new();
        for (place, pool) in self.pools.iter().enumerate() {
            let Some(queue) = &pool.queue else {
                continue;
            };
            for (key, name) in queue.keys.iter().enumerate() {
                if seen.insert((queue.address.to_string(), queue.db, name)) {
                    queues.push((place, key));
                }
            }
        }
        queues
    }

    /// Of a pool with a queue, in the numbers of [`Config::queues`]: the first queue of its server, and its own first.
    pub fn queue_numbers(&self, pool: usize) -> Option<QueueNumbers> {
        let mine = self.pools[pool].queue.as_ref()?;
        let queues = self.queues();
        let number_of = |is_it: &dyn Fn(&Queue, &String) -> bool| {
            let found = |(pool, key): &(usize, usize)| {
                let queue = self.pools[*pool].queue.as_ref();
                queue.is_some_and(|queue| is_it(queue, &queue.keys[*key]))
            };
            queues.iter().position(found)
        };
        let is_server = |queue: &Queue| queue.address == mine.address;
        Some(QueueNumbers {
            of_server: number_of(&|queue, _| is_server(queue))?,
            own: number_of(&|queue, key| {
                is_server(queue) && queue.db == mine.db && *key == mine.keys[0]
            })?,
        })
    }

    /// Keys that other pools serve on the server of this one, under the same login.
    pub fn keys_beside(&self, pool: usize) -> Vec<String> {
        let Some(own) = &self.pools[pool].queue else {
            return Vec::new();
        };
        let login = |queue: &Queue| {
            let Queue {
                address,
                db,
                username,
                password,
                ..
            } = queue.clone();
            (address, db, username, password)
        };
        let queues = self.pools.iter().filter_map(|pool| pool.queue.as_ref());
        let keys = queues
            .filter(|queue| login(queue) == login(own))
            .flat_map(|queue| &queue.keys)
            .filter(|key| !own.keys.contains(key));
        keys.collect::<BTreeSet<_>>().into_iter().cloned().collect()
    }
}

/// Where a pool's queue and its server are told of, in the numbers of [`Config::queues`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueNumbers {
    /// The first queue of the server, of whichever pool.
    pub of_server: usize,
    /// The first queue of the pool.
    pub own: usize,
}

/// `[main]`: the daemon itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Main {
    /// Names files, titles and keys: letters, digits, `.`, `_`, `-`.
    pub name: String,
    /// Host of the admin port; a loopback address or `localhost` unless there is a password.
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
    /// A second listener of the admin port; absolute.
    pub unixsocket: Option<PathBuf>,
    /// For `AUTH` on the admin port; none: nobody has to.
    pub password: Option<Secret>,
    /// For `AUTH` by those who may look but not steer.
    pub readonly_password: Option<Secret>,
}

/// A text that is never logged or printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

/// By hand, so that no log line ever shows it.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
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

impl std::fmt::Display for LogTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Daily { directory, name } => {
                write!(f, "{}/{name}-YYYY-MM-DD.log", directory.display())
            }
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Stderr => write!(f, "-"),
        }
    }
}

/// A set of workers with the same settings.
#[derive(Clone, PartialEq)]
pub struct Pool {
    /// The daemon's name for the default pool, else that of its sections, in lower case.
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

/// By hand, so that secrets in the environment of scripts are not shown.
impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut env = self.env.clone();
        for (name, value) in &mut env {
            if print::is_secret(name, value) {
                *value = "***".to_owned();
            }
        }
        f.debug_struct("Pool")
            .field("name", &self.name)
            .field("run", &self.run)
            .field("worker", &self.worker)
            .field("queue", &self.queue)
            .field("env", &env)
            .finish()
    }
}

/// `[run]`: what is run.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The program behind the pool.
    pub program: Program,
    /// Where scripts run: the ini's directory, absolute.
    pub directory: PathBuf,
    /// A job that takes longer is ended and has failed; none: as long as it likes.
    pub max_job_time: Option<Duration>,
    /// Resident memory of a worker with its script's process group, in bytes; [`u64::MAX`]: no limit.
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
#[derive(Clone, Debug, PartialEq)]
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
#[derive(Clone, Debug, PartialEq)]
pub struct Queue {
    /// Where the server listens.
    pub address: Address,
    /// Number of the database.
    pub db: u32,
    /// ACL user; the default user when absent.
    pub username: Option<String>,
    /// For `AUTH`.
    pub password: Option<Secret>,
    /// Budget for connecting and for each reply.
    pub timeout: Duration,
    /// The lists that producers push to, the one to be served first in front; at least one, each once.
    pub keys: Vec<String>,
    /// What a job that was taken and did not end is worth.
    pub delivery: Delivery,
    /// How many jobs a worker may hold reserved.
    pub prefetch: Prefetch,
    /// `[retry]`, which goes with a queue; nothing of it counts with [`Delivery::AtMostOnce`].
    pub retry: Retry,
}

/// `queue.delivery`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It runs again.
    AtLeastOnce,
    /// It is gone: a plain pop, as Stark did.
    AtMostOnce,
}

/// Where a queue server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Host name or address, and port.
    Tcp(String, u16),
    /// A socket's path.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
