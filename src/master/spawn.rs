//! Forking a worker or the keeper: what the child gives up and takes on before it is one.

use std::io;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::signal::Signal;

use crate::daemon::logging;
use crate::sys::process::{self, Forked};
use crate::sys::{descriptors, signals, title};

/// Exit status of a child that panicked.
pub const STATUS_PANIC: i32 = 70;

/// What a child is before it knows its work.
pub struct Newborn<'a> {
    /// In log lines: `worker`, `keeper`.
    pub role: &'a str,
    /// Shown by `ps`.
    pub title: &'a str,
    /// The only descriptors, beside the standard streams, that it keeps.
    pub keep: &'a [RawFd],
    /// How many it may have: not the master's limit, which may have been raised for clients.
    pub descriptor_limit: u64,
}

/// Forks. The child runs `live` and exits with its status; it never returns here.
///
/// # Errors
/// When the kernel refuses another process.
pub fn fork(newborn: &Newborn<'_>, live: impl FnOnce() -> i32) -> io::Result<i32> {
    let master = std::process::id() as i32;
    // A signal between the fork and the reset would run the master's handler in the child, and wake the master by
    // the pipe that both share.
    signals::block_all();
    match process::fork() {
        Ok(Forked::Child) => {
            let status = catch_unwind(AssertUnwindSafe(|| {
                if !settle_in(newborn, master) {
                    return 0;
                }
                live()
            }));
            process::exit(status.unwrap_or(STATUS_PANIC))
        }
        Ok(Forked::Parent(pid)) => {
            signals::unblock_all();
            Ok(pid)
        }
        Err(err) => {
            signals::unblock_all();
            Err(err)
        }
    }
}

/// False when the master is gone already.
fn settle_in(newborn: &Newborn<'_>, master: i32) -> bool {
    use Signal::{SIGHUP, SIGINT, SIGQUIT, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2};
    // Only the master takes these, and tells; a terminal sends INT and QUIT to the whole foreground group.
    signals::reset(&[SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGTTIN, SIGTTOU]);
    logging::set_role(newborn.role);
    descriptors::close_all_but(newborn.keep);
    descriptors::lower_limit(newborn.descriptor_limit);
    title::set(newborn.title);
    let has_master = process::die_with_parent(Signal::SIGTERM, master);
    // An order to leave that comes early waits for the control thread.
    signals::block_only(Signal::SIGTERM);
    has_master
}
