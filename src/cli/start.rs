//! `stark -f INI`: from the starting command to the master, in the background or not.

use super::answer::{Answer, warn};
use crate::config::{Config, LogTarget};
use crate::daemon::background::{self, Ground, Readiness, Side};
use crate::daemon::{self, Failure, status};
use crate::master;
use crate::queue::{self, QueueError};

/// Runs the daemon; returns its exit status.
pub fn in_foreground(mut config: Config) -> Result<Answer, Failure> {
    if matches!(config.main.log, LogTarget::Daily { .. }) {
        config.main.log = LogTarget::Stderr;
    }
    warn_of_queues(&config);
    run(&config, Ground::Foreground, Readiness::foreground()).map(Answer::silent)
}

/// Starts the daemon; returns on both sides, in the starting command when the daemon is ready.
pub fn in_background(config: &Config) -> Result<Answer, Failure> {
    match fork()? {
        Side::Command(answer) => {
            // Meanwhile the daemon starts.
            warn_of_queues(config);
            answer.wait().map(|()| Answer::silent(0))
        }
        Side::Daemon(readiness) => daemon(config, readiness),
    }
}

/// Forks the daemon; returns on both sides.
pub fn fork() -> Result<Side, Failure> {
    background::daemonize().map_err(|err| {
        Failure::new(
            status::FAILED,
            format!("cannot go into the background: {err}"),
        )
    })
}

/// The daemon's side: its whole life.
pub fn daemon(config: &Config, readiness: Readiness) -> Result<Answer, Failure> {
    run(config, Ground::Background, readiness).map(Answer::silent)
}

fn run(config: &Config, ground: Ground, mut readiness: Readiness) -> Result<u8, Failure> {
    let prepared = daemon::prepare(&config.main);
    let outcome =
        prepared.and_then(|prepared| master::run(config, prepared, ground, &mut readiness));
    match outcome {
        // The starting command prints it; this process has no stderr.
        Err(failure) if readiness.failed(&failure) => Ok(failure.status),
        other => other,
    }
}

/// A store that is away is no mistake: the daemon starts and waits for it. What refuses us, the workers find out.
fn warn_of_queues(config: &Config) {
    for settings in config.pools.iter().filter_map(|pool| pool.queue.as_ref()) {
        match queue::check(settings) {
            Ok(checked) => checked.warning.iter().for_each(warn),
            Err(QueueError::Unavailable(why)) => warn(format!("{why}; the workers wait for it")),
            Err(QueueError::Lost | QueueError::Refused(_)) => {}
        }
    }
}
