//! How many jobs lie where: the figures of `INFO`. A few round trips, whatever the number of workers.

use redis::{Cmd, Value, cmd};

use super::connection::{Connection, Protocol};
use super::error::QueueError;
use super::keys::Keys;
use crate::config;

/// Lengths asked for in one round trip.
const MOST_AT_ONCE: usize = 1000;

/// What one key looked like. The figures are not of one instant, but of a few milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Jobs waiting.
    pub waiting: u64,
    /// Jobs in the hands of workers, of all daemons.
    pub reserved: u64,
    /// Jobs that are not due yet.
    pub delayed: u64,
    /// Jobs that were buried.
    pub dead: u64,
    /// Jobs that have ever left the waiting list and not come back: those that ended, and those reserved. How fast it
    /// grows tells how old the oldest waiting job is.
    pub taken: u64,
}

/// Takes samples, on a connection of its own.
pub struct Sampler {
    keys: Vec<Keys>,
    connection: Connection,
}

impl Sampler {
    /// Connects when it is first needed.
    pub fn new(settings: &config::Queue) -> Self {
        Self {
            keys: settings.keys.iter().map(|key| Keys::new(key)).collect(),
            connection: Connection::new(settings, Protocol::Resp2),
        }
    }

    /// One sample per key, in their order.
    ///
    /// # Errors
    /// As the store answers; the next call connects anew.
    pub fn sample(&mut self) -> Result<Vec<Sample>, QueueError> {
        let mut samples = Vec::with_capacity(self.keys.len());
        for keys in &self.keys {
            samples.push(sample(&mut self.connection, keys)?);
        }
        Ok(samples)
    }
}

fn sample(connection: &mut Connection, keys: &Keys) -> Result<Sample, QueueError> {
    let ask = |name: &str, key: &str| -> Cmd {
        let mut ask = cmd(name);
        ask.arg(key);
        ask
    };
    let mut processed = ask("HGET", &keys.stats);
    processed.arg("processed");
    let answers = connection.call_all(&[
        ask("LLEN", &keys.waiting),
        ask("ZCARD", &keys.delayed),
        ask("ZCARD", &keys.dead),
        processed,
        ask("SMEMBERS", &keys.registry),
    ])?;
    for essential in [&answers[0], &answers[4]] {
        if let Value::ServerError(error) = essential {
            return Err(connection.refused(error));
        }
    }
    let [waiting, delayed, dead, processed] = [0, 1, 2, 3].map(|place| number(&answers[place]));
    let lists = answers.into_iter().last().expect("one answer per command");
    let lists = connection.byte_strings(lists, "SMEMBERS")?;
    let mut reserved = 0;
    for lists in lists.chunks(MOST_AT_ONCE) {
        let ask_length = |list: &Vec<u8>| {
            let mut length = cmd("LLEN");
            length.arg(list);
            length
        };
        let commands: Vec<Cmd> = lists.iter().map(ask_length).collect();
        let lengths = connection.call_all(&commands)?;
        // The first element of each is its token.
        reserved += lengths
            .iter()
            .map(|length| number(length).saturating_sub(1))
            .sum::<u64>();
    }
    Ok(Sample {
        waiting,
        reserved,
        delayed,
        dead,
        taken: processed + reserved,
    })
}

/// Figures stop nobody: what is no number counts as none.
fn number(answer: &Value) -> u64 {
    match answer {
        Value::Int(number) => u64::try_from(*number).unwrap_or(0),
        Value::BulkString(text) => std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0),
        _ => 0,
    }
}
