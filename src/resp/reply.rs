//! What a server answers: the kinds of RESP3, and how they are written for a client of either version.

use super::{encode_array, encode_bulk, encode_length, encode_null};
use std::borrow::Cow;

/// Which version of RESP a client understands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// What every connection begins with.
    #[default]
    Resp2,
    /// After `HELLO 3`.
    Resp3,
}

/// What stands in front of the text of a verbatim string: plain text.
const VERBATIM_KIND: &[u8] = b"txt:";

/// One reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// A status such as `OK`: one line.
    Simple(Cow<'static, str>),
    /// An error: one line that begins with its code, e.g. `ERR`.
    Error(Cow<'static, str>),
    /// A number.
    Integer(i64),
    /// Bytes.
    Bulk(Vec<u8>),
    /// Text to be shown as it stands, line breaks and all; in RESP2 a bulk string.
    Verbatim(String),
    /// Nothing.
    Null,
    /// A list.
    Array(Vec<Reply>),
    /// Keys and values; in RESP2 a list of them in turn.
    Map(Vec<(Reply, Reply)>),
    /// Elements without order; in RESP2 a list.
    Set(Vec<Reply>),
    /// Out of turn, not the answer to a command; in RESP2 a list.
    Push(Vec<Reply>),
    /// A number with a fraction; in RESP2 its text.
    Double(f64),
    /// Yes or no; in RESP2 1 or 0.
    Boolean(bool),
}

impl Reply {
    /// `+OK`.
    pub const OK: Reply = Reply::Simple(Cow::Borrowed("OK"));

    /// A status.
    pub fn simple(text: impl Into<Cow<'static, str>>) -> Self {
        Self::Simple(text.into())
    }

    /// An error; the text begins with its code.
    pub fn error(text: impl Into<Cow<'static, str>>) -> Self {
        Self::Error(text.into())
    }

    /// Bytes.
    pub fn bulk(bytes: impl Into<Vec<u8>>) -> Self {
        Self::Bulk(bytes.into())
    }

    /// Appends the reply as a client of this protocol reads it.
    pub fn encode(&self, out: &mut Vec<u8>, protocol: Protocol) {
        let resp3 = protocol == Protocol::Resp3;
        match self {
            Self::Simple(text) => encode_line(out, b'+', text),
            Self::Error(text) => encode_line(out, b'-', text),
            Self::Integer(number) => encode_line(out, b':', &number.to_string()),
            Self::Bulk(bytes) => encode_bulk(out, bytes),
            Self::Verbatim(text) if resp3 => {
                encode_length(out, b'=', VERBATIM_KIND.len() + text.len());
                out.extend_from_slice(VERBATIM_KIND);
                out.extend_from_slice(text.as_bytes());
                out.extend_from_slice(b"\r\n");
            }
            Self::Verbatim(text) => encode_bulk(out, text.as_bytes()),
            Self::Null if resp3 => out.extend_from_slice(b"_\r\n"),
            Self::Null => encode_null(out),
            Self::Array(items) => encode_items(out, b'*', items, protocol),
            Self::Set(items) if resp3 => encode_items(out, b'~', items, protocol),
            Self::Push(items) if resp3 => encode_items(out, b'>', items, protocol),
            Self::Set(items) | Self::Push(items) => encode_items(out, b'*', items, protocol),
            Self::Map(pairs) => {
                match protocol {
                    Protocol::Resp2 => encode_array(out, 2 * pairs.len()),
                    Protocol::Resp3 => encode_length(out, b'%', pairs.len()),
                }
                for (key, value) in pairs {
                    key.encode(out, protocol);
                    value.encode(out, protocol);
                }
            }
            Self::Double(number) if resp3 => encode_line(out, b',', &double(*number)),
            Self::Double(number) => encode_bulk(out, double(*number).as_bytes()),
            Self::Boolean(value) if resp3 => encode_line(out, b'#', if *value { "t" } else { "f" }),
            Self::Boolean(value) => encode_line(out, b':', if *value { "1" } else { "0" }),
        }
    }
}

/// A line break inside the text would end the reply early and let the rest pass for another one: it becomes a space.
fn encode_line(out: &mut Vec<u8>, kind: u8, text: &str) {
    out.push(kind);
    out.extend(text.bytes().map(|byte| match byte {
        b'\r' | b'\n' => b' ',
        other => other,
    }));
    out.extend_from_slice(b"\r\n");
}

fn encode_items(out: &mut Vec<u8>, kind: u8, items: &[Reply], protocol: Protocol) {
    encode_length(out, kind, items.len());
    for item in items {
        item.encode(out, protocol);
    }
}

/// Rust writes `inf` as RESP3 does, but `NaN`.
fn double(number: f64) -> String {
    number.to_string().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(reply: &Reply, protocol: Protocol) -> String {
        let mut out = Vec::new();
        reply.encode(&mut out, protocol);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn kinds_that_only_resp3_has_fall_back_in_resp2() {
        let one = || vec![Reply::Integer(1)];
        let cases = [
            (Reply::OK, "+OK\r\n", "+OK\r\n"),
            (Reply::error("ERR no"), "-ERR no\r\n", "-ERR no\r\n"),
            (
                Reply::Integer(i64::MIN),
                ":-9223372036854775808\r\n",
                ":-9223372036854775808\r\n",
            ),
            (
                Reply::bulk("a\r\nb"),
                "$4\r\na\r\nb\r\n",
                "$4\r\na\r\nb\r\n",
            ),
            (
                Reply::Verbatim("é\r\n".into()),
                "$4\r\né\r\n\r\n",
                "=8\r\ntxt:é\r\n\r\n",
            ),
            (Reply::bulk(""), "$0\r\n\r\n", "$0\r\n\r\n"),
            (Reply::Null, "$-1\r\n", "_\r\n"),
            (Reply::Array(vec![]), "*0\r\n", "*0\r\n"),
            (Reply::Set(one()), "*1\r\n:1\r\n", "~1\r\n:1\r\n"),
            (Reply::Push(one()), "*1\r\n:1\r\n", ">1\r\n:1\r\n"),
            (
                Reply::Map(vec![(Reply::bulk("k"), Reply::Null)]),
                "*2\r\n$1\r\nk\r\n$-1\r\n",
                "%1\r\n$1\r\nk\r\n_\r\n",
            ),
            (Reply::Double(1.5), "$3\r\n1.5\r\n", ",1.5\r\n"),
            (
                Reply::Double(f64::NEG_INFINITY),
                "$4\r\n-inf\r\n",
                ",-inf\r\n",
            ),
            (Reply::Double(f64::NAN), "$3\r\nnan\r\n", ",nan\r\n"),
            (Reply::Boolean(true), ":1\r\n", "#t\r\n"),
            (Reply::Boolean(false), ":0\r\n", "#f\r\n"),
        ];
        for (reply, resp2, resp3) in cases {
            assert_eq!(encoded(&reply, Protocol::Resp2), resp2);
            assert_eq!(encoded(&reply, Protocol::Resp3), resp3);
        }
    }

    #[test]
    fn a_line_break_in_an_error_cannot_forge_a_second_reply() {
        let reply = Reply::error("ERR unknown command 'a\r\n+OK\r\n'");
        assert_eq!(
            encoded(&reply, Protocol::Resp2),
            "-ERR unknown command 'a  +OK  '\r\n"
        );
    }
}
