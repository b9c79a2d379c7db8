//! `stark -f INI`: from the starting command to the master, in the background or not.

use crate::config::{Config, LogTarget};
use crate::daemon::background::{self, Readiness, Side};
use crate::daemon::{self, Failure, status};
use crate::master;

/// Starts the daemon; returns its exit status, or that of the starting command.
pub fn start(mut config: Config, is_foreground: bool) -> Result<u8, Failure> {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o027));
    if is_foreground {
        if matches!(config.main.log, LogTarget::Daily { .. }) {
            config.main.log = LogTarget::Stderr;
        }
        return run(&config, true, Readiness::foreground());
    }
    let cannot = |err| {
        Failure::new(
            status::FAILED,
            format!("cannot go into the background: {err}"),
        )
    };
    match background::daemonize().map_err(cannot)? {
        Side::Command(answer) => answer.map(|()| 0),
        Side::Daemon(readiness) => run(&config, false, readiness),
    }
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
