//! Resident memory and processor time of processes, as /proc and the kernel tell them.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};

use super::process;

/// Resident memory of a process in bytes; 0 when it is gone.
pub fn resident_bytes(pid: i32) -> u64 {
    let pages = std::fs::read_to_string(format!("/proc/{pid}/statm"))
        .ok()
        .and_then(|statm| statm.split(' ').nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * page_bytes()
}

/// Resident memory of a process and its descent in bytes, sessions of their own included. What they share counts for
/// each of them.
pub fn resident_bytes_of_descent(ancestor: i32) -> u64 {
    let descent = process::descent(ancestor);
    descent.into_iter().map(resident_bytes).sum()
}

fn page_bytes() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .map_or(4096, |bytes| bytes as u64)
}

/// Processor time in the kernel and in user code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// In the kernel.
    pub system: Duration,
    /// In user code.
    pub user: Duration,
}

/// Processor time of a process; nothing when it is gone.
pub fn cpu_time_of(pid: i32) -> Duration {
    // proc(5): utime and stime.
    let ticks = process::Stat::of(pid)
        .and_then(|stat| Some(stat.field::<u64>(14)? + stat.field::<u64>(15)?));
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .ok()
        .flatten()
        .unwrap_or(100);
    Duration::from_secs_f64(ticks.unwrap_or(0) as f64 / per_second as f64)
}

/// Processor time of this process.
pub fn own_cpu_time() -> CpuTime {
    cpu_time(UsageWho::RUSAGE_SELF)
}

/// Processor time of the children of this process that were reaped, with theirs.
pub fn children_cpu_time() -> CpuTime {
    cpu_time(UsageWho::RUSAGE_CHILDREN)
}

fn cpu_time(who: UsageWho) -> CpuTime {
    let Ok(usage) = getrusage(who) else {
        return CpuTime::default();
    };
    let duration = |time: nix::sys::time::TimeVal| {
        Duration::new(
            time.tv_sec().max(0) as u64,
            time.tv_usec().clamp(0, 999_999) as u32 * 1000,
        )
    };
    CpuTime {
        system: duration(usage.system_time()),
        user: duration(usage.user_time()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_use_memory_and_a_dead_process_uses_none() {
        let own = std::process::id() as i32;
        assert!(resident_bytes(own) > 1 << 16);
        assert!(resident_bytes_of_descent(own) >= 1 << 16);
        assert_eq!(resident_bytes(i32::MAX), 0);
    }
}
