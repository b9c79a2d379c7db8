//! Moving jobs whose time has come to the tail of their queue. Any number of keepers may do so, of any daemons: each
//! job is moved by one of them.

use std::time::Duration;

use redis::Value;

use super::connection::{Connection, Protocol};
use super::error::QueueError;
use super::keys::Keys;
use super::retry::milliseconds;
use super::script::DUE;
use crate::config;

/// Jobs that one script moves at most: others wait for the server meanwhile.
const MOST_JOBS: usize = 100;
/// And bytes, but one job.
const MOST_BYTES: usize = 1 << 20;

/// Moves due jobs, on a connection of its own. It also drops dead jobs that were kept long enough.
pub struct Due {
    keys: Vec<Keys>,
    kept_ms: u64,
    connection: Connection,
}

/// What [`Due::move_due`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Jobs of all keys that wait now.
    pub jobs: usize,
    /// When the next one is due, of any key; zero: at once, there were too many for one call. None: none is delayed.
    pub next_in: Option<Duration>,
}

impl Due {
    /// Connects when it is first needed.
    pub fn new(settings: &config::Queue) -> Self {
        Self {
            keys: settings.keys.iter().map(|key| Keys::new(key)).collect(),
            kept_ms: settings.retry.dead_for.map_or(0, milliseconds),
            connection: Connection::new(settings, Protocol::Resp2),
        }
    }

    /// Moves up to 100 due jobs of each key to its tail, in the order of their times.
    ///
    /// # Errors
    /// As the store answers; the same call goes on where it stopped.
    pub fn move_due(&mut self) -> Result<Moved, QueueError> {
        let mut all = Moved::default();
        let limits = [MOST_JOBS as u64, MOST_BYTES as u64, self.kept_ms];
        let limits = limits.map(|limit| limit.to_string());
        let limits = limits.each_ref().map(|limit| limit.as_bytes());
        for keys in &self.keys {
            let names = [&*keys.waiting, &*keys.delayed, &*keys.dead];
            let answer = self.connection.eval(&DUE, &names, &limits)?;
            let Value::Array(answer) = answer else {
                return Err(self.connection.nonsense("EVALSHA"));
            };
            let [Value::Int(jobs), Value::Int(due_in_ms)] = answer[..] else {
                return Err(self.connection.nonsense("EVALSHA"));
            };
            all.jobs += usize::try_from(jobs).unwrap_or(0);
            let next_in = u64::try_from(due_in_ms).ok().map(Duration::from_millis);
            all.next_in = all.next_in.into_iter().chain(next_in).min();
        }
        Ok(all)
    }

    /// Drops the connection; the next call makes a new one.
    pub fn disconnect(&mut self) {
        self.connection.close();
    }
}
