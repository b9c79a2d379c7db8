//! A non-blocking socket to the server with one deadline per exchange: connecting, sending and receiving each end in
//! time, whatever the other side does. Signals do not disturb it. What the bytes mean is the connection's business.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send, setsockopt, sockopt};

use crate::config::Address;
use crate::sys::unix;

/// What moves may move on: so many bytes earn one more second. A stalled server earns none.
const SLOWEST_BYTES_PER_SECOND: f64 = (1 << 20) as f64;
/// A dead host is noticed by an idle socket within a minute.
const KEEPALIVE_IDLE_SECONDS: u32 = 30;
const KEEPALIVE_INTERVAL_SECONDS: u32 = 10;
const KEEPALIVE_PROBES: u32 = 3;

/// A connected stream socket.
pub(super) struct Socket {
    fd: OwnedFd,
    timeout: Duration,
    deadline: Instant,
    /// Bytes received since [`Socket::begin`].
    received: usize,
}

impl Socket {
    /// Connects within `timeout`, which then holds for each exchange (name lookup is the resolver's own time).
    pub fn connect(address: &Address, timeout: Duration) -> io::Result<Self> {
        let deadline = Instant::now() + timeout;
        let fd = match address {
            Address::Tcp(host, port) => connect_tcp(host, *port, deadline)?,
            Address::Unix(path) => connect_unix(path, timeout)?,
        };
        Ok(Self {
            fd,
            timeout,
            deadline,
            received: 0,
        })
    }

    /// An exchange begins: it has the whole timeout.
    pub fn begin(&mut self) {
        self.deadline = Instant::now() + self.timeout;
        self.received = 0;
    }

    /// Bytes received since the exchange began.
    pub fn received(&self) -> usize {
        self.received
    }

    /// Sends all of it.
    pub fn send_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match send(self.fd.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
                Ok(sent) => {
                    self.extend_deadline(sent);
                    bytes = &bytes[sent..];
                }
                Err(Errno::EAGAIN) => self.wait(PollFlags::POLLOUT)?,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// What has arrived, without waiting; none when nothing has. Zero bytes mean that the peer has hung up.
    pub fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match nix::unistd::read(&self.fd, buffer) {
                Ok(count) => {
                    self.received += count;
                    self.extend_deadline(count);
                    return Ok(Some(count));
                }
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// A payload of 500 MB takes longer than any sensible timeout; only a server that has stopped is away.
    fn extend_deadline(&mut self, bytes: usize) {
        self.deadline += Duration::from_secs_f64(bytes as f64 / SLOWEST_BYTES_PER_SECOND);
    }

    fn wait(&self, what: PollFlags) -> io::Result<()> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no answer within {:?}", self.timeout),
                ));
            }
            // Rounded up, so that the last millisecond is waited for and not spun through.
            let left = left + Duration::from_micros(999);
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.fd.as_fd(), what)], timeout) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Waits for bytes until the deadline of the exchange.
impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.read_now(buffer)? {
                Some(0) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the server closed the connection",
                    ));
                }
                Some(count) => return Ok(count),
                None => self.wait(PollFlags::POLLIN)?,
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Tries each address of the host, and leaves time for those that follow.
fn connect_tcp(host: &str, port: u16, deadline: Instant) -> io::Result<OwnedFd> {
    let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for (tried, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / (addresses.len() - tried) as u32;
        match TcpStream::connect_timeout(address, share.max(Duration::from_millis(1))) {
            Ok(stream) => return configure_tcp(stream),
            Err(err) => failure = err,
        }
    }
    Err(failure)
}

fn configure_tcp(stream: TcpStream) -> io::Result<OwnedFd> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    setsockopt(&stream, sockopt::KeepAlive, &true)?;
    setsockopt(&stream, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_SECONDS)?;
    setsockopt(
        &stream,
        sockopt::TcpKeepInterval,
        &KEEPALIVE_INTERVAL_SECONDS,
    )?;
    setsockopt(&stream, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)?;
    Ok(stream.into())
}

fn connect_unix(path: &Path, timeout: Duration) -> io::Result<OwnedFd> {
    let stream = unix::connect(path, timeout)?;
    stream.set_nonblocking(true)?;
    Ok(stream.into())
}
