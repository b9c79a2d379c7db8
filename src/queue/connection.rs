//! A connection to the server: one command, one reply. It opens itself when it is first needed, so it may be made
//! before a fork and used after; any failure closes it, since a reply that still comes must never be taken for the
//! answer to something else. `redis` packs commands and parses replies; socket and deadlines are ours, because its
//! own connection hides the socket and drops late replies.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use redis::{Cmd, Parser, ServerError, Value, cmd};

use super::error::{QueueError, from_server};
use super::keys::acl_patterns;
use super::script::Script;
use super::socket::Socket;
use crate::config;

/// Below this the scripts' commands are missing (`LMOVE`), or errors in scripts say less.
const OLDEST: (u32, u32) = (6, 2);
/// A parser that has held more than this is replaced, so that one large job does not stay in memory for good.
const MOST_KEPT_BYTES: usize = 1 << 20;

/// Which version of the wire protocol to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// One reply per command, nothing else.
    Resp2 = 2,
    /// The server may also push, which tracking needs.
    Resp3 = 3,
}

/// A connection to the server of one queue, open or not.
pub(super) struct Connection {
    settings: config::Queue,
    protocol: Protocol,
    place: String,
    acl_patterns: String,
    open: Option<Open>,
}

struct Open {
    socket: Socket,
    parser: Parser,
    version: String,
}

impl Connection {
    /// No I/O yet.
    pub fn new(settings: &config::Queue, protocol: Protocol) -> Self {
        Self {
            settings: settings.clone(),
            protocol,
            place: settings.address.to_string(),
            acl_patterns: acl_patterns(&settings.keys),
            open: None,
        }
    }

    /// Opens it, if it is not: a failure means that nothing was asked.
    pub fn open(&mut self) -> Result<(), QueueError> {
        self.opened().map(drop)
    }

    /// The version the server gave; opens the connection.
    pub fn version(&mut self) -> Result<String, QueueError> {
        Ok(self.opened()?.version.clone())
    }

    /// The open socket, to be polled for a hang-up.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.open.as_ref().map(|open| open.socket.as_fd())
    }

    /// Closes it; the next command opens it again.
    pub fn close(&mut self) {
        self.open = None;
    }

    /// Sends a command and waits for its reply. An error reply is an error, never a value.
    pub fn call(&mut self, command: &Cmd) -> Result<Value, QueueError> {
        match self.exchange(command)? {
            Ok(value) => Ok(value),
            Err(error) => Err(self.refused(&error)),
        }
    }

    /// Sends all commands at once and waits for their replies, in order; the server's errors stand among them.
    pub fn call_all(&mut self, commands: &[Cmd]) -> Result<Vec<Value>, QueueError> {
        let replies = self.opened()?.exchange_all(&pack(commands), commands.len());
        replies.map_err(|cause| self.broken(cause))
    }

    /// Runs a script, and loads it first if the server does not know it (any more).
    pub fn eval(
        &mut self,
        script: &Script,
        keys: &[&str],
        arguments: &[&[u8]],
    ) -> Result<Value, QueueError> {
        let mut evalsha = cmd("EVALSHA");
        evalsha.arg(script.sha()).arg(keys.len()).arg(keys);
        for argument in arguments {
            evalsha.arg(argument);
        }
        match self.exchange(&evalsha)? {
            Err(error) if error.code() == "NOSCRIPT" => {
                self.load(script)?;
                self.call(&evalsha)
            }
            Err(error) => Err(self.refused(&error)),
            Ok(value) => Ok(value),
        }
    }

    /// Makes a script known to the server.
    pub fn load(&mut self, script: &Script) -> Result<(), QueueError> {
        self.call(cmd("SCRIPT").arg("LOAD").arg(script.text()))?;
        Ok(())
    }

    /// The first element of a list; none when there is no list.
    pub fn first_element(&mut self, list: &str) -> Result<Option<Vec<u8>>, QueueError> {
        match self.call(cmd("LINDEX").arg(list).arg(0))? {
            Value::Nil => Ok(None),
            Value::BulkString(bytes) => Ok(Some(bytes)),
            _ => Err(self.nonsense("LINDEX")),
        }
    }

    /// The number of a list's elements.
    pub fn length(&mut self, list: &str) -> Result<usize, QueueError> {
        match self.call(cmd("LLEN").arg(list))? {
            Value::Int(length) => Ok(usize::try_from(length).unwrap_or(0)),
            _ => Err(self.nonsense("LLEN")),
        }
    }

    /// The elements of an array, moved out and not copied.
    pub fn byte_strings(
        &mut self,
        reply: Value,
        command: &str,
    ) -> Result<Vec<Vec<u8>>, QueueError> {
        let Value::Array(items) = reply else {
            return Err(self.nonsense(command));
        };
        let strings = items.into_iter().map(|item| match item {
            Value::BulkString(bytes) => Some(bytes),
            _ => None,
        });
        match strings.collect() {
            Some(strings) => Ok(strings),
            None => Err(self.nonsense(command)),
        }
    }

    /// Sends commands whose replies [`Connection::socket`] will be read for.
    pub fn send_all(&mut self, commands: &[Cmd]) -> Result<(), QueueError> {
        let packed = pack(commands);
        let socket = &mut self.opened()?.socket;
        socket.begin();
        let sent = socket.send_all(&packed);
        sent.map_err(|err| self.broken(err.into()))
    }

    /// The open socket; none when closed.
    pub fn socket(&mut self) -> Option<&mut Socket> {
        self.open.as_mut().map(|open| &mut open.socket)
    }

    /// The connection cannot be used any more.
    pub fn broken(&mut self, cause: redis::RedisError) -> QueueError {
        self.close();
        unavailable(&self.place, &cause)
    }

    /// The server's own error. It closes the connection too: after a failover or a new password only a new one helps.
    pub fn refused(&mut self, error: &ServerError) -> QueueError {
        self.close();
        from_server(&self.place, &self.settings.keys, &self.acl_patterns, error)
    }

    /// The server answered something that no server of this protocol answers.
    pub fn nonsense(&mut self, command: &str) -> QueueError {
        self.close();
        let place = &self.place;
        QueueError::Refused(format!(
            "cannot use redis at {place}: its answer to {command} is not understood"
        ))
    }

    fn exchange(&mut self, command: &Cmd) -> Result<Result<Value, ServerError>, QueueError> {
        let packed = command.get_packed_command();
        let reply = self.opened()?.exchange(&packed);
        match reply {
            Ok(Value::ServerError(error)) => Ok(Err(error)),
            Ok(value) => Ok(Ok(value)),
            Err(cause) => Err(self.broken(cause)),
        }
    }

    fn opened(&mut self) -> Result<&mut Open, QueueError> {
        if self.open.is_none() {
            self.open = Some(self.connect()?);
        }
        Ok(self.open.as_mut().expect("opened above"))
    }

    fn connect(&self) -> Result<Open, QueueError> {
        let socket = Socket::connect(&self.settings.address, self.settings.timeout)
            .map_err(|err| unavailable(&self.place, &err.into()))?;
        let mut open = Open {
            socket,
            parser: Parser::new(),
            version: String::new(),
        };
        let greeting = self.greet(&mut open, &self.hello())?;
        open.version = self.checked_version(&greeting)?;
        if self.settings.db != 0 {
            self.greet(&mut open, cmd("SELECT").arg(self.settings.db))?;
        }
        Ok(open)
    }

    /// `HELLO` authenticates and tells the version in one round trip, and no ACL can forbid it.
    fn hello(&self) -> Cmd {
        let mut hello = cmd("HELLO");
        hello.arg(self.protocol as usize);
        if let Some(password) = &self.settings.password {
            let username = self.settings.username.as_deref().unwrap_or("default");
            hello.arg("AUTH").arg(username).arg(&password.0);
        }
        hello
    }

    fn greet(&self, open: &mut Open, command: &Cmd) -> Result<Value, QueueError> {
        match open.exchange(&command.get_packed_command()) {
            Ok(Value::ServerError(error)) if is_unknown_command(&error) => {
                Err(self.too_old("before 6.0"))
            }
            Ok(Value::ServerError(error)) => Err(from_server(
                &self.place,
                &self.settings.keys,
                &self.acl_patterns,
                &error,
            )),
            Ok(value) => Ok(value),
            Err(cause) => Err(unavailable(&self.place, &cause)),
        }
    }

    fn checked_version(&self, greeting: &Value) -> Result<String, QueueError> {
        let version = field(greeting, "version").unwrap_or_default();
        let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
        let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if found < OLDEST {
            return Err(self.too_old(&version));
        }
        Ok(version)
    }

    fn too_old(&self, version: &str) -> QueueError {
        let (place, (major, minor)) = (&self.place, OLDEST);
        QueueError::Refused(format!(
            "cannot use redis at {place}: version {version} is too old, {major}.{minor} is needed"
        ))
    }
}

impl Open {
    fn exchange(&mut self, packed: &[u8]) -> redis::RedisResult<Value> {
        self.socket.begin();
        self.socket.send_all(packed)?;
        let reply = self.parser.parse_value(&mut self.socket)?;
        if self.socket.received() > MOST_KEPT_BYTES {
            self.parser = Parser::new();
        }
        Ok(reply)
    }

    fn exchange_all(&mut self, packed: &[u8], count: usize) -> redis::RedisResult<Vec<Value>> {
        self.socket.begin();
        self.socket.send_all(packed)?;
        (0..count)
            .map(|_| self.parser.parse_value(&mut self.socket))
            .collect()
    }
}

fn pack(commands: &[Cmd]) -> Vec<u8> {
    commands
        .iter()
        .flat_map(|command| command.get_packed_command())
        .collect()
}

fn unavailable(place: &str, cause: &redis::RedisError) -> QueueError {
    QueueError::Unavailable(format!("cannot reach redis at {place}: {}", plain(cause)))
}

/// The cause without the crate's own words around it.
fn plain(cause: &redis::RedisError) -> String {
    match std::error::Error::source(cause).and_then(|source| source.downcast_ref::<io::Error>()) {
        Some(io) => io.to_string(),
        None => cause.to_string(),
    }
}

fn is_unknown_command(error: &ServerError) -> bool {
    error.code() == "ERR"
        && error
            .details()
            .is_some_and(|details| details.starts_with("unknown command"))
}

/// A field of a map, which before RESP3 is an array of keys and values.
fn field(reply: &Value, name: &str) -> Option<String> {
    let text = |value: &Value| match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    };
    let has_name = |key: &Value| text(key).as_deref() == Some(name);
    match reply {
        Value::Map(fields) => fields
            .iter()
            .find(|(key, _)| has_name(key))
            .and_then(|(_, value)| text(value)),
        Value::Array(items) => items
            .chunks_exact(2)
            .find(|pair| has_name(&pair[0]))
            .and_then(|pair| text(&pair[1])),
        _ => None,
    }
}
