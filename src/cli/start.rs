//! `stark -f INI`: from the starting command to the master, in the background or not.

use super::answer::{Answer, warn};
use crate::config::{Config, LogTarget};
use crate::daemon::background::{self, Readiness, Side};
use crate::daemon::{self, Failure, status};
use crate::master;
use crate::queue::{self, QueueError};

/// Starts the daemon; returns its exit status, or that of the starting command.
pub fn start(mut config: Config, is_foreground: bool) -> Result<Answer, Failure> {
    if is_foreground {
        if matches!(config.main.log, LogTarget::Daily { .. }) {
            config.main.log = LogTarget::Stderr;
        }
        warn_of_queues(&config);
        return run(&config, true, Readiness::foreground()).map(Answer::silent);
    }
    match in_background()? {
        Side::Command(answer) => {
            // Meanwhile the daemon starts.
            warn_of_queues(&config);
            answer.wait().map(|()| Answer::silent(0))
        }
        Side::Daemon(readiness) => daemon(&config, readiness),
    }
}

/// Forks the daemon; returns on both sides.
pub fn in_background() -> Result<Side, Failure> {
    background::daemonize().map_err(|err| {
        Failure::new(
            status::FAILED,
            format!("cannot go into the background: {err}"),
        )
    })
}

/// The daemon's side: its whole life.
pub fn daemon(config: &Config, readiness: Readiness) -> Result<Answer, Failure> {
    run(config, false, readiness).map(Answer::silent)
}

fn run(config: &Config, is_foreground: bool, mut readiness: Readiness) -> Result<u8, Failure> {
    let prepared = daemon::prepare(&config.main);
    let outcome =
        prepared.and_then(|prepared| master::run(config, prepared, is_foreground, &mut readiness));
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
