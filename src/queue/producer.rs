//! Pushing jobs, for the command line. Everybody else may do the same with a plain `RPUSH`.

use redis::{Value, cmd};

use super::connection::{Connection, Protocol};
use super::error::QueueError;
use crate::config;

/// Pushes jobs to one queue.
pub struct Producer {
    key: String,
    connection: Connection,
}

impl Producer {
    /// No I/O yet.
    pub fn new(settings: &config::Queue) -> Self {
        Self {
            key: settings.keys[0].clone(),
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
}
