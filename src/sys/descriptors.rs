//! Closing what a forked process inherited and must not keep.

use std::io;
use std::os::fd::RawFd;

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
