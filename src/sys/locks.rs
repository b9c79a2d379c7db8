//! Record locks: not inherited by fork, gone with their process, and the kernel names their holder.
//!
//! They are also lost as soon as the process closes *any* descriptor of the file, so each process keeps exactly one.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// Locks `length` bytes from `start` for this process; false when another process holds a part of them.
pub fn try_lock(file: impl AsFd, start: u64, length: u64) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_SETLK(&range(start, length))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(err) => Err(err.into()),
    }
}

/// The process that holds a lock in these bytes, if another one does.
pub fn holder(file: impl AsFd, start: u64, length: u64) -> io::Result<Option<i32>> {
    let mut lock = range(start, length);
    fcntl(file, FcntlArg::F_GETLK(&mut lock))?;
    Ok((i32::from(lock.l_type) != libc::F_UNLCK).then_some(lock.l_pid))
}

/// Gives a lock of this process back.
pub fn unlock(file: impl AsFd, start: u64, length: u64) {
    let unlock = libc::flock {
        l_type: libc::F_UNLCK as libc::c_short,
        ..range(start, length)
    };
    let _ = fcntl(file, FcntlArg::F_SETLK(&unlock));
}

fn range(start: u64, length: u64) -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start as libc::off_t,
        l_len: length as libc::off_t,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_of_our_own_has_no_other_holder() {
        let file = tempfile::tempfile().unwrap();
        assert!(try_lock(&file, 8, 1).unwrap());
        assert_eq!(holder(&file, 0, 100).unwrap(), None);
    }
}
