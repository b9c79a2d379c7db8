//! The logger: the process that writes the lines of those who must not wait for the disk. The master forks it first,
//! forks it again when it dies, and lets it write the last line. It is no slot: it has nothing to be asked, and a stopped
//! or stalled one costs lines, which are counted, and nobody's time.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::Signal;

use super::spawn::{self, Leash};
use crate::daemon::{log_queue, logging};
use crate::sys::process;

/// From one fork to the next: a logger that cannot live is not forked without end.
const FORK_INTERVAL: Duration = Duration::from_secs(1);

/// What it has to write the last lines when the daemon ends, in milliseconds. A disk that stalls must not keep a daemon from
/// leaving.
const LAST_WORDS_MS: u16 = 1000;

/// The master's view of it.
#[derive(Debug)]
pub struct Logger {
    queue: log_queue::Receiver,
    pid: Option<i32>,
    forked_at: Instant,
    title: String,
}

impl Logger {
    /// Forks it. From now on the calling thread hands its lines over.
    ///
    /// # Errors
    /// When the kernel has no descriptors or processes left.
    pub fn start(title: String, now: Instant) -> io::Result<Self> {
        let mut logger = Self {
            queue: log_queue::open()?,
            pid: None,
            forked_at: now,
            title,
        };
        logger.pid = Some(logger.fork()?);
        logging::never_wait();
        Ok(logger)
    }

    /// Its process, while there is one.
    pub fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// A child was reaped. True: it was the logger.
    pub fn reaped(&mut self, pid: i32) -> bool {
        let is_it = self.pid == Some(pid);
        if is_it {
            self.pid = None;
            log::warn!("logger exited pid={pid}");
        }
        is_it
    }

    /// When [`Logger::turn`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.pid.is_none().then(|| self.forked_at + FORK_INTERVAL)
    }

    /// Forks it anew when it is gone. What was handed over meanwhile waits in the queue.
    pub fn turn(&mut self, now: Instant) {
        if self.next_deadline().is_none_or(|at| now < at) {
            return;
        }
        self.forked_at = now;
        match self.fork() {
            Ok(pid) => self.pid = Some(pid),
            Err(err) => log::error!("cannot fork logger err={:?}", err.to_string()),
        }
    }

    /// The daemon ends: what was handed over is written, within a second.
    pub fn finish(self) {
        log_queue::close();
        let Some(pid) = self.pid else {
            return;
        };
        if let Ok(ended) = process::watch(pid) {
            let _ = poll(
                &mut [PollFd::new(ended.as_fd(), PollFlags::POLLIN)],
                LAST_WORDS_MS,
            );
        }
        // Not awaited: a process that the disk holds does not even die.
        let _ = process::signal(pid, Signal::SIGKILL);
        process::reap_all();
    }

    fn fork(&self) -> io::Result<i32> {
        let newborn = spawn::Newborn {
            role: "logger",
            title: &self.title,
            keep: &[self.queue.as_raw_fd()],
            leash: Leash::Outlives,
        };
        spawn::fork(&newborn, || {
            log_queue::close();
            logging::write_out(&self.queue);
            0
        })
    }
}
