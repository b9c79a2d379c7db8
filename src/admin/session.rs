//! What is known of a client: who it is, what it may do, what it said of itself. Pure; its line in `CLIENT LIST` is
//! written here.

use super::access::{Access, Role};
use crate::resp::Protocol;
use std::fmt;
use std::time::{Duration, Instant};

/// A client that has to authenticate has so much time. Others need its place.
pub(super) const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);

/// A client's side of the conversation.
#[derive(Clone, Debug)]
pub struct Session {
    /// Never given twice.
    pub id: u64,
    /// Its connection.
    pub ends: Ends,
    /// The connection's descriptor.
    pub descriptor: i32,
    /// When it was accepted.
    pub since: Instant,
    /// When it last asked.
    pub asked_at: Instant,
    /// What it may do.
    pub standing: Standing,
    /// What it began to ask, in bytes, when it was last looked at.
    pub input_bytes: usize,
    /// What it did not read yet, in bytes, when it was last looked at.
    pub output_bytes: usize,
    /// How it wants to be answered.
    pub protocol: Protocol,
    /// What it last asked: the command's name, or its part's.
    pub command: &'static str,
    /// Given by `CLIENT SETNAME`.
    pub name: Label,
    /// Of the library it uses, by its own word.
    pub library_name: Label,
    /// Of the library it uses, by its own word.
    pub library_version: Label,
}

/// The two ends of a connection, as `CLIENT LIST` shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Where it comes from.
    pub remote: String,
    /// Where it was accepted.
    pub local: String,
    /// Which kind it is.
    pub is_unix: bool,
}

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing but authenticate.
    Stranger {
        /// When its time is over.
        until: Instant,
    },
    /// As its role says.
    Known(Role),
}

impl Standing {
    /// Of a client that has just come, or has forgotten who it was.
    pub fn at_first(access: &Access, now: Instant) -> Self {
        match access.is_open() {
            true => Self::Known(Role::Full),
            false => Self::Stranger {
                until: now + LOGIN_TIMEOUT,
            },
        }
    }
}

impl Session {
    /// Of a client that has just come.
    pub fn new(id: u64, ends: Ends, descriptor: i32, standing: Standing, now: Instant) -> Self {
        Self {
            id,
            ends,
            descriptor,
            since: now,
            asked_at: now,
            standing,
            input_bytes: 0,
            output_bytes: 0,
            protocol: Protocol::default(),
            command: "NULL",
            name: Label::default(),
            library_name: Label::default(),
            library_version: Label::default(),
        }
    }

    /// The name of the user. Who did not authenticate is what Redis calls him.
    pub fn user(&self) -> &'static str {
        match self.standing {
            Standing::Stranger { .. } => Role::Full.user(),
            Standing::Known(role) => role.user(),
        }
    }

    /// Does it have to authenticate, and until when?
    pub fn login_deadline(&self) -> Option<Instant> {
        match self.standing {
            Standing::Stranger { until } => Some(until),
            Standing::Known(_) => None,
        }
    }

    /// Its line in `CLIENT LIST`.
    pub fn line(&self, now: Instant) -> Line<'_> {
        Line { session: self, now }
    }
}

/// A session written down.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    session: &'a Session,
    now: Instant,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Session { id, ends, name, .. } = self.session;
        let seconds = |since: Instant| self.now.saturating_duration_since(since).as_secs();
        let age = seconds(self.session.since);
        let idle = seconds(self.session.asked_at);
        let flags = if ends.is_unix { 'U' } else { 'N' };
        let resp = match self.session.protocol {
            Protocol::Resp2 => 2,
            Protocol::Resp3 => 3,
        };
        write!(f, "id={id} addr={} laddr={}", ends.remote, ends.local)?;
        write!(f, " fd={} name={name}", self.session.descriptor)?;
        write!(f, " age={age} idle={idle} flags={flags}")?;
        let (input, output) = (self.session.input_bytes, self.session.output_bytes);
        let total = input + output;
        let events = if output == 0 { "r" } else { "rw" };
        // What stands for nothing here is what libraries insist on.
        write!(
            f,
            " db=0 sub=0 psub=0 multi=-1 qbuf={input} qbuf-free=0 argv-mem=0"
        )?;
        write!(
            f,
            " obl=0 oll=0 omem={output} tot-mem={total} events={events}"
        )?;
        write!(
            f,
            " cmd={} user={}",
            self.session.command,
            self.session.user()
        )?;
        f.write_str(" redir=-1")?;
        write!(f, " resp={resp} lib-name={}", self.session.library_name)?;
        write!(f, " lib-ver={}", self.session.library_version)
    }
}

/// A name that a client gives: printable ASCII without spaces, so that lines of names can be taken apart again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Label(String);

/// Why bytes are no [`Label`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadLabel {
    /// Holds something else.
    Bytes,
    /// More than [`Label::MAX`] bytes.
    Length,
}

impl Label {
    /// Bytes at most. Redis has no bound; here a thousand clients must not make the daemon keep megabytes.
    pub const MAX: usize = 256;

    /// Is it set?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryFrom<&[u8]> for Label {
    type Error = BadLabel;

    fn try_from(bytes: &[u8]) -> Result<Self, BadLabel> {
        if bytes.len() > Self::MAX {
            return Err(BadLabel::Length);
        }
        match bytes.iter().all(u8::is_ascii_graphic) {
            true => Ok(Self(bytes.iter().map(|&byte| char::from(byte)).collect())),
            false => Err(BadLabel::Bytes),
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_fields_of_redis_in_its_order() {
        let t0 = Instant::now();
        let ends = Ends {
            remote: "127.0.0.1:50000".into(),
            local: "127.0.0.1:9003".into(),
            is_unix: false,
        };
        let standing = Standing::at_first(&Access::default(), t0);
        let mut session = Session::new(7, ends, 12, standing, t0);
        session.asked_at = t0 + Duration::from_secs(60);
        session.name = Label::try_from(b"bob".as_slice()).unwrap();
        session.library_name = Label::try_from(b"redis-py".as_slice()).unwrap();
        session.command = "client|list";
        (session.input_bytes, session.output_bytes) = (5, 100);
        session.protocol = Protocol::Resp3;
        assert_eq!(
            session.line(t0 + Duration::from_secs(90)).to_string(),
            "id=7 addr=127.0.0.1:50000 laddr=127.0.0.1:9003 fd=12 name=bob age=90 idle=30 flags=N db=0 sub=0 psub=0 \
             multi=-1 qbuf=5 qbuf-free=0 argv-mem=0 obl=0 oll=0 omem=100 tot-mem=105 events=rw cmd=client|list \
             user=default redir=-1 resp=3 lib-name=redis-py lib-ver="
        );
    }

    #[test]
    fn a_name_cannot_forge_a_field_or_a_line() {
        let bad = [" ", "a b", "a\nid=1", "a\r", "\0", "\u{e9}", "\x7f"];
        for name in bad {
            assert_eq!(Label::try_from(name.as_bytes()), Err(BadLabel::Bytes));
        }
        assert_eq!(
            Label::try_from([b'x'; Label::MAX + 1].as_slice()),
            Err(BadLabel::Length)
        );
        assert!(Label::try_from([b'x'; Label::MAX].as_slice()).is_ok());
        assert!(Label::try_from(b"".as_slice()).unwrap().is_empty());
    }
}
