//! Pushing jobs, for the command line. Everybody else may do the same with a plain `RPUSH`, but for the delayed ones.

use std::time::Duration;

use redis::{Value, cmd};

use super::connection::{Connection, Protocol};
use super::error::QueueError;
use super::header::Header;
use super::keys::Keys;
use super::retry::milliseconds;
use super::script::LATER;
use crate::config;

/// Pushes jobs to one queue.
pub struct Producer {
    key: String,
    /// Tells this producer's jobs from all others; drawn when it is first needed.
    nonce: Option<u64>,
    /// Delayed jobs that were ever named.
    named: u64,
    connection: Connection,
}

impl Producer {
    /// No I/O yet.
    pub fn new(settings: &config::Queue) -> Self {
        Self {
            key: settings.keys[0].clone(),
            nonce: None,
            named: 0,
            connection: Connection::new(settings, Protocol::Resp2),
        }
    }

    /// Connects; else the first [`Producer::push`] does.
    ///
    /// # Errors
    /// Nothing has been sent.
    pub fn open(&mut self) -> Result<(), QueueError> {
        self.connection.version().map(drop)
    }

    /// Appends the payloads in order, all or none, and answers the length of the queue. No payload: nothing is sent,
    /// and the answer is 0.
    ///
    /// # Errors
    /// After [`QueueError::Unavailable`] they may have arrived all the same.
    pub fn push(&mut self, payloads: &[impl AsRef<[u8]>]) -> Result<u64, QueueError> {
        if payloads.is_empty() {
            return Ok(0);
        }
        let mut push = cmd("RPUSH");
        push.arg(&self.key);
        for payload in payloads {
            push.arg(payload.as_ref());
        }
        match self.connection.call(&push)? {
            Value::Int(length) => Ok(length.unsigned_abs()),
            _ => Err(self.connection.nonsense("RPUSH")),
        }
    }

    /// Pushes the payloads so that they wait from then on, by the server's clock; all or none. Answers how many jobs of
    /// the key are delayed. Each gets an id of its own, so that equal payloads are different jobs.
    ///
    /// # Errors
    /// After [`QueueError::Unavailable`] they may have arrived all the same.
    pub fn push_delayed(
        &mut self,
        payloads: &[impl AsRef<[u8]>],
        delay: Duration,
    ) -> Result<u64, QueueError> {
        if payloads.is_empty() {
            return Ok(0);
        }
        let mut elements = Vec::with_capacity(payloads.len());
        for payload in payloads {
            elements.push(Header::new(self.new_id()?).encode(payload.as_ref()));
        }
        let delay = milliseconds(delay).to_string();
        let mut arguments = vec![delay.as_bytes()];
        arguments.extend(elements.iter().map(Vec::as_slice));
        let delayed = Keys::new(&self.key).delayed;
        match self.connection.eval(&LATER, &[&delayed], &arguments)? {
            Value::Int(count) => Ok(count.unsigned_abs()),
            _ => Err(self.connection.nonsense("EVALSHA")),
        }
    }

    fn new_id(&mut self) -> Result<String, QueueError> {
        let nonce = match self.nonce {
            Some(nonce) => nonce,
            None => getrandom::u64().map_err(|err| {
                QueueError::Refused(format!("cannot draw a name for a job: {err}"))
            })?,
        };
        self.nonce = Some(nonce);
        self.named += 1;
        Ok(format!("{nonce:016x}-push-{}", self.named))
    }
}
