//! Clocks that several processes can compare, and the wall clock as people write it.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Time since boot without suspends: the same number in every process, never goes back.
pub fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the monotonic clock always exists");
    Duration::new(now.tv_sec() as u64, now.tv_nsec() as u32)
}

/// Milliseconds since 1970 by the wall clock, which may go back.
pub fn wall_ms() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_REALTIME).map_or(Duration::ZERO, |now| {
        Duration::new(now.tv_sec().max(0) as u64, now.tv_nsec() as u32)
    });
    now.as_millis() as u64
}

/// `YYYY-MM-DD HH:MM:SS` in the machine's time zone, of now.
pub fn local_time() -> String {
    let seconds = clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, |now| now.tv_sec());
    // SAFETY: a zeroed `tm` is valid; localtime_r only writes the struct it is given.
    let broken_down = unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        libc::localtime_r(&seconds, &mut tm);
        tm
    };
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
        broken_down.tm_year + 1900,
        broken_down.tm_mon + 1,
        broken_down.tm_mday,
        broken_down.tm_hour,
        broken_down.tm_min,
        broken_down.tm_sec
    )
}
