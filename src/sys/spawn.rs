//! Starting a program that shares nothing with us but the descriptors it is handed: a process group of its own, no
//! signal dispositions or mask of ours, killed when the thread that started it ends.
//! Decides nothing; which program, descriptors and environment is the caller's affair.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// The first number above stdin, stdout and stderr.
const FIRST_OPEN: RawFd = libc::STDERR_FILENO + 1;

/// Signals up to this number exist on Linux (SIGRTMAX).
const LAST_SIGNAL: libc::c_int = 64;

/// Starts `command` as leader of a new process group, with stdin, stdout, stderr and the `handed` descriptors, which
/// keep their numbers, and no others. The kernel sends it SIGKILL when the calling thread ends, so call this on a thread
/// that lives as long as the program should: the main thread.
///
/// # Errors
/// What the kernel says of fork, exec, or of the steps between.
pub fn spawn_apart(mut command: Command, handed: &[BorrowedFd<'_>]) -> io::Result<Child> {
    // Numbers of our choice would have to be free in the child, and that is where the standard library's own pipe may
    // be by which it reports a failed exec.
    let handed: Vec<RawFd> = handed.iter().map(AsRawFd::as_raw_fd).collect();
    debug_assert!(handed.iter().all(|number| *number >= FIRST_OPEN));
    let parent = std::process::id();
    command.process_group(0);
    // SAFETY: `prepare_child` calls async-signal-safe functions only and allocates nothing.
    unsafe { command.pre_exec(move || prepare_child(&handed, parent)) };
    command.spawn()
}

/// Runs in the child between fork and exec.
fn prepare_child(handed: &[RawFd], parent: u32) -> io::Result<()> {
    // SAFETY: integers only; the parent may have died before the request stood, hence the second look.
    unsafe {
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
        if libc::getppid() as u32 != parent {
            libc::_exit(1);
        }
    }
    close_on_exec_from(FIRST_OPEN);
    for number in handed {
        // SAFETY: integers only; this clears close-on-exec, the only flag there is.
        check(unsafe { libc::fcntl(*number, libc::F_SETFD, 0) })?;
    }
    reset_signals()
}

/// Marks instead of closing: the standard library still needs its pipe to report a failed exec.
fn close_on_exec_from(first: RawFd) {
    // SAFETY: integers only.
    let marked = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first as libc::c_uint,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if marked == 0 {
        return;
    }
    // Linux before 5.11.
    // SAFETY: integers only; a number that is not open is refused with EBADF.
    unsafe {
        for descriptor in first..libc::sysconf(libc::_SC_OPEN_MAX) as RawFd {
            libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
}

/// Ignored signals and the mask survive exec, so both go back to what a program expects.
fn reset_signals() -> io::Result<()> {
    // SAFETY: the set is initialised by `sigemptyset` before it is read; signals that cannot be changed are refused.
    unsafe {
        for signal in 1..=LAST_SIGNAL {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none = std::mem::MaybeUninit::uninit();
        check(libc::sigemptyset(none.as_mut_ptr()))?;
        check(libc::sigprocmask(
            libc::SIG_SETMASK,
            none.as_ptr(),
            std::ptr::null_mut(),
        ))
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process;
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::process::Stdio;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped());
        command
    }

    #[test]
    fn the_program_has_only_what_it_is_handed() {
        let null = || File::open("/dev/null").unwrap();
        let stray = null();
        // SAFETY: the descriptor is ours and open.
        unsafe { libc::fcntl(stray.as_raw_fd(), libc::F_SETFD, 0) };
        let (first, second) = (null(), File::open("/dev/zero").unwrap());
        // Not a shell: that one has descriptors of its own while it starts another program.
        let mut list = Command::new("find");
        list.args(["/proc/self/fd", "-mindepth", "1"])
            .args(["-lname", "/dev/null", "-o", "-lname", "/dev/zero"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = spawn_apart(list, &[first.as_fd(), second.as_fd()]).unwrap();
        let output = child.wait_with_output().unwrap();
        let mut expected = vec![0, first.as_raw_fd(), second.as_raw_fd()];
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let numbers = text.lines().map(|line| line.rsplit('/').next().unwrap());
        let mut found: Vec<RawFd> = numbers.map(|number| number.parse().unwrap()).collect();
        expected.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_program_leads_a_group_and_has_neither_mask_nor_ignored_signals() {
        // The standard library has made us ignore SIGPIPE. The program looks at itself: a shell blocks signals for a
        // moment whenever it starts another one.
        let mut cat = Command::new("cat");
        cat.args(["/proc/self/stat", "/proc/self/status"])
            .stdout(Stdio::piped());
        let child = spawn_apart(cat, &[]).unwrap();
        let pid = child.id();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let set = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
        };
        assert_eq!(text.split(' ').nth(4), Some(pid.to_string().as_str()));
        assert_eq!(set("SigBlk:"), 0);
        // Signals 32 and 33 belong to the C library, which does not let go of them.
        assert_eq!(set("SigIgn:") & !(0b11 << 31), 0, "{text}");
    }

    #[test]
    fn a_program_that_does_not_exist_is_an_error() {
        let handed = File::open("/dev/null").unwrap();
        let error = spawn_apart(
            Command::new("/nonexistent/program"),
            &[handed.as_fd(), handed.as_fd()],
        )
        .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_pidfd_becomes_readable_at_the_end() {
        let mut child = spawn_apart(shell("exit 3"), &[]).unwrap();
        let watch = process::watch(child.id() as i32).unwrap();
        let mut set = [libc::pollfd {
            fd: watch.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        }];
        // SAFETY: one initialised element.
        assert_eq!(unsafe { libc::poll(set.as_mut_ptr(), 1, 10_000) }, 1);
        assert_eq!(child.wait().unwrap().code(), Some(3));
    }
}
