//! Forking a worker, the keeper or the logger: what the child gives up and takes on before it is one.

use std::io;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::signal::Signal;

use crate::daemon::{log_queue, logging};
use crate::sys::process::{self, Forked};
use crate::sys::{descriptors, signals, title};

/// Exit status of a child that panicked.
pub const STATUS_PANIC: i32 = 70;

/// What a child is before it knows its work.
pub struct Newborn<'a> {
    /// In log lines: `worker`, `keeper`, `logger`.
    pub role: &'a str,
    /// Shown by `ps`.
    pub title: &'a str,
    /// The only descriptors, beside the standard streams and the queue to the logger, that it keeps.
    pub keep: &'a [RawFd],
    /// What the master's end means to it.
    pub leash: Leash,
}

/// What becomes of a child when its master dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leash {
    /// The kernel sends it SIGTERM, in case that it does not see the end of its channel.
    Follows,
    /// It has its own way to see that nobody needs it any more.
    Outlives,
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
    let mut keep = newborn.keep.to_vec();
    keep.extend(log_queue::descriptor());
    descriptors::close_all_but(&keep);
    title::set(newborn.title);
    let has_master = match newborn.leash {
        Leash::Follows => process::die_with_parent(Signal::SIGTERM, master),
        Leash::Outlives => true,
    };
    // An order to leave that comes early waits for the control thread.
    signals::block_only(Signal::SIGTERM);
    has_master
}
