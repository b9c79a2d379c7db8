//! Lines of threads that must not wait for a disk: a bounded queue in the kernel (a socketpair that keeps messages
//! whole), from every process of the daemon to its logger. It outlives both sides' deaths: lines of a killed master are
//! still written, and a new logger goes on where the killed one was.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, recv, send as send_message, setsockopt,
    socketpair, sockopt,
};

/// Asked of the kernel for lines that wait, in bytes; it may give less.
const ROOM: usize = 1 << 20;

/// A longer line is cut, in bytes.
const MOST: usize = 32 << 10;

static SENDER: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// The logger's end.
#[derive(Debug)]
pub struct Receiver(OwnedFd);

/// Makes the queue; this process and those it forks from now on may send.
///
/// # Errors
/// When the kernel has no descriptors left.
pub fn open() -> io::Result<Receiver> {
    let (sender, receiver) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    setsockopt(&sender, sockopt::SndBuf, &ROOM)?;
    *sender_slot() = Some(sender);
    Ok(Receiver(receiver))
}

/// This process sends no more.
pub fn close() {
    *sender_slot() = None;
}

/// What a forked process has to keep open to send.
pub fn descriptor() -> Option<RawFd> {
    sender_slot().as_ref().map(AsRawFd::as_raw_fd)
}

/// Sends a line without waiting. False: there was no room for it.
pub fn send(line: &[u8]) -> bool {
    let sender = sender_slot();
    let Some(sender) = sender.as_ref() else {
        return false;
    };
    let cut;
    let line = match line.len() > MOST {
        true => {
            cut = [&line[..MOST - 1], b"\n"].concat();
            &cut
        }
        false => line,
    };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    loop {
        match send_message(sender.as_raw_fd(), line, flags) {
            Err(Errno::EINTR) => {}
            sent => return sent.is_ok(),
        }
    }
}

fn sender_slot() -> std::sync::MutexGuard<'static, Option<OwnedFd>> {
    SENDER.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Receiver {
    /// The next line; none when nobody is left who could send one.
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut line = vec![0; MOST];
        loop {
            match recv(self.0.as_raw_fd(), &mut line, MsgFlags::empty()) {
                Ok(0) => return None,
                Ok(length) => {
                    line.truncate(length);
                    return Some(line);
                }
                Err(Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
    }
}

impl AsRawFd for Receiver {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_and_the_rest_arrives_whole_and_in_order() {
        let receiver = open().unwrap();
        let line = |number: usize| format!("{number} {}\n", "x".repeat(100));
        let sent = (0..1_000_000)
            .take_while(|number| send(line(*number).as_bytes()))
            .count();
        assert!((100..1_000_000).contains(&sent), "bounded: {sent}");
        assert_eq!(receiver.receive().unwrap(), line(0).as_bytes());
        assert!(send(&[b'y'; 2 * MOST]), "there is room again");
        for number in 1..sent {
            assert_eq!(receiver.receive().unwrap(), line(number).as_bytes());
        }
        let mut cut = vec![b'y'; MOST - 1];
        cut.push(b'\n');
        assert_eq!(receiver.receive().unwrap(), cut);
        close();
        assert_eq!(receiver.receive(), None);
        assert!(!send(b"nobody\n"));
    }
}
