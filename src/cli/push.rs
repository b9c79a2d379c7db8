//! `stark push`: jobs from the command line or from stdin to the tail of the queue.

use std::ffi::OsString;
use std::io::BufRead;
use std::os::unix::ffi::OsStrExt;

use serde_json::json;

use super::answer::Answer;
use crate::config::{self, Config};
use crate::daemon::{Failure, status};
use crate::queue;

/// Jobs that go in one command.
const BATCH_JOBS: usize = 500;
/// Bytes after which a command is sent, whatever the number of jobs.
const BATCH_BYTES: usize = 1 << 20;

/// Pushes; prints how many jobs went.
pub fn push(config: &Config, key: Option<&str>, payloads: &[OsString]) -> Result<Answer, Failure> {
    let Some(settings) = config.pools.iter().find_map(|pool| pool.queue.as_ref()) else {
        return Err(Failure::new(
            status::FAILED,
            "cannot push: the settings have no queue",
        ));
    };
    let mut settings = settings.clone();
    if let Some(key) = key {
        settings.keys = vec![key.to_string()];
    }
    let mut tail = Tail::open(&settings);
    for payload in payloads {
        if payload == "-" {
            for line in std::io::stdin().lock().split(b'\n') {
                tail.add(line.map_err(|err| {
                    Failure::new(status::FAILED, format!("cannot read stdin: {err}"))
                })?)?;
            }
        } else {
            tail.add(payload.as_bytes().to_vec())?;
        }
    }
    tail.flush()?;
    let (pushed, key) = (tail.pushed, &settings.keys[0]);
    let json = json!({ "pushed": pushed, "key": key });
    Ok(Answer::new(format!("{pushed} pushed\n"), json))
}

/// Collects jobs into commands.
struct Tail {
    producer: queue::Producer,
    batch: Vec<Vec<u8>>,
    bytes: usize,
    pushed: usize,
}

impl Tail {
    fn open(settings: &config::Queue) -> Self {
        Self {
            producer: queue::Producer::new(settings),
            batch: Vec::new(),
            bytes: 0,
            pushed: 0,
        }
    }

    fn add(&mut self, payload: Vec<u8>) -> Result<(), Failure> {
        self.bytes += payload.len();
        self.batch.push(payload);
        if self.batch.len() >= BATCH_JOBS || self.bytes >= BATCH_BYTES {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.producer.push(&self.batch).map_err(|err| {
            let message = format!("cannot push after {} jobs: {err}", self.pushed);
            Failure::new(status::FAILED, message)
        })?;
        self.pushed += self.batch.len();
        self.batch.clear();
        self.bytes = 0;
        Ok(())
    }
}
