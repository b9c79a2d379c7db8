//! Unix sockets, as far as the standard library does not go.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect as connect_socket, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// Connects within `timeout`: connect(2) waits while the backlog is full, for as long as the socket's send timeout
/// allows, and without one for ever.
///
/// # Errors
/// What the kernel says; `WouldBlock` when the time is over.
pub fn connect(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let fd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // 0 would be no timeout.
    let microseconds = i64::try_from(timeout.as_micros())
        .unwrap_or(i64::MAX)
        .max(1);
    let timeout = TimeVal::microseconds(microseconds);
    setsockopt(&fd, sockopt::SendTimeout, &timeout)?;
    connect_socket(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd.into())
}
