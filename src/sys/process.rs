//! Processes: fork, leave, reap, and telling one process from a later one with the same pid.

use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::str::FromStr;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{ForkResult, Pid, fork as nix_fork, getppid};

/// Which side of a fork this is.
pub enum Forked {
    /// The old process, with the child's pid.
    Parent(i32),
    /// The new process.
    Child,
}

/// Forks. Only for a process with one thread, since the child may then do anything that its parent may.
pub fn fork() -> io::Result<Forked> {
    debug_assert_eq!(threads(), 1, "fork only while single-threaded");
    // SAFETY: this process has a single thread (asserted), so no lock is held by a thread that the child lacks.
    match unsafe { nix_fork() }? {
        ForkResult::Parent { child } => Ok(Forked::Parent(child.as_raw())),
        ForkResult::Child => Ok(Forked::Child),
    }
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

/// Ends this process at once: no destructors, no buffers of the parent written once more.
pub fn exit(status: i32) -> ! {
    // SAFETY: _exit is always sound; it does not return.
    unsafe { libc::_exit(status) }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
}

/// An ended child, of any kind, without waiting. It stays to be collected by [`wait`]: until then its number, which is
/// perhaps its group's, is no other process's.
pub fn ended() -> Option<(i32, Ended)> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match waitid(Id::All, flags) {
        Ok(WaitStatus::Exited(pid, status)) => Some((pid.as_raw(), Ended::Status(status))),
        Ok(WaitStatus::Signaled(pid, signal, _)) => {
            Some((pid.as_raw(), Ended::Signal(signal as i32)))
        }
        Ok(_) | Err(_) => None,
    }
}

/// Collects all children that have ended.
pub fn reap_all() {
    while let Some((pid, _)) = ended() {
        wait(pid);
    }
}

/// Waits for this child, and collects it.
pub fn wait(pid: i32) {
    while waitpid(Pid::from_raw(pid), None) == Err(Errno::EINTR) {}
}

/// Sends a signal to a process; one that is gone is no error.
pub fn signal(pid: i32, signal: Signal) -> io::Result<()> {
    none_if_gone(kill(Pid::from_raw(pid), signal))
}

/// Sends a signal to a process group; one that is gone is no error.
pub fn signal_group(group: i32, signal: Signal) -> io::Result<()> {
    none_if_gone(killpg(Pid::from_raw(group), signal))
}

fn none_if_gone(result: nix::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(err) => Err(err.into()),
    }
}

/// Asks the kernel for `signal` when the thread that forked this process ends; false when it has ended already.
pub fn die_with_parent(signal: Signal, parent: i32) -> bool {
    nix::sys::prctl::set_pdeathsig(signal).is_ok() && getppid().as_raw() == parent
}

/// Orphaned descendants become children of this process, which reaps them.
pub fn become_subreaper() {
    let _ = nix::sys::prctl::set_child_subreaper(true);
}

/// The children of the calling thread, zombies among them; empty when the kernel does not tell.
pub fn children() -> Vec<i32> {
    let children = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    let pids = children.split_whitespace();
    pids.filter_map(|pid| pid.parse().ok()).collect()
}

/// A process and all that it and its descent have started, nearest first, without who lost his parent meanwhile: the
/// kernel gave him to another one.
pub fn descent(ancestor: i32) -> Vec<i32> {
    let mut found = vec![ancestor];
    let mut seen = 0;
    // A bound against a tree that grows while it is walked.
    while seen < found.len() && found.len() < 4096 {
        let tasks = fs::read_dir(format!("/proc/{}/task", found[seen]));
        seen += 1;
        // A child is listed with the thread that forked it.
        for task in tasks.into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(
                children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse::<i32>().ok()),
            );
        }
    }
    found
}

/// What /proc/PID/stat says of a process at one moment.
#[derive(Debug)]
pub struct Stat(String);

impl Stat {
    /// Of this process.
    pub fn own() -> Option<Self> {
        Self::read("self")
    }

    /// Of any process; none when there is none.
    pub fn of(pid: i32) -> Option<Self> {
        Self::read(&pid.to_string())
    }

    fn read(process: &str) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // The second field is the program's name in parentheses and may hold anything.
        let (_, fields) = stat.rsplit_once(") ")?;
        Some(Self(fields.to_string()))
    }

    /// A field by its number in proc(5), from the third one on.
    pub fn field<T: FromStr>(&self, number: usize) -> Option<T> {
        let mut fields = self.0.trim_end().split(' ');
        fields.nth(number.checked_sub(3)?)?.parse().ok()
    }
}

/// When a process was started, in clock ticks since boot: with its pid it names one process of this boot.
/// None when there is no such process.
pub fn start_time(pid: i32) -> Option<u64> {
    Stat::of(pid)?.field(22)
}

/// A number that changes with every boot of the machine.
pub fn boot_id() -> u64 {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = id
        .chars()
        .filter(char::is_ascii_hexdigit)
        .take(16)
        .collect();
    u64::from_str_radix(&digits, 16).unwrap_or(0)
}

/// A descriptor that becomes readable when the process ends, also when it is no child of ours.
pub fn watch(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, libc::O_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Adds `increment` to the niceness of this process.
pub fn add_niceness(increment: i32) -> io::Result<()> {
    Errno::clear();
    // SAFETY: nice takes an integer; -1 is an error only if errno says so.
    let niceness = unsafe { libc::nice(increment) };
    match Errno::last_raw() {
        0 => Ok(()),
        _ if niceness != -1 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_time() {
        let own = std::process::id() as i32;
        assert!(start_time(own).unwrap() > 0);
        assert_eq!(start_time(own), start_time(own));
        assert_eq!(start_time(i32::MAX), None);
        assert_ne!(boot_id(), 0);
    }

    #[test]
    fn a_descent_has_the_children_of_every_thread_also_those_with_a_session_of_their_own() {
        let script = "setsid sleep 1000 & echo $!; wait";
        let started = std::thread::spawn(move || {
            let mut command = std::process::Command::new("sh");
            let command = command
                .args(["-c", script])
                .stdout(std::process::Stdio::piped());
            let mut shell = command.spawn().unwrap();
            let mut line = String::new();
            let stdout = shell.stdout.take().unwrap();
            std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
            let own = std::process::id() as i32;
            let found = descent(own);
            let sleeper: i32 = line.trim().parse().unwrap();
            signal(sleeper, Signal::SIGKILL).unwrap();
            shell.wait().unwrap();
            (found, own, shell.id() as i32, sleeper)
        });
        let (found, own, shell, sleeper) = started.join().unwrap();
        assert_eq!(found[0], own);
        assert!(
            found.contains(&shell) && found.contains(&sleeper),
            "{found:?}"
        );
        assert_eq!(descent(i32::MAX), [i32::MAX]);
    }

    #[test]
    fn a_signal_to_a_process_that_is_gone_is_no_error() {
        assert!(signal(i32::MAX, Signal::SIGTERM).is_ok());
        assert!(signal_group(i32::MAX, Signal::SIGTERM).is_ok());
    }
}
