//! Giving back the tail of a reservation while its first jobs go on. The length of the reserved list tells whether it
//! was done: with one token it only ever shrinks, so any number of late or repeated commands give each job back once.

use redis::Value;

use super::connection::{Connection, Protocol};
use super::error::QueueError;
use super::job::Extent;
use super::reclaim::{MOST_LOOKS, changing};
use super::script::GIVEBACK;
use super::token::Token;
use crate::config;

/// Gives back tails from another thread than the one that works on the reservation, on a connection of its own.
pub struct Tail {
    connection: Connection,
    /// Waiting and reserved of each key.
    lists: Vec<(String, String)>,
}

impl Tail {
    /// Connects when it is first needed.
    pub(super) fn new(settings: &config::Queue, lists: Vec<(String, String)>) -> Self {
        Self {
            connection: Connection::new(settings, Protocol::Resp2),
            lists,
        }
    }

    /// Gives back the last `count` jobs of the reservation, none of which may ever be begun, also after an error. The
    /// worker's own thread then tells its [`Queue`](super::Queue): `given_back` if this succeeded, `give_up` if not or
    /// if it does not know.
    ///
    /// # Errors
    /// [`QueueError::Lost`] if it is no more this worker's. After any other the same call finds out how it went.
    pub fn give_back(&mut self, extent: Extent, count: usize) -> Result<(), QueueError> {
        let Extent {
            token,
            key_index,
            jobs,
        } = extent;
        let (waiting, reserved) = &self.lists[key_index];
        let names = (waiting.as_str(), reserved.as_str());
        let left = jobs.saturating_sub(count);
        shorten(&mut self.connection, names, &token, jobs, left)
    }

    /// Drops the connection; the next call makes a new one.
    pub fn disconnect(&mut self) {
        self.connection.close();
    }
}

/// Gives back from the end of the list until `left` jobs are in it; it holds `jobs`, or fewer if this was tried before.
/// `names` are those of the waiting and the reserved list.
pub(super) fn shorten(
    connection: &mut Connection,
    (waiting, reserved): (&str, &str),
    token: &Token,
    mut jobs: usize,
    left: usize,
) -> Result<(), QueueError> {
    let first = token.to_string();
    for _ in 0..MOST_LOOKS {
        if jobs == left {
            return Ok(());
        }
        let figures = [1 + jobs, jobs - left].map(|figure| figure.to_string());
        let arguments = [&first, &figures[0], &figures[1]].map(|text| text.as_bytes());
        if connection.eval(&GIVEBACK, &[waiting, reserved], &arguments)? != Value::Nil {
            return Ok(());
        }
        // It was done before, or partly so, or the list is no more ours.
        let found = connection.first_element(reserved)?;
        let length = connection.length(reserved)?;
        if found.as_deref() != Some(first.as_bytes()) || length <= left {
            return Err(QueueError::Lost);
        }
        jobs = length - 1;
    }
    Err(changing(reserved))
}
