//! A script kept warm beside the worker: started with the host of its language, fed with runs over the script
//! protocol, and ended with its whole process group. Whether a dead one is started again, and when, is the worker's
//! affair; so are time limits.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use nix::unistd::Pid;

use super::hosts::{self, Handed};
use super::link::Link;
use super::output;
use super::pace::Pace;
use super::process::Process;
use super::wire::{self, Invalid, Reply};
use super::{Outcome, Ran};
use crate::queue::Job;
use crate::resp;

pub use super::hosts::ScriptSpec;
pub use super::process::Exit;

/// From the end of a script's socket to its own end, before it is killed.
const EXIT_GRACE: Duration = Duration::from_secs(1);

/// The worker's orders, looked at between runs and whenever `wake` is readable.
#[derive(Clone, Copy)]
pub struct Orders<'a> {
    /// True: begin nothing more. Called after each wake-up; it also has to make `wake` unreadable again, unless it
    /// answers true.
    pub stop: &'a dyn Fn() -> bool,
    /// Readable when `stop` may have changed its mind.
    pub wake: BorrowedFd<'a>,
}

/// Why a script did not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// It cannot be loaded or its `init` failed; its own words.
    #[error("{0}")]
    Refused(String),
    /// It ended without a word of its own.
    #[error("{0}")]
    Died(String),
    /// The interpreter cannot be started.
    #[error("{0}")]
    Spawn(String),
    /// The orders said stop while it was starting.
    #[error("script was stopped while it was starting")]
    Interrupted,
}

/// What [`Script::run`] tells while it works.
pub struct Told<'a> {
    /// A job, by its place, has ended.
    pub ended: &'a mut dyn FnMut(usize, Outcome),
    /// The job in hand takes longer than [`PATIENCE`], and so many jobs at the end were not sent: they will not be.
    pub unsent: &'a mut dyn FnMut(usize),
    /// The script counts so many bytes of memory as its own, and is near its limit.
    pub full: &'a mut dyn FnMut(u64),
}

/// How long a job may keep others waiting that came with it.
pub const PATIENCE: Duration = Duration::from_millis(250);

/// How [`Script::run`] ended. In each case the jobs for which `ended` was called are the first ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchEnd {
    /// All jobs have ended.
    All,
    /// So many have ended as the orders wanted; the others have not begun.
    Stopped {
        /// Jobs for which `ended` was called.
        ended: usize,
    },
    /// The script is gone; the jobs after the one in hand have not begun.
    Died {
        /// Jobs for which `ended` was called.
        ended: usize,
        /// What is known.
        death: Death,
    },
}

/// The end of a script that nobody had asked to leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// It may have begun the first job that has not ended.
    pub in_hand: bool,
    /// Runs finished since its start, by its progress page or its replies, whichever says more. When this exceeds
    /// [`Script::finished`] by one, the job in hand was finished and only its reply was lost.
    pub finished: u64,
    /// How it ended.
    pub exit: Exit,
    /// What it said last.
    pub last_words: Option<String>,
}

impl Death {
    /// Whether the job in hand counts as crashed; a script that leaves by itself with status 0 has failed it. PHP ends
    /// with status 255 after its own fatal errors, such as that of its memory limit.
    pub fn is_crash(&self) -> bool {
        self.exit != Exit::Status(0)
    }

    /// In one line, for logs and as the reason of a failed job.
    pub fn reason(&self) -> String {
        let when = if self.in_hand {
            "in a job"
        } else {
            "between jobs"
        };
        let what = match &self.exit {
            Exit::Status(0) => format!("script exited {when}"),
            Exit::Status(status) => format!("script exited {when} with status {status}"),
            Exit::Signal(signal) => format!("script killed by {}", signal.as_str()),
            Exit::Broken(how) => format!("script broke the protocol: {how}"),
        };
        match &self.last_words {
            Some(words) => format!("{what}: {words}"),
            None => what,
        }
    }
}

/// A running script. Dropping it kills its process group.
#[derive(Debug)]
pub struct Script {
    process: Process,
    link: Link,
    progress: File,
    pace: Pace,
    /// Names the slot in log lines.
    origin: String,
    sent: u64,
    finished: u64,
    /// The last line that it printed since the run in hand began.
    said: Option<String>,
    /// Bytes of memory that it has told of.
    full: Option<u64>,
}

impl Script {
    /// Starts the script and waits until it is ready. `progress` is the zeroed page in which it counts its finished
    /// runs: 8 bytes, little endian, at offset 0. `born` is told its pid, which is its process group, at once. Must be
    /// called on the main thread: the kernel kills the script when the calling thread ends.
    ///
    /// # Errors
    /// See [`StartError`]; nothing of the script is left.
    pub fn start(
        spec: &ScriptSpec,
        progress: BorrowedFd<'_>,
        orders: &Orders<'_>,
        born: &dyn Fn(i32),
    ) -> Result<Self, StartError> {
        let mut script = Self::spawn(spec, progress).map_err(|error| {
            let program = spec.interpreter.first().map(PathBuf::from);
            let program = program.unwrap_or_else(|| spec.file.clone());
            StartError::Spawn(format!("cannot start {}: {error}", program.display()))
        })?;
        born(script.pid().as_raw());
        let facts = hosts::introduction(&spec.worker);
        script
            .link
            .push(|out| resp::encode_command(out, &[b"init", facts.as_bytes()]));
        script.await_ready(orders)?;
        Ok(script)
    }

    /// Its pid, and the number of its process group.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Runs since its start whose replies were read.
    pub fn finished(&self) -> u64 {
        self.finished
    }

    /// Runs the jobs in order, and tells of each as soon as it has ended. When the orders say stop, jobs that were not
    /// sent do not begin, and those that were sent (at most 5 ms of work, as far as can be known) are awaited; the same
    /// for jobs behind one that takes too long.
    pub fn run(&mut self, jobs: &[Job], orders: &Orders<'_>, told: &mut Told<'_>) -> BatchEnd {
        let mut jobs = jobs;
        let (mut sent, mut done) = (0, 0);
        let mut stopping = false;
        let mut since = Instant::now();
        if let Err(death) = self.check_idle() {
            return BatchEnd::Died { ended: 0, death };
        }
        let mut gone = false;
        loop {
            stopping = stopping || (orders.stop)();
            if !stopping && !gone {
                sent += self.send_ahead(&jobs[sent..]);
            }
            if done == jobs.len() {
                return BatchEnd::All;
            }
            if gone {
                return self.died_in_batch(done, None);
            }
            if done == sent {
                return BatchEnd::Stopped { ended: done };
            }
            let wake = (!stopping).then_some(orders.wake);
            self.nap(wake);
            let left = PATIENCE.saturating_sub(since.elapsed());
            gone = self.exchange(wake, (sent < jobs.len() && !stopping).then_some(left));
            let before = done;
            loop {
                match self.next_outcome() {
                    Ok(Some(reply)) => (told.ended)(done, reply.into_outcome()),
                    Ok(None) => break,
                    Err(invalid) => return self.died_in_batch(done, Some(invalid)),
                }
                done += 1;
            }
            if let Some(bytes) = self.full.take() {
                (told.full)(bytes);
            }
            let now = Instant::now();
            if done > before {
                self.pace.observe(done - before, now - since);
                since = now;
            } else if now - since >= PATIENCE && sent < jobs.len() && !stopping && !gone {
                (told.unsent)(jobs.len() - sent);
                jobs = &jobs[..sent];
            }
        }
    }

    /// One run without a job.
    ///
    /// # Errors
    /// The script is gone.
    pub fn run_idle(&mut self, full: &mut dyn FnMut(u64)) -> Result<Ran, Death> {
        self.check_idle()?;
        self.send_run(wire::run_idle);
        loop {
            let gone = self.exchange(None, None);
            let outcome = self.next_outcome();
            if let Some(bytes) = self.full.take() {
                full(bytes);
            }
            match outcome {
                Ok(Some(reply)) => return Ok(reply.into_ran()),
                Ok(None) if gone => return Err(self.died(None)),
                Ok(None) => {}
                Err(invalid) => return Err(self.died(Some(invalid))),
            }
        }
    }

    /// Lets the script complete and leave, and kills what is left of its group after `grace`, or as soon as the
    /// orders say stop.
    ///
    /// # Errors
    /// What went wrong, in one line. The script is gone in any case.
    pub fn complete(mut self, grace: Duration, orders: &Orders<'_>) -> Result<(), String> {
        let deadline = Instant::now() + grace;
        let mut answer = Err("script left without an answer to complete".to_owned());
        self.link
            .push(|out| resp::encode_command(out, &[b"complete"]));
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || (orders.stop)() {
                return Err(format!(
                    "script did not leave within {} ms, killed",
                    (grace - left).as_millis()
                ));
            }
            let gone = self.exchange(Some(orders.wake), Some(left));
            while let Some(reply) = self.next_reply().map_err(|invalid| invalid.0)? {
                answer = match reply {
                    Reply::Error(words) => Err(format!("complete failed: {}", plain(&words))),
                    _ => Ok(()),
                };
            }
            if gone && self.process.has_ended_within(Duration::ZERO) {
                return answer;
            }
        }
    }

    fn spawn(spec: &ScriptSpec, progress: BorrowedFd<'_>) -> std::io::Result<Self> {
        let progress = progress.try_clone_to_owned()?;
        let (link, theirs) = Link::new()?;
        let host = hosts::open(&spec.file)?;
        let handed = Handed {
            socket: theirs.as_fd(),
            progress: progress.as_fd(),
            host: host.as_ref().map(AsFd::as_fd),
        };
        let origin = format!("pool={} slot={}", spec.worker.pool, spec.worker.index);
        let process = Process::start(hosts::command(spec, handed), &handed.descriptors(), &origin)?;
        Ok(Self {
            process,
            link,
            progress: progress.into(),
            pace: Pace::default(),
            origin,
            sent: 0,
            finished: 0,
            said: None,
            full: None,
        })
    }

    fn await_ready(&mut self, orders: &Orders<'_>) -> Result<(), StartError> {
        loop {
            if (orders.stop)() {
                return Err(StartError::Interrupted);
            }
            let gone = self.exchange(Some(orders.wake), None);
            match self.next_reply() {
                Ok(Some(Reply::Error(words))) => {
                    return Err(StartError::Refused(plain(&words).into()));
                }
                Ok(Some(_)) => return Ok(()),
                Ok(None) if gone => return Err(self.died_at_start(None)),
                Ok(None) => {}
                Err(invalid) => return Err(self.died_at_start(Some(invalid))),
            }
        }
    }

    fn died_at_start(&mut self, invalid: Option<Invalid>) -> StartError {
        let words = self.died(invalid).reason();
        StartError::Died(words.replace("between jobs", "while it was loaded"))
    }

    /// Readable once the script has ended.
    pub fn watch(&self) -> BorrowedFd<'_> {
        self.process.watch()
    }

    /// Before anything is sent: the script lives, and has not answered what nobody asked.
    ///
    /// # Errors
    /// The script is gone.
    pub fn check_idle(&mut self) -> Result<(), Death> {
        if self.process.has_ended_within(Duration::ZERO) {
            return Err(self.died(None));
        }
        match self.next_outcome() {
            Ok(None) => Ok(()),
            Ok(Some(_)) => unreachable!("no run is unanswered"),
            Err(invalid) => Err(self.died(Some(invalid))),
        }
    }

    /// Sends what fits the window, once half of it is free: a write per reply would be one too many.
    fn send_ahead(&mut self, jobs: &[Job]) -> usize {
        let window = self.pace.window();
        if self.link.unanswered() > window / 2 {
            return 0;
        }
        let mut sent = 0;
        while sent < jobs.len() && self.link.has_room(window) {
            self.send_run(|out| wire::run(&jobs[sent], out));
            sent += 1;
        }
        sent
    }

    fn send_run(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        self.link.push_run(encode);
        self.sent += 1;
    }

    /// Leaves the replies some time to gather, when there is nothing left to write. Only an order or the script's end
    /// cuts that short.
    fn nap(&mut self, wake: Option<BorrowedFd<'_>>) {
        self.link.flush();
        if let Some(length) = self.pace.nap(self.link.unanswered())
            && !self.link.has_output()
        {
            let mut set = vec![PollFd::new(self.process.watch(), PollFlags::POLLIN)];
            set.extend(wake.map(|wake| PollFd::new(wake, PollFlags::POLLIN)));
            ppoll(&mut set, Some(length.into()), None).ok();
        }
    }

    /// Writes, waits for something to happen, and reads. True: the script is gone, and all it had written is read.
    fn exchange(&mut self, wake: Option<BorrowedFd<'_>>, limit: Option<Duration>) -> bool {
        self.link.flush();
        let ended = {
            let mut set = vec![PollFd::new(self.process.watch(), PollFlags::POLLIN)];
            set.extend(wake.map(|wake| PollFd::new(wake, PollFlags::POLLIN)));
            if !self.link.is_closed() {
                let mut events = PollFlags::POLLIN;
                events.set(PollFlags::POLLOUT, self.link.has_output());
                set.push(PollFd::new(self.link.socket(), events));
            }
            // An interrupted wait is a spurious wake-up.
            ppoll(&mut set, limit.map(TimeSpec::from), None).is_ok()
                && set[0].any().unwrap_or(false)
        };
        // A link that a failed write has closed may still hold replies of finished runs.
        if ended || self.link.is_closed() {
            self.link.receive_rest();
        } else {
            self.link.receive();
        }
        ended || self.link.is_closed()
    }

    /// The next reply proper; log lines on the way to it are logged.
    fn next_reply(&mut self) -> Result<Option<Reply>, Invalid> {
        loop {
            match self.link.next_reply()? {
                Some(Reply::Log { level, text }) => self.log(&level, &text),
                Some(Reply::Memory(bytes)) => self.full = Some(bytes),
                other => return Ok(other),
            }
        }
    }

    /// The reply to the first unanswered run.
    fn next_outcome(&mut self) -> Result<Option<Reply>, Invalid> {
        let Some(reply) = self.next_reply()? else {
            return Ok(None);
        };
        if !self.link.answer_run() {
            return Err(Invalid("it answered without being asked".into()));
        }
        self.finished += 1;
        self.said = None;
        Ok(Some(reply))
    }

    fn log(&mut self, level: &str, text: &[u8]) {
        for line in text.split(|byte| *byte == b'\n') {
            output::say(&self.origin, output::level(level), line);
            if !line.is_empty() {
                self.said = Some(output::printable(&line[..line.len().min(1024)]));
            }
        }
    }

    fn died_in_batch(&mut self, ended: usize, invalid: Option<Invalid>) -> BatchEnd {
        let death = self.died(invalid);
        BatchEnd::Died { ended, death }
    }

    /// Ends what is left of the script and collects what is known of its end.
    fn died(&mut self, invalid: Option<Invalid>) -> Death {
        // Its socket closes a moment before it is gone.
        let broken = match invalid {
            Some(Invalid(how)) => Some(how),
            None if self.process.has_ended_within(EXIT_GRACE) => None,
            None => Some("it closed its socket".into()),
        };
        let ended = self.process.end();
        let exit = broken.map_or(ended.exit, Exit::Broken);
        let last_words = match exit {
            Exit::Status(0) => self.said.take(),
            _ => ended.last_words.or(self.said.take()),
        };
        Death {
            in_hand: self.link.has_run_in_hand(),
            finished: self.noted().clamp(self.finished, self.sent),
            exit,
            last_words,
        }
    }

    /// The progress page.
    fn noted(&self) -> u64 {
        let mut bytes = [0; 8];
        match self.progress.read_exact_at(&mut bytes, 0) {
            Ok(()) => u64::from_le_bytes(bytes),
            Err(_) => 0,
        }
    }
}

impl Reply {
    fn into_outcome(self) -> Outcome {
        match self {
            Self::Error(words) => wire::outcome(&words),
            _ => Outcome::Done,
        }
    }

    fn into_ran(self) -> Ran {
        match self {
            Self::Nothing => Ran::Nothing,
            Self::Error(words) => Ran::Failed(match wire::outcome(&words) {
                Outcome::Failed(reason) => reason,
                _ => words,
            }),
            _ => Ran::Something,
        }
    }
}

fn plain(error: &str) -> &str {
    error.strip_prefix("ERR ").unwrap_or(error)
}
