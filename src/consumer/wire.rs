//! The script protocol's frames: RESP arrays to the script, replies from it. Pure: bytes in, bytes out, no sockets.
//! Replies are bounded, and nested ones are skipped without recursion, since any program may be at the other end.

use std::time::Duration;

use super::Outcome;
use crate::queue::Job;

/// The longest reply or push, in bytes.
pub const MAX_REPLY: usize = 1 << 20;

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
}

/// The bytes are no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

/// Appends an array of strings.
pub fn request(items: &[&[u8]], out: &mut Vec<u8>) {
    head(b'*', items.len(), out);
    for item in items {
        bulk(item, out);
    }
}

/// Appends the run of a job.
pub fn run(job: &Job, out: &mut Vec<u8>) {
    let (id, attempt) = (job.id(), job.attempt().to_string());
    out.reserve(job.payload.len() + 128);
    request(
        &[
            b"run",
            &job.payload,
            id.as_bytes(),
            attempt.as_bytes(),
            job.key().as_bytes(),
        ],
        out,
    );
}

/// Appends a run without a job.
pub fn run_idle(out: &mut Vec<u8>) {
    out.extend_from_slice(b"*2\r\n$3\r\nrun\r\n$-1\r\n");
}

fn bulk(bytes: &[u8], out: &mut Vec<u8>) {
    head(b'$', bytes.len(), out);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

fn head(sign: u8, length: usize, out: &mut Vec<u8>) {
    use std::io::Write;
    out.push(sign);
    write!(out, "{length}\r\n").expect("a vector grows");
}

/// Reads the reply that `bytes` begin with, and its length; `None` when more bytes are needed.
///
/// # Errors
/// No reply begins like this, or it is longer than [`MAX_REPLY`].
pub fn reply(bytes: &[u8]) -> Result<Option<(Reply, usize)>, Invalid> {
    let Some(end) = end_of_value(bytes)? else {
        return match bytes.len() {
            ..=MAX_REPLY => Ok(None),
            _ => Err(Invalid(format!("a reply exceeds {MAX_REPLY} bytes"))),
        };
    };
    let frame = &bytes[..end];
    let reply = match frame {
        b":0\r\n" => Reply::Nothing,
        [b'-', text @ .., b'\r', b'\n'] => Reply::Error(String::from_utf8_lossy(text).into()),
        [b'!', ..] => Reply::Error(strings(frame).concat_lossy()),
        [b'>', ..] => log(strings(frame))?,
        _ => Reply::Ok,
    };
    Ok(Some((reply, end)))
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

fn log(strings: Strings<'_>) -> Result<Reply, Invalid> {
    match strings.0.as_slice() {
        [b"log", level, text] => Ok(Reply::Log {
            level: String::from_utf8_lossy(level).into(),
            text: text.to_vec(),
        }),
        _ => Err(Invalid("a push is no [\"log\", level, text]".into())),
    }
}

/// The strings of a complete frame, in order.
struct Strings<'a>(Vec<&'a [u8]>);

impl Strings<'_> {
    fn concat_lossy(&self) -> String {
        String::from_utf8_lossy(&self.0.concat()).into()
    }
}

fn strings(frame: &[u8]) -> Strings<'_> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Ok(Some(part)) = part(&frame[at..]) {
        if let Some(text) = part.text {
            found.push(&frame[at..][text]);
        }
        at += part.length;
    }
    Strings(found)
}

/// Where the value that `bytes` begin with ends.
fn end_of_value(bytes: &[u8]) -> Result<Option<usize>, Invalid> {
    let mut at = 0;
    let mut missing = 1;
    while missing > 0 {
        let Some(part) = part(&bytes[at..])? else {
            return Ok(None);
        };
        at += part.length;
        missing = missing - 1 + part.children;
    }
    Ok(Some(at))
}

/// A scalar, or the head of an aggregate.
struct Part {
    length: usize,
    text: Option<std::ops::Range<usize>>,
    children: usize,
}

fn part(bytes: &[u8]) -> Result<Option<Part>, Invalid> {
    let Some(sign) = bytes.first() else {
        return Ok(None);
    };
    if !b"+-:_,#($=!*~>%|".contains(sign) {
        return Err(Invalid(format!("no reply begins with byte 0x{sign:02x}")));
    }
    let Some(line) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
        return Ok(None);
    };
    let scalar = |length, text| Part {
        length,
        text,
        children: 0,
    };
    let body = line + 2;
    match sign {
        b'$' | b'=' | b'!' => match count(&bytes[1..line])? {
            None => Ok(Some(scalar(body, None))),
            Some(length) if bytes.len() < body + length + 2 => Ok(None),
            Some(length) if bytes[body + length..].starts_with(b"\r\n") => {
                Ok(Some(scalar(body + length + 2, Some(body..body + length))))
            }
            Some(_) => Err(Invalid("a string does not end where it says".into())),
        },
        b'*' | b'~' | b'>' => children(body, count(&bytes[1..line])?.unwrap_or(0)),
        b'%' => children(body, 2 * count(&bytes[1..line])?.unwrap_or(0)),
        // An attribute goes before the value it describes.
        b'|' => children(body, 2 * count(&bytes[1..line])?.unwrap_or(0) + 1),
        _ => Ok(Some(scalar(body, Some(1..line)))),
    }
}

fn children(length: usize, children: usize) -> Result<Option<Part>, Invalid> {
    Ok(Some(Part {
        length,
        text: None,
        children,
    }))
}

/// A length; `None` for -1, the null of RESP2.
fn count(digits: &[u8]) -> Result<Option<usize>, Invalid> {
    if digits == b"-1" {
        return Ok(None);
    }
    std::str::from_utf8(digits)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .filter(|length| *length <= MAX_REPLY)
        .map(Some)
        .ok_or_else(|| Invalid("a length is no number up to a mebibyte".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(bytes: &[u8]) -> Reply {
        let (reply, length) = reply(bytes).expect("valid").expect("complete");
        assert_eq!(length, bytes.len());
        reply
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
            "|1\r\n+ttl\r\n:3\r\n+OK\r\n",
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
    fn a_reply_in_pieces_is_awaited_at_every_split() {
        for bytes in [
            b">3\r\n$3\r\nlog\r\n$4\r\ninfo\r\n$5\r\nab\r\nc\r\n".as_slice(),
            b"*2\r\n*1\r\n:1\r\n+x\r\n",
            b"-RETRY 1 x\r\n",
        ] {
            for cut in 0..bytes.len() {
                assert_eq!(reply(&bytes[..cut]), Ok(None), "{cut} of {bytes:?}");
            }
            let mut followed = bytes.to_vec();
            followed.extend_from_slice(b"+OK\r\n");
            let (_, length) = reply(&followed).unwrap().unwrap();
            assert_eq!(length, bytes.len());
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for bytes in [
            "hello\r\n",
            "\r\n",
            "$x\r\n",
            "$-2\r\n",
            "$+1\r\na\r\n",
            "$1\r\nabc\r\n",
            "$99999999999\r\n",
            "*1048577\r\n",
            ">1\r\n+log\r\n",
            ">3\r\n+x\r\n+y\r\n+z\r\n",
        ] {
            assert!(reply(bytes.as_bytes()).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_reply_without_end_is_refused_when_it_is_too_long() {
        let mut endless = vec![b'+'];
        endless.resize(MAX_REPLY, b'x');
        assert_eq!(reply(&endless), Ok(None));
        endless.resize(MAX_REPLY + 1, b'x');
        assert!(reply(&endless).is_err());
        let nested = b"*1\r\n".repeat(MAX_REPLY / 4 + 1);
        assert!(reply(&nested).is_err(), "and takes no stack");
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
    }
}
