//! The keeper's watch on the lengths of a queue's keys, and on its delayed jobs. With `CLIENT TRACKING` the server says once when a key changes
//! after it was asked for, so that nobody has to poll. The keeper polls the socket and decides when to ask and whom to wake.

use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::time::Instant;

use redis::{Parser, PushKind, Value, cmd};

use super::connection::{Connection, Protocol};
use super::error::QueueError;
use super::keys::Keys;
use super::socket::Socket;
use crate::config;

/// A watch on the lengths of one queue's keys.
pub struct Watch {
    keys: Vec<Keys>,
    timeout: std::time::Duration,
    connection: Connection,
    parser: Parser,
    arrived: Arrived,
    /// When the answers that are still owed must be there.
    deadline: Option<Instant>,
    owed: usize,
    /// The first answers to the oldest question: of each key how many jobs wait, and whether any are delayed.
    lengths: Vec<u64>,
}

/// What the server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A key has changed since it was last asked for; ask again to be told again. It may come between the answers to
    /// one question, and then it is about a key that was answered already: the question has not covered it.
    Invalidated,
    /// The same of jobs that are not due yet: the next one may be due earlier than was known. What was due when the
    /// next question is answered must be looked for after that.
    DelayedChanged,
    /// Jobs waiting under each key, in the order of the keys: the answer to one [`Watch::ask`].
    Lengths(Vec<u64>),
}

/// Whether the server will say when the key changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// It will.
    On,
    /// It will not, in its own words: ask every 100 ms.
    Refused(String),
}

impl Watch {
    /// No I/O yet.
    pub fn new(settings: &config::Queue) -> Self {
        Self {
            keys: settings.keys.iter().map(|key| Keys::new(key)).collect(),
            timeout: settings.timeout,
            connection: Connection::new(settings, Protocol::Resp3),
            parser: Parser::new(),
            arrived: Arrived::default(),
            deadline: None,
            owed: 0,
            lengths: Vec::new(),
        }
    }

    /// Connects anew. After any error of this watch it is the way on; then ask.
    pub fn open(&mut self) -> Result<Tracking, QueueError> {
        self.connection.close();
        self.parser = Parser::new();
        self.arrived = Arrived::default();
        (self.deadline, self.owed) = (None, 0);
        self.lengths.clear();
        self.connection.version()?;
        match self
            .connection
            .call(cmd("CLIENT").arg("TRACKING").arg("ON"))
        {
            Ok(_) => Ok(Tracking::On),
            Err(QueueError::Refused(message)) => {
                self.connection.version()?;
                Ok(Tracking::Refused(message))
            }
            Err(error) => Err(error),
        }
    }

    /// The socket to poll for reading; none when not open.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.connection.fd()
    }

    /// Asks for all lengths at once, which also arms the tracking. The answer comes by [`Watch::read`].
    pub fn ask(&mut self) -> Result<(), QueueError> {
        let ask = |name: &str, key: &str| {
            let mut ask = cmd(name);
            ask.arg(key);
            ask
        };
        // EXISTS: whatever lies there, it stops nobody from being woken.
        let commands = self
            .keys
            .iter()
            .flat_map(|keys| [ask("LLEN", &keys.waiting), ask("EXISTS", &keys.delayed)]);
        self.connection.send_all(&commands.collect::<Vec<_>>())?;
        self.owed += 2 * self.keys.len();
        self.deadline.get_or_insert(Instant::now() + self.timeout);
        Ok(())
    }

    /// When an answer is overdue; none while none is owed. At that time call [`Watch::read`], which says so.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The next thing that the server has said; none when there is nothing more. To be called until then each time
    /// the socket is readable, because more than one may have come at once.
    pub fn read(&mut self) -> Result<Option<Event>, QueueError> {
        loop {
            match self.read_value()? {
                None => return self.overdue(),
                Some(Value::Int(length)) => {
                    self.owed = self.owed.saturating_sub(1);
                    self.deadline = (self.owed > 0).then(|| Instant::now() + self.timeout);
                    self.lengths.push(length.unsigned_abs());
                    if self.lengths.len() == 2 * self.keys.len() {
                        let waiting = self.lengths.drain(..).step_by(2).collect();
                        return Ok(Some(Event::Lengths(waiting)));
                    }
                }
                Some(Value::Push {
                    kind: PushKind::Invalidate,
                    data,
                }) => return Ok(Some(self.changed(&data))),
                Some(Value::Push { .. }) => {}
                Some(Value::ServerError(error)) => return Err(self.connection.refused(&error)),
                Some(_) => return Err(self.connection.nonsense("LLEN")),
            }
        }
    }

    /// Which keys an invalidation names; it names none when all are gone.
    fn changed(&self, data: &[Value]) -> Event {
        let Some(Value::Array(names)) = data.first() else {
            return Event::Invalidated;
        };
        let is_delayed = |name: &Value| match name {
            Value::BulkString(name) => self.keys.iter().any(|keys| keys.delayed.as_bytes() == name),
            _ => false,
        };
        match names.iter().all(is_delayed) {
            true => Event::DelayedChanged,
            false => Event::Invalidated,
        }
    }

    fn read_value(&mut self) -> Result<Option<Value>, QueueError> {
        let Some(socket) = self.connection.socket() else {
            return Ok(None);
        };
        let result = match self.arrived.fill(socket) {
            Ok(false) => return Ok(None),
            Ok(true) => {
                // The rest of a value follows at once, or the server has stalled.
                let lines = Lines {
                    arrived: &mut self.arrived,
                    socket,
                };
                self.parser.parse_value(lines).map(Some)
            }
            Err(err) => Err(err.into()),
        };
        result.map_err(|cause| self.connection.broken(cause))
    }

    fn overdue(&mut self) -> Result<Option<Event>, QueueError> {
        if self
            .deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
        {
            let cause = format!("no answer within {:?}", self.timeout);
            let cause = io::Error::new(io::ErrorKind::TimedOut, cause);
            return Err(self.connection.broken(cause.into()));
        }
        Ok(None)
    }
}

/// Bytes that have arrived and that the parser has not got.
#[derive(Default)]
struct Arrived {
    bytes: Vec<u8>,
    taken: usize,
}

impl Arrived {
    /// Whether there are any, without waiting.
    fn fill(&mut self, socket: &mut Socket) -> io::Result<bool> {
        if self.taken < self.bytes.len() {
            return Ok(true);
        }
        let mut buffer = [0; 4096];
        match socket.read_now(&mut buffer)? {
            None => Ok(false),
            Some(0) => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the server closed the connection",
            )),
            Some(count) => {
                self.replace(&buffer[..count]);
                Ok(true)
            }
        }
    }

    fn replace(&mut self, bytes: &[u8]) {
        self.bytes.clear();
        self.bytes.extend_from_slice(bytes);
        self.taken = 0;
    }
}

/// Hands the parser one line at a time: it keeps what it has read too far, and then nobody can tell whether a second
/// value lies in it. Every value ends with a line.
struct Lines<'a> {
    arrived: &'a mut Arrived,
    socket: &'a mut Socket,
}

impl Read for Lines<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.arrived.taken == self.arrived.bytes.len() {
            self.socket.begin();
            let mut more = [0; 4096];
            let count = self.socket.read(&mut more)?;
            self.arrived.replace(&more[..count]);
        }
        let rest = &self.arrived.bytes[self.arrived.taken..];
        let line = rest
            .iter()
            .position(|&byte| byte == b'\n')
            .map_or(rest.len(), |end| end + 1);
        let count = line.min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.arrived.taken += count;
        Ok(count)
    }
}
