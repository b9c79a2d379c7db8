//! One connection to the admin port: its socket, what arrived, what is not sent yet. Never blocks, and works in turns of
//! bounded length, so that a client that floods holds up nobody. What commands mean is the parent module's.

use super::Limits;
use super::session::Session;
use super::stream::Stream;
use crate::resp::{CommandDecoder, ProtocolError, Reply};
use mio::{Interest, Registry, Token};
use std::io::{self, ErrorKind, Read, Write};

/// A turn ends after so many commands ...
const TURN_COMMANDS: usize = 64;

/// ... of which a read counts for so many, since it may bring thousands of empty lines ...
const READ_COST: usize = 16;

/// ... or when it made so many bytes of replies.
const TURN_REPLY_BYTES: usize = 64 * 1024;

/// Read at once. Also what may lie undecoded when a turn ends, beside a command that is not complete.
pub(super) const READ_BYTES: usize = 16 * 1024;

/// An emptied output keeps no more room than this.
const KEPT_OUTPUT_BYTES: usize = 64 * 1024;

/// One connection.
#[derive(Debug)]
pub(super) struct Client {
    stream: Stream,
    /// Who it is.
    pub session: Session,
    token: Token,
    /// What the poll watches for.
    interest: Interest,
    decoder: CommandDecoder,
    output: Output,
    max_unread_bytes: usize,
    phase: Phase,
    progress: Progress,
}

/// How far the conversation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Commands are read.
    Open,
    /// What is not sent yet is sent, then the connection is closed.
    Closing,
    /// The connection is to be closed at once.
    Killed,
}

/// What there is to do. The poll tells of each change once, so it is remembered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Everything there was is read, decoded, and as far as possible sent.
    Waiting,
    /// A turn is due; there may be room to send.
    Pending,
    /// The socket may hold input.
    Readable,
}

/// A reply, and whether the conversation goes on.
pub(super) enum Answer {
    /// The usual one.
    Reply(Reply),
    /// The last one.
    Farewell(Reply),
}

/// Why a connection has to be closed. The text goes to the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum Gone {
    /// The conversation is over.
    #[error("closed")]
    Closed,
    /// Another client asked for it.
    #[error("killed by another client")]
    Killed,
    /// It did not authenticate.
    #[error("not authenticated in time")]
    Login,
    /// Its place was needed by another one.
    #[error("place needed")]
    Evicted,
    /// It does not read what it asked for.
    #[error("unread replies")]
    Unread,
    /// It broke the protocol in a way that gets no answer.
    #[error("{0}")]
    Protocol(ProtocolError),
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Client {
    /// Takes over an accepted connection. The first turn reads at once: bytes may have come before the poll watched.
    pub fn new(
        mut stream: Stream,
        session: Session,
        registry: &Registry,
        token: Token,
        limits: &Limits,
    ) -> io::Result<Self> {
        registry.register(&mut stream, token, Interest::READABLE)?;
        Ok(Self {
            stream,
            session,
            token,
            interest: Interest::READABLE,
            decoder: CommandDecoder::new(limits.command),
            output: Output::default(),
            max_unread_bytes: limits.unread_bytes,
            phase: Phase::Open,
            progress: Progress::Readable,
        })
    }

    /// The poll says that there may be something to read.
    pub fn readable(&mut self) {
        self.progress = Progress::Readable;
    }

    /// The poll says that there may be room to send.
    pub fn writable(&mut self) {
        if self.progress == Progress::Waiting {
            self.progress = Progress::Pending;
        }
    }

    /// Is there something to do?
    pub fn has_work(&self) -> bool {
        self.progress != Progress::Waiting
    }

    /// Another client wants it closed: it is, before that one gets its answer. What it has not read yet is lost, as in
    /// Redis.
    pub fn kill(&mut self) {
        self.stream.shut_down();
        self.phase = Phase::Killed;
        self.progress = Progress::Pending;
    }

    /// Is it as good as gone?
    pub fn is_killed(&self) -> bool {
        self.phase == Phase::Killed
    }

    /// One last reply, sent if the socket takes it. The connection has to be closed then.
    pub fn dismiss(&mut self, reply: Reply) {
        if self.phase == Phase::Open && self.reply(Answer::Farewell(reply)).is_ok() {
            // Who does not read goes without it.
            let _ = self.output.send(&mut self.stream);
        }
    }

    /// Reads, answers and sends for a bounded time. Call it again while [`Client::has_work`]. Answers how many bytes of
    /// replies it made.
    ///
    /// # Errors
    ///
    /// The connection is over and has to be closed.
    pub fn turn(
        &mut self,
        registry: &Registry,
        scratch: &mut [u8; READ_BYTES],
        answer: &mut dyn FnMut(&mut Session, &[Vec<u8>]) -> Answer,
    ) -> Result<usize, Gone> {
        if self.phase == Phase::Killed {
            return Err(Gone::Killed);
        }
        let reply_bytes = match self.phase {
            Phase::Open => self.converse(scratch, answer)?,
            Phase::Closing | Phase::Killed => 0,
        };
        if self.phase == Phase::Closing {
            self.progress = Progress::Waiting;
        }
        self.send()?;
        if self.phase == Phase::Closing && self.output.is_empty() {
            return Err(Gone::Closed);
        }
        self.session.input_bytes = self.decoder.pending_bytes();
        self.session.output_bytes = self.output.len();
        self.watch(registry)?;
        Ok(reply_bytes)
    }

    /// Sends what can be sent without waiting.
    pub fn send(&mut self) -> Result<(), Gone> {
        Ok(self.output.send(&mut self.stream)?)
    }

    /// Takes the socket out of the poll; dropping the client closes it.
    pub fn deregister(&mut self, registry: &Registry) {
        // It fails only for a socket that is not registered, which is what is wanted.
        let _ = registry.deregister(&mut self.stream);
    }

    fn converse(
        &mut self,
        scratch: &mut [u8; READ_BYTES],
        answer: &mut dyn FnMut(&mut Session, &[Vec<u8>]) -> Answer,
    ) -> Result<usize, Gone> {
        let mut reply_bytes = 0;
        let mut spent = 0;
        while spent < TURN_COMMANDS && reply_bytes < TURN_REPLY_BYTES && self.phase == Phase::Open {
            spent += 1;
            match self.decoder.next_command() {
                Ok(Some(args)) => {
                    let before = self.output.len();
                    let answer = answer(&mut self.session, &args);
                    self.reply(answer)?;
                    reply_bytes += self.output.len() - before;
                }
                Ok(None) if self.progress == Progress::Readable => {
                    spent += READ_COST;
                    self.read(scratch)?;
                }
                Ok(None) => {
                    self.progress = Progress::Waiting;
                    break;
                }
                Err(ProtocolError::Http) => return Err(Gone::Protocol(ProtocolError::Http)),
                Err(error) => {
                    let text = format!("ERR {error}");
                    self.reply(Answer::Farewell(Reply::error(text)))?;
                }
            }
        }
        Ok(reply_bytes)
    }

    /// What lies unread is bounded before a reply is added: a single long one is no fault of the client.
    fn reply(&mut self, answer: Answer) -> Result<(), Gone> {
        if self.output.len() > self.max_unread_bytes {
            self.send()?;
        }
        if self.output.len() > self.max_unread_bytes {
            return Err(Gone::Unread);
        }
        let reply = match answer {
            Answer::Reply(reply) => reply,
            Answer::Farewell(reply) => {
                self.phase = Phase::Closing;
                reply
            }
        };
        reply.encode(&mut self.output.bytes, self.session.protocol);
        Ok(())
    }

    /// A client that closed its sending half may still read: it gets what it asked for.
    fn read(&mut self, scratch: &mut [u8; READ_BYTES]) -> Result<(), Gone> {
        match self.stream.read(scratch) {
            Ok(0) => self.phase = Phase::Closing,
            Ok(count) => self.decoder.feed(&scratch[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.progress = Progress::Pending;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Gone::Io(error)),
        }
        Ok(())
    }

    /// Watches for room to write only while there is something to write.
    fn watch(&mut self, registry: &Registry) -> Result<(), Gone> {
        let interest = match self.output.is_empty() {
            true => Interest::READABLE,
            false => Interest::READABLE | Interest::WRITABLE,
        };
        if interest != self.interest {
            registry.reregister(&mut self.stream, self.token, interest)?;
            self.interest = interest;
        }
        Ok(())
    }
}

/// Replies that the socket did not take yet.
#[derive(Debug, Default)]
struct Output {
    bytes: Vec<u8>,
    sent: usize,
}

impl Output {
    fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn send(&mut self, stream: &mut impl Write) -> io::Result<()> {
        while !self.is_empty() {
            match stream.write(&self.bytes[self.sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.forget_sent();
        Ok(())
    }

    /// What was sent is moved out only when that is at least half, so each byte is moved at most once.
    fn forget_sent(&mut self) {
        if self.is_empty() {
            self.bytes.clear();
            self.bytes.shrink_to(KEPT_OUTPUT_BYTES);
            self.sent = 0;
        } else if self.sent >= self.len() {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }
}
