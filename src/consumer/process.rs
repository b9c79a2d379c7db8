//! The process group of a script: started, watched, and ended for good. Knows nothing of what is said over its socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::output::Listener;
use crate::sys::{process, spawn};

/// How a script ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It left with this status.
    Status(i32),
    /// A signal ended it.
    Signal(Signal),
    /// It was ended because it broke the script protocol; how.
    Broken(String),
}

/// What is known of a process that is no more.
#[derive(Clone, Debug)]
pub struct Ended {
    /// How it ended.
    pub exit: Exit,
    /// The last telling line of its stderr.
    pub last_words: Option<String>,
}

/// A leader with its process group. Dropping it kills them all.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    /// Readable once the leader has ended. The socket alone does not tell: a grandchild may hold it open.
    watch: OwnedFd,
    listener: Option<Listener>,
    ended: Option<Ended>,
}

impl Process {
    /// Starts `command` with the descriptors `handed`; what it prints goes to the log under `origin`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn start(
        mut command: Command,
        handed: &[BorrowedFd<'_>],
        origin: &str,
    ) -> io::Result<Self> {
        let (stdout, its_stdout) = io::pipe()?;
        let (stderr, its_stderr) = io::pipe()?;
        command
            .stdin(Stdio::null())
            .stdout(its_stdout)
            .stderr(its_stderr);
        let child = spawn::spawn_apart(command, handed)?;
        let pid = Pid::from_raw(child.id().cast_signed());
        let prepared = process::watch(child.id() as i32).and_then(|watch| {
            Ok((
                watch,
                Listener::start(origin, stdout.into(), stderr.into())?,
            ))
        });
        match prepared {
            Ok((watch, listener)) => Ok(Self {
                pid,
                watch,
                listener: Some(listener),
                ended: None,
            }),
            Err(error) => {
                kill_and_reap(pid);
                Err(error)
            }
        }
    }

    /// The leader's pid, which is the group's number too.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Readable once the leader has ended.
    pub fn watch(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }

    /// Whether the leader has ended, waiting at most so long for it.
    pub fn has_ended_within(&self, limit: Duration) -> bool {
        if self.ended.is_some() {
            return true;
        }
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut set = [PollFd::new(self.watch(), PollFlags::POLLIN)];
        poll(&mut set, limit).is_ok_and(|ready| ready > 0)
    }

    /// Ends whatever is left of the group, logs the rest of its output, and tells how the leader ended.
    pub fn end(&mut self) -> Ended {
        if let Some(ended) = &self.ended {
            return ended.clone();
        }
        let exit = kill_and_reap(self.pid);
        let last_words = self.listener.take().and_then(Listener::finish);
        let ended = Ended { exit, last_words };
        self.ended = Some(ended.clone());
        ended
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// The group is killed before its leader is reaped: until then the number cannot belong to anybody else.
fn kill_and_reap(pid: Pid) -> Exit {
    // Fails when only members remain that may not be killed (set-user-id programs): nothing can be done about those.
    killpg(pid, Signal::SIGKILL).ok();
    loop {
        return match waitpid(pid, None) {
            Ok(WaitStatus::Exited(_, status)) => Exit::Status(status),
            Ok(WaitStatus::Signaled(_, signal, _)) => Exit::Signal(signal),
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(error) => Exit::Broken(format!("was reaped by somebody else: {error}")),
        };
    }
}
