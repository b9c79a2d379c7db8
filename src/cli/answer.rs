//! What a command says at its end, in words for people and as one JSON object for programs, and the way both take to
//! stdout and stderr.

use std::fmt;
use std::io::{self, Write};

use serde_json::{Value, json};

use crate::daemon::{Failure, status};

/// How answers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Words.
    Text,
    /// One object in one line.
    Json,
}

/// The end of a command that succeeded.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The exit status.
    pub status: u8,
    /// Line ends included; empty: nothing is said.
    pub text: Vec<u8>,
    /// An object; null: nothing is said.
    pub json: Value,
}

impl Answer {
    /// With status 0.
    pub fn new(text: impl Into<Vec<u8>>, json: Value) -> Self {
        let text = text.into();
        Self {
            status: 0,
            text,
            json,
        }
    }

    /// Nothing is left to say.
    pub fn silent(status: u8) -> Self {
        let (text, json) = (Vec::new(), Value::Null);
        Self { status, text, json }
    }

    /// To stdout.
    ///
    /// # Errors
    /// 1 when stdout does not take it.
    pub fn print(&self, format: Format) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        printed(match (format, &self.json) {
            (Format::Text, _) => out.write_all(&self.text),
            (Format::Json, Value::Null) => Ok(()),
            (Format::Json, json) => writeln!(out, "{json}"),
        })
    }
}

/// Tells why a command failed: to stderr a line per mistake, to stdout as `{"error": ...}`.
pub fn complain(failure: &Failure, format: Format) {
    match format {
        Format::Text => failure.message.lines().for_each(warn),
        Format::Json => {
            let _ = writeln!(io::stdout(), "{}", json!({ "error": failure.message }));
        }
    }
}

/// To stdout.
///
/// # Errors
/// As [`Answer::print`].
pub fn print(text: fmt::Arguments<'_>) -> Result<(), Failure> {
    printed(io::stdout().write_fmt(text))
}

/// Who reads no further (`| head -1`) has what it wanted.
fn printed(result: io::Result<()>) -> Result<(), Failure> {
    match result.and_then(|()| io::stdout().flush()) {
        Err(err) if err.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(
            status::FAILED,
            format!("cannot print the reply: {err}"),
        )),
        _ => Ok(()),
    }
}

/// A line to stderr, for whoever still reads it.
pub fn warn(text: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "stark: {text}");
}
