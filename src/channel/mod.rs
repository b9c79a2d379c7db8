//! The socketpair between the master and one worker (or the keeper): whole messages, never a stream.
//!
//! The master never waits: what does not fit is refused. A worker's end may wait for room, never for an answer.
//! Either side learns of the other's end by EOF, since each process closes all ends but its own.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

pub mod message;

use message::{DecodeError, MAX_MESSAGE, ToMaster, ToWorker};

/// Makes the two ends of a channel; both are closed by exec and never block.
pub fn pair() -> io::Result<(MasterEnd, WorkerEnd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (master, worker) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    Ok((MasterEnd(master), WorkerEnd(worker)))
}

/// What came out of a channel.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<M> {
    /// A message.
    Message(M),
    /// Bytes that are none; the next message is sound again.
    Garbage(DecodeError),
    /// Nothing now.
    Empty,
    /// The other process is gone.
    Closed,
}

/// The master's end.
#[derive(Debug)]
pub struct MasterEnd(OwnedFd);

/// The worker's end.
#[derive(Debug)]
pub struct WorkerEnd(OwnedFd);

impl MasterEnd {
    /// Sends without waiting. False: the worker does not read, or is gone; the message is dropped.
    pub fn send(&self, message: &ToWorker) -> bool {
        let mut bytes = Vec::with_capacity(16);
        message.encode(&mut bytes);
        send_now(&self.0, &bytes).is_ok()
    }

    /// Takes the next message without waiting.
    pub fn receive(&self) -> Received<ToMaster> {
        receive(&self.0, ToMaster::decode)
    }
}

impl WorkerEnd {
    /// Sends, and waits while the master has no room for it. False: the master is gone.
    pub fn send(&self, message: &ToMaster) -> bool {
        let mut bytes = Vec::with_capacity(32);
        message.encode(&mut bytes);
        loop {
            match send_now(&self.0, &bytes) {
                Ok(()) => return true,
                Err(Errno::EAGAIN) => {
                    let mut room = [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)];
                    let _ = poll(&mut room, PollTimeout::NONE);
                }
                Err(_) => return false,
            }
        }
    }

    /// Takes the next message without waiting.
    pub fn receive(&self) -> Received<ToWorker> {
        receive(&self.0, ToWorker::decode)
    }
}

impl AsRawFd for MasterEnd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsRawFd for WorkerEnd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for WorkerEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn send_now(fd: &OwnedFd, bytes: &[u8]) -> nix::Result<()> {
    loop {
        match send(
            fd.as_raw_fd(),
            bytes,
            MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT,
        ) {
            Err(Errno::EINTR) => {}
            other => return other.map(|_| ()),
        }
    }
}

fn receive<M>(fd: &OwnedFd, decode: fn(&[u8]) -> Result<M, DecodeError>) -> Received<M> {
    // One byte more than the longest message, so that a longer one is seen to be none.
    let mut bytes = [0; MAX_MESSAGE + 1];
    loop {
        return match recv(fd.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => Received::Closed,
            Ok(length) => {
                decode(&bytes[..length]).map_or_else(Received::Garbage, Received::Message)
            }
            Err(Errno::EINTR) => continue,
            Err(Errno::EAGAIN) => Received::Empty,
            Err(_) => Received::Closed,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_whole_and_in_order_and_the_end_is_seen() {
        let (master, worker) = pair().unwrap();
        assert_eq!(worker.receive(), Received::Empty);
        assert!(master.send(&ToWorker::Heartbeat { sequence: 1 }));
        assert!(master.send(&ToWorker::Drain));
        assert_eq!(
            worker.receive(),
            Received::Message(ToWorker::Heartbeat { sequence: 1 })
        );
        assert_eq!(worker.receive(), Received::Message(ToWorker::Drain));
        assert!(worker.send(&ToMaster::Ready));
        drop(worker);
        assert_eq!(master.receive(), Received::Message(ToMaster::Ready));
        assert_eq!(master.receive(), Received::Closed);
        assert!(!master.send(&ToWorker::Drain));
    }

    #[test]
    fn a_worker_that_never_reads_does_not_hold_the_master() {
        let (master, _worker) = pair().unwrap();
        let accepted = (0..100_000)
            .take_while(|_| master.send(&ToWorker::Drain))
            .count();
        assert!(accepted < 100_000);
    }
}
