//! How many descriptors a process may have, and closing what a forked one inherited and must not keep.

use std::io;
use std::os::fd::RawFd;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Lets this process have `needed` descriptors, or as many as the kernel allows. Returns how many it may have now; one
/// that may have enough is left as it is, since programs that use select(2) fail at descriptors over 1023.
pub fn raise_limit(needed: u64) -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return needed;
    };
    if soft >= needed {
        return soft;
    }
    let raised = needed.min(hard);
    match setrlimit(Resource::RLIMIT_NOFILE, raised, hard) {
        Ok(()) => raised,
        Err(_) => soft,
    }
}

/// How many descriptors this process may have.
pub fn limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft)
}

/// Takes back what [`raise_limit`] gave. What is open stays open.
pub fn lower_limit(limit: u64) {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Lowering a soft limit is never refused.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, limit.min(hard), hard);
    }
}

/// Closes every descriptor above stderr that is not in `keep`.
///
/// For the first moments of a forked child only: the Rust owners of what is closed here must never be used or
/// dropped again, which holds because the child's branch never returns into its parent's stack.
pub fn close_all_but(keep: &[RawFd]) {
    let mut keep: Vec<RawFd> = keep
        .iter()
        .copied()
        .filter(|fd| *fd > libc::STDERR_FILENO)
        .collect();
    keep.sort_unstable();
    keep.dedup();
    let mut from = libc::STDERR_FILENO + 1;
    for fd in keep {
        close_range(from, fd - 1);
        from = fd + 1;
    }
    close_range(from, RawFd::MAX);
}

fn close_range(first: RawFd, last: RawFd) {
    if first > last {
        return;
    }
    // SAFETY: only closes numbers; see the contract of `close_all_but` for who may still believe in them.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first as libc::c_uint,
            last as libc::c_uint,
            0 as libc::c_uint,
        );
    }
}

/// Points stdin, stdout and stderr at /dev/null.
pub fn silence_standard_streams() -> io::Result<()> {
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    Ok(())
}
