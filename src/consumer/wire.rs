//! The script protocol: how runs are written, and what replies mean. Pure: no sockets. RESP itself, within bounds, is
//! the affair of `resp`.

use std::time::Duration;

use super::Outcome;
use crate::queue::Job;
use crate::resp::{self, DecodeError};

/// The longest reply or push, in bytes.
pub const MAX_REPLY_BYTES: usize = 1 << 20;

/// Longest delay that a script may ask for: a year.
const MAX_RETRY: Duration = Duration::from_secs(365 * 24 * 3600);

/// What a script says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `:0`: there was nothing to do.
    Nothing,
    /// Any other reply that is no error.
    Ok,
    /// An error, without its sign.
    Error(String),
    /// A line for the log, before the reply proper.
    Log {
        /// As the script names it.
        level: String,
        /// Raw bytes, perhaps several lines.
        text: Vec<u8>,
    },
    /// How much memory the script's own count says that it has, in bytes, before the reply proper: near its limit.
    Memory(u64),
}

/// A script said what is no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

impl From<DecodeError> for Invalid {
    fn from(error: DecodeError) -> Self {
        Self(error.to_string())
    }
}

/// Appends the run of a job.
pub fn run(job: &Job, out: &mut Vec<u8>) {
    let (id, attempt) = (job.id(), job.attempt().to_string());
    out.reserve(job.payload.len() + 128);
    resp::encode_command(
        out,
        &[
            b"run",
            &job.payload,
            id.as_bytes(),
            attempt.as_bytes(),
            job.key().as_bytes(),
        ],
    );
}

/// Appends a run without a job.
pub fn run_idle(out: &mut Vec<u8>) {
    resp::encode_array(out, 2);
    resp::encode_bulk(out, b"run");
    resp::encode_null(out);
}

impl TryFrom<resp::Reply> for Reply {
    type Error = Invalid;

    fn try_from(reply: resp::Reply) -> Result<Self, Invalid> {
        match reply {
            resp::Reply::Integer(0) => Ok(Self::Nothing),
            resp::Reply::Error(words) => Ok(Self::Error(words.into_owned())),
            resp::Reply::Push(items) => push(items),
            _ => Ok(Self::Ok),
        }
    }
}

fn push(items: Vec<resp::Reply>) -> Result<Reply, Invalid> {
    let items: Option<Vec<Vec<u8>>> = items.into_iter().map(string).collect();
    let items = items.unwrap_or_default();
    let items: Vec<&[u8]> = items.iter().map(Vec::as_slice).collect();
    match items[..] {
        [b"log", level, text] => Ok(Reply::Log {
            level: String::from_utf8_lossy(level).into(),
            text: text.to_vec(),
        }),
        [b"memory", bytes] => {
            let bytes = std::str::from_utf8(bytes)
                .ok()
                .and_then(|text| text.parse().ok());
            bytes
                .map(Reply::Memory)
                .ok_or_else(|| Invalid("a push of memory has no number".into()))
        }
        _ => Err(Invalid(
            "a push is neither [\"log\", level, text] nor [\"memory\", bytes]".into(),
        )),
    }
}

fn string(reply: resp::Reply) -> Option<Vec<u8>> {
    match reply {
        resp::Reply::Bulk(bytes) => Some(bytes),
        resp::Reply::Simple(text) => Some(text.into_owned().into_bytes()),
        _ => None,
    }
}

/// What an error reply to a run means.
pub fn outcome(error: &str) -> Outcome {
    let (word, rest) = error.split_once(' ').unwrap_or((error, ""));
    match word {
        "FAIL" => Outcome::Failed(rest.into()),
        "BURY" => Outcome::Bury(rest.into()),
        "RETRY" => retry(rest).unwrap_or_else(|| Outcome::Failed(error.into())),
        _ => Outcome::Failed(error.into()),
    }
}

fn retry(rest: &str) -> Option<Outcome> {
    let (seconds, reason) = rest.split_once(' ').unwrap_or((rest, ""));
    let after = Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?;
    Some(Outcome::Retry {
        after: after.min(MAX_RETRY),
        reason: reason.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::ReplyDecoder;

    fn understood(bytes: &[u8]) -> Result<Reply, Invalid> {
        let mut decoder = ReplyDecoder::new(MAX_REPLY_BYTES);
        decoder.feed(bytes);
        decoder.next_reply()?.expect("complete").try_into()
    }

    fn whole(bytes: &[u8]) -> Reply {
        understood(bytes).expect("valid")
    }

    #[test]
    fn every_reply_that_is_no_error_means_done() {
        for bytes in [
            "+OK\r\n",
            "+\r\n",
            ":1\r\n",
            "_\r\n",
            "#f\r\n",
            ",1.5\r\n",
            "$-1\r\n",
            "*-1\r\n",
            "$0\r\n\r\n",
            "$4\r\na\r\nb\r\n",
            "*0\r\n",
            "*2\r\n*1\r\n:1\r\n+x\r\n",
            "%1\r\n+a\r\n*1\r\n$1\r\nx\r\n",
        ] {
            assert_eq!(whole(bytes.as_bytes()), Reply::Ok, "{bytes:?}");
        }
        assert_eq!(whole(b":0\r\n"), Reply::Nothing);
    }

    #[test]
    fn errors_and_log_lines_keep_their_text() {
        assert_eq!(whole(b"-FAIL no\r\n"), Reply::Error("FAIL no".into()));
        assert_eq!(
            whole(b"!7\r\nFAIL\r\n!\r\n"),
            Reply::Error("FAIL\r\n!".into())
        );
        assert_eq!(
            whole(b">3\r\n$3\r\nlog\r\n+info\r\n$3\r\na\xffb\r\n"),
            Reply::Log {
                level: "info".into(),
                text: b"a\xffb".to_vec()
            }
        );
    }

    #[test]
    fn a_script_may_tell_of_its_memory() {
        let told = whole(b">2\r\n$6\r\nmemory\r\n$4\r\n4096\r\n");
        assert_eq!(told, Reply::Memory(4096));
        assert!(understood(b">2\r\n$6\r\nmemory\r\n$1\r\nx\r\n").is_err());
    }

    #[test]
    fn what_is_no_reply_and_what_is_no_line_for_the_log_is_refused() {
        for bytes in [
            "hello\r\n",
            "$1\r\nabc\r\n",
            ">0\r\n",
            ">1\r\n+log\r\n",
            ">3\r\n+x\r\n+y\r\n+z\r\n",
            ">3\r\n+log\r\n+info\r\n:1\r\n",
            ">4\r\n+log\r\n+info\r\n+x\r\n+y\r\n",
        ] {
            assert!(understood(bytes.as_bytes()).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn errors_name_the_outcome() {
        assert_eq!(outcome("FAIL a b"), Outcome::Failed("a b".into()));
        assert_eq!(outcome("ERR a b"), Outcome::Failed("ERR a b".into()));
        assert_eq!(outcome("BURY it is bad"), Outcome::Bury("it is bad".into()));
        assert_eq!(
            outcome("RETRY 1.5 busy now"),
            Outcome::Retry {
                after: Duration::from_millis(1500),
                reason: "busy now".into()
            }
        );
        for odd in ["RETRY", "RETRY soon", "RETRY -1 x", "RETRY NaN x"] {
            assert_eq!(outcome(odd), Outcome::Failed(odd.into()));
        }
        assert_eq!(
            outcome("RETRY 1e18 x"),
            Outcome::Retry {
                after: MAX_RETRY,
                reason: "x".into()
            }
        );
    }

    #[test]
    fn requests_are_arrays_of_strings() {
        let job = Job::by_hand("q", b"\0\r\n".to_vec());
        let mut out = Vec::new();
        run(&job, &mut out);
        let expected = format!(
            "*5\r\n$3\r\nrun\r\n$3\r\n\0\r\n\r\n${}\r\n{}\r\n$1\r\n{}\r\n${}\r\n{}\r\n",
            job.id().len(),
            job.id(),
            job.attempt(),
            job.key().len(),
            job.key()
        );
        assert_eq!(String::from_utf8_lossy(&out), expected);
        let mut out = Vec::new();
        run_idle(&mut out);
        assert_eq!(out, b"*2\r\n$3\r\nrun\r\n$-1\r\n");
    }
}
