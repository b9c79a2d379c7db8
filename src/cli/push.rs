//! `stark push`: jobs from the command line or from stdin to the tail of a queue, at once or later. Payloads are pushed byte by byte as they
//! are; an empty line is an empty job. However it ends, it says how many were pushed.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::answer::{Answer, Format, complain};
use super::lines::{LineError, Lines};
use super::progress::Progress;
use crate::config::{self, Config, units};
use crate::daemon::{Failure, status};
use crate::queue::{self, QueueError};

/// Jobs that go in one command.
const BATCH_JOBS: usize = 500;
/// Bytes after which a command is sent, whatever the number of jobs.
const BATCH_BYTES: usize = 1 << 20;
/// Redis takes no longer value (`proto-max-bulk-len`).
const MAX_JOB_BYTES: usize = 512 << 20;

/// When jobs may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// As soon as a worker is free.
    Now,
    /// Not before this has passed.
    After(Duration),
    /// Not before this time.
    At(SystemTime),
}

/// The value of `--delay`.
pub fn delay(text: &str) -> Result<When, String> {
    let delay = units::parse_duration(text).map(When::After);
    delay.ok_or_else(|| "not a duration: seconds, or such as 250ms, 10s, 5m, 1h30m".to_owned())
}

/// The value of `--at`.
pub fn at(text: &str) -> Result<When, String> {
    let at = humantime::parse_rfc3339_weak(text).map(When::At);
    at.map_err(|_| "not a time in UTC, such as 2027-01-01T00:00:00Z".to_owned())
}

/// Pushes; answers how many jobs went.
pub fn push(
    config: &Config,
    key: Option<&str>,
    when: When,
    payloads: &[OsString],
    format: Format,
) -> Result<Answer, Failure> {
    let settings = queue_of(config, key)?;
    let key = settings.keys[0].clone();
    let mut tail = Tail::new(&settings, when, Interruption::watch()?);
    let outcome = push_all(&mut tail, payloads);
    tail.progress.clear();
    let pushed = tail.pushed;
    let why = match outcome {
        Ok(()) => {
            let json = json!({ "pushed": pushed, "key": key });
            return Ok(Answer::new(format!("{pushed} pushed\n"), json));
        }
        Err(why) => why,
    };
    let failure = Failure::new(status::FAILED, why.told(pushed));
    if let Stop::Interrupted(signal) = why {
        complain(&failure, format);
        // To end by the signal: so a shell's loop around this ends, too.
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
    Err(failure)
}

/// The queue to push to: of the pool that serves the key, else of the first pool that has one.
fn queue_of(config: &Config, key: Option<&str>) -> Result<config::Queue, Failure> {
    let queues = || config.pools.iter().filter_map(|pool| pool.queue.as_ref());
    let serves =
        |queue: &&config::Queue| key.is_some_and(|key| queue.keys.iter().any(|k| k == key));
    let mut serving = queues().filter(serves);
    let found = match (serving.next(), serving.next()) {
        (Some(only), None) => Some(only),
        _ => queues().next(),
    };
    let Some(found) = found else {
        let message = "cannot push: the settings have no queue";
        return Err(Failure::new(status::FAILED, message));
    };
    let key = key.unwrap_or(&found.keys[0]).to_string();
    Ok(config::Queue {
        keys: vec![key],
        ..found.clone()
    })
}

/// Why not all was pushed.
enum Stop {
    /// By this signal.
    Interrupted(i32),
    /// The input is at fault.
    Input(LineError),
    /// The server is; the jobs that were just sent may have arrived.
    Store { err: QueueError, sent: usize },
}

impl Stop {
    fn told(&self, pushed: u64) -> String {
        let cannot = match pushed {
            0 => "cannot push".to_string(),
            1 => "cannot push after 1 job".to_string(),
            _ => format!("cannot push after {pushed} jobs"),
        };
        match self {
            Self::Interrupted(_) => format!("interrupted, {pushed} pushed"),
            Self::Input(err) => format!("{cannot}: {err}"),
            Self::Store { err, sent } => match (err, sent) {
                (QueueError::Unavailable(_), 1..) => {
                    format!("{cannot}: {err}; whether the next {sent} arrived is not known")
                }
                _ => format!("{cannot}: {err}"),
            },
        }
    }
}

fn push_all(tail: &mut Tail, payloads: &[OsString]) -> Result<(), Stop> {
    tail.open()?;
    for payload in payloads {
        if payload == "-" {
            push_lines(tail)?;
        } else {
            tail.add(payload.as_bytes().to_vec())?;
        }
    }
    tail.flush()
}

fn push_lines(tail: &mut Tail) -> Result<(), Stop> {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned();
    let stdin = File::from(stdin.map_err(|err| Stop::Input(err.into()))?);
    tail.progress = Progress::of_input(&stdin);
    let mut lines = Lines::new(stdin, MAX_JOB_BYTES);
    loop {
        match lines.take() {
            Ok(Some(line)) => {
                tail.read_bytes += line.len() as u64 + 1;
                tail.add(line)?;
            }
            Ok(None) if lines.is_at_end() => return Ok(()),
            Ok(None) => {
                // Whoever writes jobs now and then wants them run now, not when there are 500.
                if !is_readable(lines.input()) {
                    tail.flush()?;
                    tail.interruption.wait_unless_readable(lines.input())?;
                }
                if let Err(err) = lines.read() {
                    tail.flush()?;
                    return Err(Stop::Input(err));
                }
            }
            Err(err) => {
                tail.flush()?;
                return Err(Stop::Input(err));
            }
        }
    }
}

/// Collects jobs into commands.
struct Tail {
    producer: queue::Producer,
    when: When,
    interruption: Interruption,
    progress: Progress,
    batch: Vec<Vec<u8>>,
    batch_bytes: usize,
    pushed: u64,
    read_bytes: u64,
}

impl Tail {
    fn new(settings: &config::Queue, when: When, interruption: Interruption) -> Self {
        Self {
            producer: queue::Producer::new(settings),
            when,
            interruption,
            progress: Progress::hidden(),
            batch: Vec::new(),
            batch_bytes: 0,
            pushed: 0,
            read_bytes: 0,
        }
    }

    /// A server that is away is told before anything is read, and with nothing in doubt.
    fn open(&mut self) -> Result<(), Stop> {
        let opened = self.producer.open();
        opened.map_err(|err| Stop::Store { err, sent: 0 })
    }

    fn add(&mut self, payload: Vec<u8>) -> Result<(), Stop> {
        self.batch_bytes += payload.len();
        self.batch.push(payload);
        match self.batch.len() >= BATCH_JOBS || self.batch_bytes >= BATCH_BYTES {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), Stop> {
        self.interruption.check()?;
        let sent = self.batch.len();
        let delay = match self.when {
            When::Now => None,
            When::After(delay) => Some(delay),
            // A time that has passed is now.
            When::At(time) => Some(time.duration_since(SystemTime::now()).unwrap_or_default()),
        };
        let pushed = match delay {
            None => self.producer.push(&self.batch),
            Some(delay) => self.producer.push_delayed(&self.batch, delay),
        };
        pushed.map_err(|err| Stop::Store { err, sent })?;
        self.pushed += sent as u64;
        self.batch.clear();
        self.batch_bytes = 0;
        self.progress.show(self.pushed, self.read_bytes);
        Ok(())
    }
}

/// Ctrl-C and SIGTERM, noticed between two commands, so that what was pushed is known. The second one ends at once.
struct Interruption {
    /// 0: none.
    signal: Arc<AtomicUsize>,
    bell: UnixStream,
}

impl Interruption {
    fn watch() -> Result<Self, Failure> {
        let install = || {
            let signal = Arc::new(AtomicUsize::new(0));
            let is_second = Arc::new(AtomicBool::new(false));
            let (bell, ringer) = UnixStream::pair()?;
            for number in [SIGINT, SIGTERM] {
                // Those registered first run first: this one sees what the first signal left.
                signal_hook::flag::register_conditional_default(number, Arc::clone(&is_second))?;
                signal_hook::flag::register(number, Arc::clone(&is_second))?;
                signal_hook::flag::register_usize(number, Arc::clone(&signal), number as usize)?;
                signal_hook::low_level::pipe::register(number, ringer.try_clone()?)?;
            }
            Ok(Self { signal, bell })
        };
        install().map_err(|err: io::Error| {
            Failure::new(status::FAILED, format!("cannot watch for signals: {err}"))
        })
    }

    fn check(&self) -> Result<(), Stop> {
        match self.signal.load(Ordering::SeqCst) {
            0 => Ok(()),
            signal => Err(Stop::Interrupted(signal as i32)),
        }
    }

    fn wait_unless_readable(&self, input: &File) -> Result<(), Stop> {
        let mut fds = [
            PollFd::new(input.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.bell.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => self.check(),
            Err(errno) => Err(Stop::Input(io::Error::from(errno).into())),
        }
    }
}

/// Whether a read returns at once; a file, an end and an error do.
fn is_readable(input: &File) -> bool {
    let mut fds = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO) != Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Settings with a pool for each of these: a port, and the keys that are served there; none: no queue.
    fn settings(pools: &[(u16, &[&str])]) -> Config {
        let directory = tempfile::tempdir().unwrap();
        let ini = directory.path().join("t.ini");
        std::fs::write(&ini, "[run]\nbuiltin = null\n[queue]\n").unwrap();
        let mut config = config::load(&ini, &[]).unwrap().config;
        let pool = config.pools.remove(0);
        for (port, keys) in pools {
            let mut pool = pool.clone();
            pool.queue = pool.queue.filter(|_| !keys.is_empty());
            if let Some(queue) = &mut pool.queue {
                queue.address = config::Address::Tcp("h".into(), *port);
                queue.keys = keys.iter().map(|key| key.to_string()).collect();
            }
            config.pools.push(pool);
        }
        config
    }

    #[test]
    fn a_job_goes_to_the_first_key_and_a_key_of_one_pool_alone_to_its_server() {
        let config = settings(&[(1, &[]), (2, &["high", "low"]), (3, &["mail", "low"])]);
        for (key, port, chosen) in [
            (None, 2, "high"),
            (Some("mail"), 3, "mail"),
            (Some("high"), 2, "high"),
            (Some("low"), 2, "low"),
            (Some("other"), 2, "other"),
        ] {
            let queue = queue_of(&config, key).unwrap();
            assert_eq!(
                queue.address,
                config::Address::Tcp("h".into(), port),
                "{key:?}"
            );
            assert_eq!(queue.keys, [chosen]);
        }
    }

    #[test]
    fn without_any_queue_nothing_is_pushed() {
        for key in [None, Some("jobs")] {
            let failure = queue_of(&settings(&[(1, &[])]), key).unwrap_err();
            assert_eq!(failure.message, "cannot push: the settings have no queue");
        }
    }
}
