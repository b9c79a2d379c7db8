//! The socket to a script with its two buffers. Non-blocking in both directions, so that a script which waits for us
//! to read can never meet us waiting for it to read. Knows which of the sent runs are still unanswered.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};

use super::wire::{Invalid, MAX_REPLY_BYTES, Reply};
use crate::resp::ReplyDecoder;

/// Bytes that are read or written ahead.
const AHEAD: usize = 64 << 10;

/// Reads after the script's end: more than its socket holds, less than a stray grandchild can write.
const LAST_READS: usize = 256;

/// Our end of the socket.
#[derive(Debug)]
pub struct Link {
    socket: UnixStream,
    closed: bool,
    input: ReplyDecoder,
    output: Vec<u8>,
    written: usize,
    /// Bytes that have left `output` since the start.
    written_before: u64,
    /// Where each unanswered run ends, in bytes since the start.
    runs: VecDeque<u64>,
}

impl Link {
    /// A link, and the script's end of it.
    ///
    /// # Errors
    /// No descriptors to be had.
    pub fn new() -> io::Result<(Self, UnixStream)> {
        let (socket, theirs) = UnixStream::pair()?;
        socket.set_nonblocking(true)?;
        let link = Self {
            socket,
            closed: false,
            input: ReplyDecoder::new(MAX_REPLY_BYTES),
            output: Vec::new(),
            written: 0,
            written_before: 0,
            runs: VecDeque::new(),
        };
        Ok((link, theirs))
    }

    /// To be polled.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The other side is gone, or takes nothing more.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// There is something that the socket did not take yet.
    pub fn has_output(&self) -> bool {
        self.written < self.output.len()
    }

    /// Runs that were sent and not answered.
    pub fn unanswered(&self) -> usize {
        self.runs.len()
    }

    /// Whether another run may be sent: `window` is not reached, and the buffer is not full.
    pub fn has_room(&self, window: usize) -> bool {
        self.runs.len() < window && self.output.len() - self.written < AHEAD
    }

    /// Whether the script can have begun the first unanswered run.
    pub fn has_run_in_hand(&self) -> bool {
        self.runs
            .front()
            .is_some_and(|end| *end <= self.written_before + self.written as u64)
    }

    /// Puts a request into the buffer.
    pub fn push(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        encode(&mut self.output);
    }

    /// Puts a run into the buffer.
    pub fn push_run(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        self.push(encode);
        self.runs
            .push_back(self.written_before + self.output.len() as u64);
    }

    /// The first unanswered run has its answer; false when there was none.
    pub fn answer_run(&mut self) -> bool {
        self.runs.pop_front().is_some()
    }

    /// Writes what the socket takes now.
    pub fn flush(&mut self) {
        while self.has_output() && !self.closed {
            let rest = &self.output[self.written..];
            match send(self.socket.as_raw_fd(), rest, MsgFlags::MSG_NOSIGNAL) {
                Ok(length) => self.written += length,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(_) => self.closed = true,
            }
        }
        // Half consumed is early enough to move the rest to the front, and late enough to be cheap.
        if self.written * 2 > self.output.len() {
            self.output.drain(..self.written);
            self.written_before += self.written as u64;
            self.written = 0;
        }
        forget_large(&mut self.output);
    }

    /// Reads once; false when nothing more is there now.
    pub fn receive(&mut self) -> bool {
        match (&self.socket).read(self.input.space(AHEAD)) {
            Ok(0) => self.closed = true,
            Ok(length) => {
                self.input.filled(length);
                return true;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // ECONNRESET: it ended with requests unread; its replies were read before.
            Err(_) => self.closed = true,
        }
        false
    }

    /// Reads all that a script has left behind.
    pub fn receive_rest(&mut self) {
        for _ in 0..LAST_READS {
            if !self.receive() {
                break;
            }
        }
    }

    /// The next reply that is there in full.
    ///
    /// # Errors
    /// What is there is no reply.
    pub fn next_reply(&mut self) -> Result<Option<Reply>, Invalid> {
        self.input.next_reply()?.map(Reply::try_from).transpose()
    }
}

/// One huge payload must not cost its memory for ever.
fn forget_large(buffer: &mut Vec<u8>) {
    if buffer.is_empty() && buffer.capacity() > 16 * AHEAD {
        *buffer = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_run_is_in_hand_only_when_all_of_it_was_taken() {
        let (mut link, mut theirs) = Link::new().unwrap();
        let large = vec![b'x'; 8 << 20];
        link.push_run(|out| out.extend_from_slice(b"small"));
        link.push_run(|out| out.extend_from_slice(&large));
        assert!(!link.has_room(100), "the buffer is full");
        link.flush();
        assert!(link.has_run_in_hand() && link.has_output());
        assert!(link.answer_run());
        assert!(!link.has_run_in_hand());
        let mut received = 0;
        let mut buffer = vec![0; 1 << 20];
        while received < 5 + large.len() {
            received += theirs.read(&mut buffer).unwrap();
            link.flush();
        }
        assert!(link.has_run_in_hand() && !link.has_output() && link.has_room(2));
        assert!(link.output.capacity() <= 16 * AHEAD);
        assert!(link.answer_run());
        assert!(!link.answer_run());
    }

    #[test]
    fn replies_are_read_although_the_other_side_is_gone_and_has_read_nothing() {
        let (mut link, mut theirs) = Link::new().unwrap();
        link.push_run(|out| out.extend_from_slice(b"unread"));
        link.flush();
        theirs.write_all(b"+OK\r\n-FAIL no\r\n+cut").unwrap();
        drop(theirs);
        link.receive_rest();
        assert!(link.is_closed());
        assert_eq!(link.next_reply(), Ok(Some(Reply::Ok)));
        assert_eq!(link.next_reply(), Ok(Some(Reply::Error("FAIL no".into()))));
        assert_eq!(link.next_reply(), Ok(None));
    }
}
