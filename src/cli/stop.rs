//! `stark stop`: the daemon is asked to stop, and on return it is gone. Several who stop it at the same time are as one:
//! an order given twice would kill the jobs in hand.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::Signal;
use serde_json::json;

use super::answer::{Answer, warn};
use super::running;
use crate::config::Config;
use crate::daemon::{Failure, status};
use crate::sys::process;
use crate::worker::control::round_up;

/// Killing what does not leave, and the keeper's part, come after the time for jobs in hand.
const AFTER_THE_JOBS: Duration = Duration::from_secs(20);
/// A daemon that has closed its port ends within this, or it has not closed it to end.
const LAST_BREATH: Duration = Duration::from_secs(2);

/// `stark stop`: returns when the process has ended, which is a moment after its pidfile is gone.
pub fn stop(config: &Config) -> Result<Answer, Failure> {
    let name = &config.main.name;
    let Some(pid) = running::pid(config)? else {
        return Ok(Answer::new(
            format!("{name}: not running\n"),
            json!({ "name": name, "state": "stopped", "pid": null }),
        ));
    };
    stop_process(config, pid)?;
    let json = json!({ "name": name, "state": "stopped", "pid": pid });
    Ok(Answer::new("", json))
}

/// Stops the daemon with this pid; it is gone on return.
pub fn stop_process(config: &Config, pid: i32) -> Result<(), Failure> {
    let cannot =
        |status, why: String| Failure::new(status, format!("cannot stop pid {pid}: {why}"));
    let end = match process::watch(pid) {
        Ok(end) => end,
        // It has ended since we asked who holds the lock.
        Err(err) if err.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
        Err(err) => return Err(cannot(status::FAILED, err.to_string())),
    };
    // Whoever stops it already is waited for.
    let _turn = take_turn(config);
    if running::pid(config)? != Some(pid) {
        return wait(&end, LAST_BREATH).then_some(()).ok_or_else(|| {
            cannot(
                status::FAILED,
                "it has given its pidfile up and goes on".into(),
            )
        });
    }
    if let Err(err) = order(config, pid)
        // It may have closed its port to end.
        && !wait(&end, LAST_BREATH)
    {
        let lines = err.message.lines().collect::<Vec<_>>().join("; ");
        warn(format_args!(
            "{lines}; sending SIGTERM to pid {pid} instead"
        ));
        process::signal(pid, Signal::SIGTERM)
            .map_err(|err| cannot(status::NOT_PERMITTED, err.to_string()))?;
    }
    let limit = config.main.shutdown_timeout + AFTER_THE_JOBS;
    match wait(&end, limit) {
        true => Ok(()),
        false => {
            let why = format!("still running after {} s", limit.as_secs());
            Err(cannot(status::FAILED, why))
        }
    }
}

/// A lock apart from the one by which the daemon is known: held by whoever stops it, until it is gone. None when the
/// file cannot be had; then nobody waits for us.
fn take_turn(config: &Config) -> Option<Flock<File>> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(&config.main.pid_file).ok()?;
    Flock::lock(file, FlockArg::LockExclusive).ok()
}

/// Tells it to stop, unless it does so already: the second order would kill the jobs in hand.
fn order(config: &Config, pid: i32) -> Result<(), Failure> {
    if is_draining(config, pid)? {
        return Ok(());
    }
    match running::ask(config, &["SHUTDOWN"]) {
        // The answer may be what was lost, not the order.
        Err(err) => is_draining(config, pid)?.then_some(()).ok_or(err),
        Ok(_) => Ok(()),
    }
}

fn is_draining(config: &Config, pid: i32) -> Result<bool, Failure> {
    Ok(running::info(config, pid)?.get("state") == Some("draining"))
}

/// Waits for the end of a process; false when it did not come in time.
fn wait(end: &OwnedFd, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    let mut fds = [PollFd::new(end.as_fd(), PollFlags::POLLIN)];
    while fds[0].any() != Some(true) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        // An interrupted wait is begun again.
        let _ = poll(&mut fds, round_up(left));
    }
    true
}
