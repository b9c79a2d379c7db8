//! Going into the background: double fork, a session of its own, and a pipe on which the daemon tells the starting
//! command that it is ready, or why it is not.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;

use nix::fcntl::OFlag;

use super::{Failure, status};
use crate::sys::descriptors;
use crate::sys::process::{self, Forked};

/// Where a daemon runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// As a child of whoever started it, who waits for it.
    Foreground,
    /// In a session of its own.
    Background,
}

/// Which side of the daemonizing this is.
pub enum Side {
    /// The starting command, which waits for the daemon's answer.
    Command(Answer),
    /// The daemon, in its own session, with /dev/null for stdin, stdout and stderr.
    Daemon(Readiness),
}

/// Forks the daemon; returns twice.
pub fn daemonize() -> io::Result<Side> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    match process::fork()? {
        Forked::Parent(child) => {
            drop(write);
            process::wait(child);
            Ok(Side::Command(Answer(File::from(read))))
        }
        Forked::Child => {
            drop(read);
            nix::unistd::setsid()?;
            // A session leader could get a controlling terminal by opening one; its child cannot.
            match process::fork() {
                Ok(Forked::Parent(_)) => process::exit(0),
                Ok(Forked::Child) => {}
                Err(_) => process::exit(i32::from(status::FAILED)),
            }
            nix::unistd::chdir("/")?;
            descriptors::silence_standard_streams()?;
            // What the command inherited (a lock, a pipe that somebody reads to its end) is not the daemon's to hold.
            descriptors::close_all_but(&[write.as_raw_fd()]);
            Ok(Side::Daemon(Readiness(Some(File::from(write)))))
        }
    }
}

/// The starting command's end of the pipe.
#[derive(Debug)]
pub struct Answer(File);

impl Answer {
    /// Waits until the daemon is ready.
    ///
    /// # Errors
    /// The daemon's own, with its exit status; or its end without a word.
    pub fn wait(mut self) -> Result<(), Failure> {
        let mut answer = Vec::new();
        let failed = |message: String| Failure::new(status::FAILED, message);
        self.0
            .read_to_end(&mut answer)
            .map_err(|err| failed(format!("cannot hear from the daemon: {err}")))?;
        match answer.split_first() {
            Some((0, _)) => Ok(()),
            Some((status, message)) => Err(Failure::new(*status, String::from_utf8_lossy(message))),
            None => Err(failed(
                "cannot start the daemon: it died before it was ready; see its log".into(),
            )),
        }
    }
}

/// The daemon's end of the pipe; empty in the foreground.
#[derive(Debug)]
pub struct Readiness(Option<File>);

impl Readiness {
    /// For a daemon in the foreground: nobody waits.
    pub fn foreground() -> Self {
        Self(None)
    }

    /// The starting command may return 0. Later calls do nothing.
    pub fn ready(&mut self) {
        self.answer(&[0]);
    }

    /// The starting command ends with this status and message. False: nobody waits (any more).
    pub fn failed(&mut self, failure: &Failure) -> bool {
        let mut answer = vec![failure.status];
        answer.extend_from_slice(failure.message.as_bytes());
        self.answer(&answer)
    }

    fn answer(&mut self, bytes: &[u8]) -> bool {
        // The command may have been interrupted: the daemon goes on without it.
        self.0
            .take()
            .is_some_and(|mut pipe| pipe.write_all(bytes).is_ok())
    }
}
