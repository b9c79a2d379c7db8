//! Reads replies of both versions of RESP, nested ones included, without recursion. Used by the CLI, and by the worker for
//! what a script answers, half a million times a second: replies are cut out of one buffer that is read into directly.

use super::buffer::Buffer;
use super::{Reply, parse_length};
use std::borrow::Cow;

/// How deep replies may be nested.
pub const MAX_DEPTH: usize = 32;

/// Room made for the elements of an array before they arrive; what its length claims is not believed.
const MAX_RESERVED_ELEMENTS: usize = 64;

/// Why bytes are no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No reply begins with this byte.
    #[error("not a reply: unexpected byte '{}'", .0.escape_ascii())]
    Kind(u8),
    /// A number, a length or a line end is wrong.
    #[error("not a reply: malformed line or length")]
    Malformed,
    /// Longer than the caller allows.
    #[error("reply too large")]
    TooLarge,
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("reply nested too deeply")]
    TooDeep,
}

/// Turns bytes into replies.
///
/// After an error the stream's meaning is lost: the connection has to be closed.
#[derive(Debug)]
pub struct ReplyDecoder {
    buffer: Buffer,
    /// Bytes that one reply may have as it is sent.
    max_reply_bytes: usize,
    /// Bytes of the reply in hand that are consumed already.
    consumed: usize,
    /// The bulk string whose length was read.
    bulk: Option<Bulk>,
    /// Aggregates that are not complete, the outermost first.
    open: Vec<Aggregate>,
}

#[derive(Clone, Copy, Debug)]
struct Bulk {
    length: usize,
    kind: u8,
}

/// An array, map, set or push of which so many elements are missing.
#[derive(Debug)]
struct Aggregate {
    kind: u8,
    missing: usize,
    items: Vec<Reply>,
}

/// What one step of decoding found.
enum Step {
    Incomplete,
    /// An aggregate or a bulk string was opened.
    Opened,
    Value(Reply),
}

impl ReplyDecoder {
    /// A decoder at the start of a stream, for replies of at most so many bytes.
    pub fn new(max_reply_bytes: usize) -> Self {
        Self {
            buffer: Buffer::default(),
            max_reply_bytes,
            consumed: 0,
            bulk: None,
            open: Vec::new(),
        }
    }

    /// Takes bytes that arrived.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.feed(bytes);
    }

    /// Room for at least `min` bytes, to read into; tell [`ReplyDecoder::filled`] how many came. Call
    /// [`ReplyDecoder::next_reply`] until it has no more before asking again: only that bounds what is kept.
    pub fn space(&mut self, min: usize) -> &mut [u8] {
        self.buffer.space(min)
    }

    /// So many bytes were written to the front of the last [`ReplyDecoder::space`].
    ///
    /// # Panics
    ///
    /// When that is more than there was room for.
    pub fn filled(&mut self, count: usize) {
        self.buffer.filled(count);
    }

    /// The next whole reply; none: more bytes are needed.
    ///
    /// # Errors
    ///
    /// The bytes are no reply, or too large a one.
    pub fn next_reply(&mut self) -> Result<Option<Reply>, DecodeError> {
        loop {
            match self.step()? {
                Step::Incomplete => return Ok(None),
                Step::Opened => {}
                Step::Value(value) => {
                    if let Some(reply) = self.place(value) {
                        self.consumed = 0;
                        return Ok(Some(reply));
                    }
                }
            }
        }
    }

    fn step(&mut self) -> Result<Step, DecodeError> {
        if let Some(bulk) = self.bulk {
            return self.finish_bulk(bulk);
        }
        let Some(&kind) = self.buffer.unread().first() else {
            return Ok(Step::Incomplete);
        };
        if !b"+-:$*_#,%>~=!".contains(&kind) {
            return Err(DecodeError::Kind(kind));
        }
        let left = self.max_reply_bytes - self.consumed;
        let Some(line_feed) = self.buffer.find_line_feed() else {
            return match self.buffer.unread().len() < left {
                true => Ok(Step::Incomplete),
                false => Err(DecodeError::TooLarge),
            };
        };
        let end = line_feed + 1;
        if end > left {
            return Err(DecodeError::TooLarge);
        }
        let line = self.buffer.unread()[1..end]
            .strip_suffix(b"\r\n")
            .ok_or(DecodeError::Malformed)?;
        let step = match kind {
            b'$' | b'=' | b'!' if line != b"-1" => {
                let length = parse_length(line).ok_or(DecodeError::Malformed)?;
                self.bulk = Some(Bulk { length, kind });
                Step::Opened
            }
            b'*' | b'%' | b'~' | b'>' if line != b"-1" => {
                let length = parse_length(line).ok_or(DecodeError::Malformed)?;
                self.open_aggregate(kind, length, left - end)?
            }
            _ => Step::Value(scalar(kind, line)?),
        };
        self.advance(end);
        Ok(step)
    }

    fn open_aggregate(
        &mut self,
        kind: u8,
        length: usize,
        left: usize,
    ) -> Result<Step, DecodeError> {
        let elements = if kind == b'%' { 2 } else { 1 };
        let missing = length.checked_mul(elements).ok_or(DecodeError::TooLarge)?;
        if missing == 0 {
            return Ok(Step::Value(aggregate(kind, Vec::new())));
        }
        // The shortest element, `_\r\n`, has three bytes.
        if missing > left / 3 {
            return Err(DecodeError::TooLarge);
        }
        if self.open.len() == MAX_DEPTH {
            return Err(DecodeError::TooDeep);
        }
        let items = Vec::with_capacity(missing.min(MAX_RESERVED_ELEMENTS));
        self.open.push(Aggregate {
            kind,
            missing,
            items,
        });
        Ok(Step::Opened)
    }

    fn finish_bulk(&mut self, Bulk { length, kind }: Bulk) -> Result<Step, DecodeError> {
        let end = length.checked_add(2).ok_or(DecodeError::TooLarge)?;
        if end > self.max_reply_bytes - self.consumed {
            return Err(DecodeError::TooLarge);
        }
        let Some(bytes) = self.buffer.unread().get(..end) else {
            return Ok(Step::Incomplete);
        };
        let (bytes, terminator) = bytes.split_at(length);
        if terminator != b"\r\n" {
            return Err(DecodeError::Malformed);
        }
        let value = match kind {
            b'!' => Reply::Error(text(bytes)),
            // A verbatim string begins with its format: `txt:`.
            b'=' => Reply::Bulk(bytes.get(4..).ok_or(DecodeError::Malformed)?.to_vec()),
            _ => Reply::Bulk(bytes.to_vec()),
        };
        self.bulk = None;
        self.advance(end);
        Ok(Step::Value(value))
    }

    /// Puts a value where it belongs, and returns the whole reply if that completed it.
    fn place(&mut self, mut value: Reply) -> Option<Reply> {
        while let Some(innermost) = self.open.last_mut() {
            innermost.items.push(value);
            innermost.missing -= 1;
            if innermost.missing > 0 {
                return None;
            }
            let complete = self.open.pop()?;
            value = aggregate(complete.kind, complete.items);
        }
        Some(value)
    }

    fn advance(&mut self, count: usize) {
        self.buffer.consume(count);
        self.consumed += count;
    }
}

/// A reply that is one line.
fn scalar(kind: u8, line: &[u8]) -> Result<Reply, DecodeError> {
    match (kind, line) {
        // By far the most frequent reply: without an allocation.
        (b'+', b"OK") => Ok(Reply::OK),
        (b'+', _) => Ok(Reply::Simple(text(line))),
        (b'-', _) => Ok(Reply::Error(text(line))),
        (b':', _) => number(line).map(Reply::Integer),
        (b',', _) => number(line).map(Reply::Double),
        (b'#', b"t") => Ok(Reply::Boolean(true)),
        (b'#', b"f") => Ok(Reply::Boolean(false)),
        (b'_', b"") | (b'$' | b'*', b"-1") => Ok(Reply::Null),
        _ => Err(DecodeError::Malformed),
    }
}

fn aggregate(kind: u8, items: Vec<Reply>) -> Reply {
    match kind {
        b'%' => Reply::Map(pairs(items)),
        b'~' => Reply::Set(items),
        b'>' => Reply::Push(items),
        _ => Reply::Array(items),
    }
}

fn pairs(items: Vec<Reply>) -> Vec<(Reply, Reply)> {
    let mut pairs = Vec::with_capacity(items.len() / 2);
    let mut items = items.into_iter();
    while let (Some(key), Some(value)) = (items.next(), items.next()) {
        pairs.push((key, value));
    }
    pairs
}

fn text(bytes: &[u8]) -> Cow<'static, str> {
    match bytes {
        b"" => Cow::Borrowed(""),
        _ => Cow::Owned(String::from_utf8_lossy(bytes).into_owned()),
    }
}

fn number<T: std::str::FromStr>(line: &[u8]) -> Result<T, DecodeError> {
    std::str::from_utf8(line)
        .ok()
        .and_then(|line| line.parse().ok())
        .ok_or(DecodeError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::Protocol;

    type Decoded = (Vec<Reply>, Option<DecodeError>);

    fn decode(limit: usize, bytes: &[u8], size: usize) -> Decoded {
        let mut decoder = ReplyDecoder::new(limit);
        let mut replies = Vec::new();
        for piece in bytes.chunks(size) {
            decoder.space(piece.len())[..piece.len()].copy_from_slice(piece);
            decoder.filled(piece.len());
            loop {
                match decoder.next_reply() {
                    Ok(Some(reply)) => replies.push(reply),
                    Ok(None) => break,
                    Err(error) => return (replies, Some(error)),
                }
            }
        }
        (replies, None)
    }

    /// The outcome, which must not depend on the pieces.
    fn outcome(limit: usize, bytes: &[u8]) -> Decoded {
        let whole = decode(limit, bytes, bytes.len().max(1));
        assert_eq!(whole, decode(limit, bytes, 1), "{}", bytes.escape_ascii());
        whole
    }

    fn all_kinds() -> Vec<Reply> {
        vec![
            Reply::OK,
            Reply::simple(""),
            Reply::error("ERR nö"),
            Reply::Integer(-42),
            Reply::bulk("a\r\n$1\r\nb"),
            Reply::bulk(""),
            Reply::Null,
            Reply::Array(vec![]),
            Reply::Array(vec![
                Reply::Array(vec![Reply::Integer(1), Reply::Null]),
                Reply::bulk("x"),
            ]),
            Reply::Map(vec![
                (Reply::bulk("k"), Reply::Set(vec![Reply::Boolean(true)])),
                (Reply::Map(vec![]), Reply::Double(1.5)),
            ]),
            Reply::Push(vec![
                Reply::bulk("log"),
                Reply::bulk("info"),
                Reply::bulk("text"),
            ]),
            Reply::Boolean(false),
            Reply::Double(f64::INFINITY),
        ]
    }

    #[test]
    fn what_is_encoded_is_decoded_wherever_the_stream_is_cut() {
        let mut stream = Vec::new();
        for reply in all_kinds() {
            reply.encode(&mut stream, Protocol::Resp3);
        }
        for size in 1..=stream.len() {
            assert_eq!(
                decode(1000, &stream, size),
                (all_kinds(), None),
                "pieces of {size}"
            );
        }
    }

    #[test]
    fn a_truncated_reply_is_waited_for() {
        for reply in all_kinds() {
            let mut bytes = Vec::new();
            reply.encode(&mut bytes, Protocol::Resp3);
            for cut in 0..bytes.len() {
                assert_eq!(outcome(1000, &bytes[..cut]), (vec![], None));
            }
        }
    }

    #[test]
    fn nulls_verbatim_strings_and_long_errors_are_understood() {
        let cases: &[(&[u8], Reply)] = &[
            (b"$-1\r\n", Reply::Null),
            (b"*-1\r\n", Reply::Null),
            (b"_\r\n", Reply::Null),
            (b"=8\r\ntxt:text\r\n", Reply::bulk("text")),
            (b"!8\r\nERR a\r\nb\r\n", Reply::error("ERR a\r\nb")),
            (b"-\xff\r\n", Reply::error("\u{fffd}")),
        ];
        for (bytes, reply) in cases {
            assert_eq!(outcome(100, bytes), (vec![reply.clone()], None));
        }
    }

    #[test]
    fn garbage_is_refused() {
        use DecodeError::*;
        let cases: &[(&[u8], DecodeError)] = &[
            (b"hello", Kind(b'h')),
            (b"\r\n", Kind(b'\r')),
            (b"+OK\n", Malformed),
            (b":\r\n", Malformed),
            (b":1x\r\n", Malformed),
            (b":9223372036854775808\r\n", Malformed),
            (b"#x\r\n", Malformed),
            (b"_x\r\n", Malformed),
            (b"$-2\r\n", Malformed),
            (b"%-1\r\n", Malformed),
            (b"$+1\r\n", Malformed),
            (b"$1\r\nab\r\n", Malformed),
            (b"=2\r\nab\r\n", Malformed),
            (b"*1\r\n$x\r\n", Malformed),
        ];
        for (bytes, error) in cases {
            assert_eq!(
                outcome(100, bytes),
                (vec![], Some(*error)),
                "{}",
                bytes.escape_ascii()
            );
        }
    }

    #[test]
    fn a_reply_may_reach_its_limit_but_not_pass_it() {
        let too_large = (vec![], Some(DecodeError::TooLarge));
        assert_eq!(outcome(10, b"+1234567\r\n").0.len(), 1);
        assert_eq!(outcome(10, b"+12345678\r\n"), too_large);
        assert_eq!(outcome(10, b"+12345678"), (vec![], None));
        assert_eq!(outcome(10, b"+123456789"), too_large);
        assert_eq!(outcome(10, b"$4\r\nabcd\r\n").0.len(), 1);
        assert_eq!(outcome(10, b"$5\r\n"), too_large);
        assert_eq!(outcome(10, b"*2\r\n_\r\n_\r\n").0.len(), 1);
        assert_eq!(outcome(10, b"*3\r\n"), too_large);
        assert_eq!(outcome(10, b"*2\r\n_\r\n:1\r\n"), too_large);
        for claimed in [
            b"$18446744073709551615\r\n",
            b"*18446744073709551615\r\n",
            b"%18446744073709551615\r\n",
        ] {
            assert_eq!(outcome(1 << 20, claimed), too_large);
        }
        // Each reply has a budget of its own.
        assert_eq!(outcome(10, &b"+1234567\r\n".repeat(3)).0.len(), 3);
    }

    #[test]
    fn deep_nesting_is_refused_and_uses_no_stack() {
        let nested = |depth: usize| [b"*1\r\n".repeat(depth), b"_\r\n".to_vec()].concat();
        assert_eq!(outcome(1 << 20, &nested(MAX_DEPTH)).0.len(), 1);
        let too_deep = (vec![], Some(DecodeError::TooDeep));
        assert_eq!(outcome(1 << 20, &nested(MAX_DEPTH + 1)), too_deep);
        assert_eq!(outcome(1 << 20, &nested(100_000)), too_deep);
    }

    #[test]
    fn random_bytes_never_panic_and_never_depend_on_the_pieces() {
        let alphabet = b"+-:$*_#,%>~=!0123\r\n\r\n\r\n\r\ntf\xff";
        let mut seed = 0xdec0de_u64;
        let mut random = move || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize
        };
        for _ in 0..20_000 {
            let stream: Vec<u8> = (0..random() % 60)
                .map(|_| alphabet[random() % alphabet.len()])
                .collect();
            outcome(40, &stream);
        }
    }
}
