//! Reads commands: arrays of bulk strings, and inline commands. Incremental: the decoder remembers where it stands inside
//! a command, so a client that sends single bytes costs as little as one that sends all at once.
//!
//! Stricter than Redis where Redis trusts: lengths are digits only, every CRLF is checked, each size has a bound.

use super::buffer::Buffer;
use super::{inline, parse_length};

/// Bounds of one command, all inclusive.
#[derive(Clone, Copy, Debug)]
pub struct CommandLimits {
    /// Bytes of a line that holds a count or a length, with its CRLF.
    pub line: usize,
    /// Bytes of an inline command, with its line end.
    pub inline: usize,
    /// Arguments, the command's name included.
    pub args: usize,
    /// Bytes of one argument.
    pub bulk: usize,
    /// Bytes of a whole command as it is sent.
    pub command: usize,
}

/// Why bytes are no command. The text is what Redis answers before it closes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The line with the number of arguments does not end.
    #[error("Protocol error: too big mbulk count string")]
    CountLine,
    /// Not a number, or more arguments than allowed.
    #[error("Protocol error: invalid multibulk length")]
    Count,
    /// The line with an argument's length does not end.
    #[error("Protocol error: too big bulk count string")]
    LengthLine,
    /// Not a number, or longer than allowed.
    #[error("Protocol error: invalid bulk length")]
    Length,
    /// Something else stands where this byte has to.
    #[error("Protocol error: expected '{}', got '{}'", .0.escape_ascii(), .1.escape_ascii())]
    Expected(u8, u8),
    /// An argument is longer or shorter than its length says.
    #[error("Protocol error: expected CRLF after bulk string")]
    Terminator,
    /// The quotes of an inline command do not match.
    #[error("Protocol error: unbalanced quotes in request")]
    Quotes,
    /// An inline command does not end, or has too many words.
    #[error("Protocol error: too big inline request")]
    Inline,
    /// The arguments are too much together.
    #[error("Protocol error: too big request")]
    Command,
    /// A browser speaks. It must not be able to steer, so it gets no answer.
    #[error("Protocol error: HTTP request")]
    Http,
}

/// Turns bytes into commands.
///
/// After an error the stream's meaning is lost: the connection has to be closed.
#[derive(Debug)]
pub struct CommandDecoder {
    limits: CommandLimits,
    buffer: Buffer,
    state: State,
    args: Vec<Vec<u8>>,
    /// Bytes of the command in hand that are consumed already.
    consumed: usize,
}

/// What has to come next.
#[derive(Clone, Copy, Debug)]
enum State {
    /// A command.
    Start,
    /// The length of an argument, with so many arguments to come.
    Length { missing: usize },
    /// An argument of so many bytes.
    Bulk { missing: usize, length: usize },
}

impl CommandDecoder {
    /// A decoder at the start of a stream.
    pub fn new(limits: CommandLimits) -> Self {
        Self {
            limits,
            buffer: Buffer::default(),
            state: State::Start,
            args: Vec::new(),
            consumed: 0,
        }
    }

    /// Takes bytes that arrived. Call [`CommandDecoder::next_command`] until it has no more before feeding again: only
    /// that bounds what is kept.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.feed(bytes);
    }

    /// Bytes of a command that is not whole yet.
    pub fn pending_bytes(&self) -> usize {
        self.consumed + self.buffer.unread().len()
    }

    /// The next whole command, never without a name; none: more bytes are needed. Empty lines and empty arrays are
    /// skipped, as Redis does.
    ///
    /// # Errors
    ///
    /// The bytes are no command, or break a limit.
    pub fn next_command(&mut self) -> Result<Option<Vec<Vec<u8>>>, ProtocolError> {
        loop {
            let advanced = match self.state {
                State::Start => self.start()?,
                State::Length { missing } => self.length(missing)?,
                State::Bulk { missing, length } => self.bulk(missing, length)?,
            };
            if !advanced {
                return Ok(None);
            }
            if matches!(self.state, State::Start) {
                self.consumed = 0;
                if !self.args.is_empty() {
                    return Ok(Some(std::mem::take(&mut self.args)));
                }
            }
        }
    }

    /// Reads the first line of a command. Like the other steps, it says whether there was enough to go on.
    fn start(&mut self) -> Result<bool, ProtocolError> {
        match self.buffer.unread().first() {
            None => Ok(false),
            Some(b'*') => self.count(),
            // These begin other kinds of RESP, and would only make an unknown command of a client that lost its place.
            Some(&byte @ (b'$' | b'+' | b'-' | b':')) => Err(ProtocolError::Expected(b'*', byte)),
            Some(_) => self.inline(),
        }
    }

    fn count(&mut self) -> Result<bool, ProtocolError> {
        let Some(end) = self.line_end(self.limits.line, ProtocolError::CountLine)? else {
            return Ok(false);
        };
        let count = number(&self.buffer.unread()[1..end])
            .filter(|&count| count <= self.limits.args)
            .ok_or(ProtocolError::Count)?;
        self.advance(end);
        if count > 0 {
            self.state = State::Length { missing: count };
        }
        Ok(true)
    }

    fn length(&mut self, missing: usize) -> Result<bool, ProtocolError> {
        match self.buffer.unread().first() {
            None => return Ok(false),
            Some(b'$') => {}
            Some(&byte) => return Err(ProtocolError::Expected(b'$', byte)),
        }
        let Some(end) = self.line_end(self.limits.line, ProtocolError::LengthLine)? else {
            return Ok(false);
        };
        let length = number(&self.buffer.unread()[1..end])
            .filter(|&length| length <= self.limits.bulk)
            .ok_or(ProtocolError::Length)?;
        self.advance(end);
        if self.consumed.saturating_add(length).saturating_add(2) > self.limits.command {
            return Err(ProtocolError::Command);
        }
        self.state = State::Bulk { missing, length };
        Ok(true)
    }

    fn bulk(&mut self, missing: usize, length: usize) -> Result<bool, ProtocolError> {
        let Some(bytes) = self.buffer.unread().get(..length + 2) else {
            return Ok(false);
        };
        let (arg, terminator) = bytes.split_at(length);
        if terminator != b"\r\n" {
            return Err(ProtocolError::Terminator);
        }
        self.args.push(arg.to_vec());
        self.advance(length + 2);
        self.state = match missing - 1 {
            0 => State::Start,
            missing => State::Length { missing },
        };
        Ok(true)
    }

    fn inline(&mut self) -> Result<bool, ProtocolError> {
        let Some(end) = self.line_end(self.limits.inline, ProtocolError::Inline)? else {
            return Ok(false);
        };
        let words =
            inline::split(&self.buffer.unread()[..end]).map_err(|_| ProtocolError::Quotes)?;
        if inline::is_http(&words) {
            return Err(ProtocolError::Http);
        }
        if words.len() > self.limits.args {
            return Err(ProtocolError::Inline);
        }
        self.advance(end);
        self.args = words;
        Ok(true)
    }

    /// Where the line at the front ends, behind its line feed.
    fn line_end(
        &mut self,
        limit: usize,
        too_long: ProtocolError,
    ) -> Result<Option<usize>, ProtocolError> {
        let end = self.buffer.find_line_feed().map(|place| place + 1);
        match end {
            Some(end) if end <= limit => Ok(Some(end)),
            None if self.buffer.unread().len() < limit => Ok(None),
            _ => Err(too_long),
        }
    }

    fn advance(&mut self, count: usize) {
        self.buffer.consume(count);
        self.consumed += count;
    }
}

/// The number on a line that still has its CRLF.
fn number(line: &[u8]) -> Option<usize> {
    parse_length(line.strip_suffix(b"\r\n")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::encode_command;
    use std::time::{Duration, Instant};

    const LIMITS: CommandLimits = CommandLimits {
        line: 16,
        inline: 64,
        args: 8,
        bulk: 100,
        command: 256,
    };

    /// All commands of a stream that arrives in pieces of `size` bytes, and the error that ended it.
    fn decode(
        limits: CommandLimits,
        bytes: &[u8],
        size: usize,
    ) -> (Vec<Vec<Vec<u8>>>, Option<ProtocolError>) {
        let mut decoder = CommandDecoder::new(limits);
        let mut commands = Vec::new();
        for piece in bytes.chunks(size) {
            decoder.feed(piece);
            loop {
                match decoder.next_command() {
                    Ok(Some(command)) => commands.push(command),
                    Ok(None) => break,
                    Err(error) => return (commands, Some(error)),
                }
            }
        }
        (commands, None)
    }

    fn error_of(bytes: &[u8]) -> Option<ProtocolError> {
        let whole = decode(LIMITS, bytes, bytes.len());
        let bytewise = decode(LIMITS, bytes, 1);
        assert_eq!(whole, bytewise, "{}", bytes.escape_ascii());
        whole.1
    }

    fn command(words: &[&str]) -> Vec<Vec<u8>> {
        words.iter().map(|word| word.as_bytes().to_vec()).collect()
    }

    #[test]
    fn commands_are_the_same_wherever_the_stream_is_cut() {
        let mut stream = b"*0\r\n\r\nPING\r\n \r\necho 'a b'\n".to_vec();
        encode_command(&mut stream, &[b"ECHO", b"\r\n$3\r\n*1\r\n"]);
        encode_command(&mut stream, &[b"", b"\0\xff"]);
        let expected = vec![
            command(&["PING"]),
            command(&["echo", "a b"]),
            command(&["ECHO", "\r\n$3\r\n*1\r\n"]),
            vec![Vec::new(), vec![0, 0xff]],
        ];
        for size in 1..=stream.len() {
            assert_eq!(decode(LIMITS, &stream, size), (expected.clone(), None));
        }
        for split in 0..stream.len() {
            let mut decoder = CommandDecoder::new(LIMITS);
            let mut commands = Vec::new();
            for piece in [&stream[..split], &stream[split..]] {
                decoder.feed(piece);
                while let Some(command) = decoder.next_command().unwrap() {
                    commands.push(command);
                }
            }
            assert_eq!(commands, expected, "split at {split}");
        }
    }

    #[test]
    fn a_truncated_command_is_waited_for() {
        let mut stream = Vec::new();
        encode_command(&mut stream, &[b"ECHO", b"hello"]);
        for cut in 0..stream.len() {
            assert_eq!(decode(LIMITS, &stream[..cut], 3), (vec![], None));
        }
    }

    #[test]
    fn lengths_are_digits_and_every_line_end_is_checked() {
        use ProtocolError::*;
        let cases: &[(&[u8], ProtocolError)] = &[
            (b"*\r\n", Count),
            (b"*-1\r\n", Count),
            (b"*+1\r\n", Count),
            (b"*01\r\n", Count),
            (b"*1\n", Count),
            (b"*1x\r\n", Count),
            (b"*99999999999\r\n", Count),
            (b"*1\r\n+PING\r\n", Expected(b'$', b'+')),
            (b"*1\r\n*1\r\n", Expected(b'$', b'*')),
            (b"*1\r\n$\r\n", Length),
            (b"*1\r\n$-1\r\n", Length),
            (b"*1\r\n$+4\r\nPING\r\n", Length),
            (b"*1\r\n$4\nPING\r\n", Length),
            (b"*1\r\n$4\r\nPINGxx", Terminator),
            (b"*1\r\n$4\r\nPING\n\n", Terminator),
            (b"*1\r\n$3\r\nPING\r\n", Terminator),
            (b"$4\r\nPING\r\n", Expected(b'*', b'$')),
            (b"+OK\r\n", Expected(b'*', b'+')),
            (b"-ERR\r\n", Expected(b'*', b'-')),
            (b":1\r\n", Expected(b'*', b':')),
            (b"echo \"a\r\n", Quotes),
            (b"GET / HTTP/1.1\r\n", Http),
            (b"Host: 127.0.0.1:9003\r\n", Http),
        ];
        for (bytes, expected) in cases {
            assert_eq!(error_of(bytes), Some(*expected), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn get_and_post_are_plain_words_in_an_array() {
        let mut stream = Vec::new();
        encode_command(&mut stream, &[b"GET", b"/"]);
        assert_eq!(
            decode(LIMITS, &stream, 1),
            (vec![command(&["GET", "/"])], None)
        );
    }

    #[test]
    fn each_limit_is_reached_but_not_passed() {
        let count_line = |zeros: usize| format!("*{}\r\n", "9".repeat(zeros)).into_bytes();
        assert_eq!(error_of(&count_line(13)), Some(ProtocolError::Count));
        assert_eq!(error_of(&count_line(14)), Some(ProtocolError::CountLine));
        assert_eq!(error_of(&count_line(14)[..15]), None);
        assert_eq!(
            error_of(&count_line(15)[..16]),
            Some(ProtocolError::CountLine)
        );

        let length_line = |digits: usize| format!("*1\r\n${}\r\n", "9".repeat(digits)).into_bytes();
        assert_eq!(error_of(&length_line(13)), Some(ProtocolError::Length));
        assert_eq!(error_of(&length_line(14)), Some(ProtocolError::LengthLine));

        let inline = |length: usize| format!("{}\r\n", "x".repeat(length - 2)).into_bytes();
        assert_eq!(error_of(&inline(64)), None);
        assert_eq!(error_of(&inline(65)), Some(ProtocolError::Inline));
        assert_eq!(error_of(&[b'x'; 63]), None);
        assert_eq!(error_of(&[b'x'; 64]), Some(ProtocolError::Inline));
        assert_eq!(error_of(b"a a a a a a a a\n"), None);
        assert_eq!(
            error_of(b"a a a a a a a a a\n"),
            Some(ProtocolError::Inline)
        );

        assert_eq!(error_of(b"*8\r\n"), None);
        assert_eq!(error_of(b"*9\r\n"), Some(ProtocolError::Count));
        assert_eq!(error_of(b"*1\r\n$100\r\n"), None);
        assert_eq!(error_of(b"*1\r\n$101\r\n"), Some(ProtocolError::Length));
    }

    #[test]
    fn the_arguments_together_are_bounded_before_they_arrive() {
        // "*3\r\n", and "$100\r\n" with its argument twice: 220 bytes, so "$29\r\n" and 31 bytes fill it to 256.
        let stream = |last: usize| {
            let mut stream = Vec::new();
            encode_command(
                &mut stream,
                &[&[b'a'; 100], &[b'b'; 100], &vec![b'c'; last]],
            );
            stream
        };
        assert_eq!(stream(29).len(), LIMITS.command);
        assert_eq!(error_of(&stream(29)), None);
        assert_eq!(error_of(&stream(30)), Some(ProtocolError::Command));
        let head = stream(30).len() - 32;
        assert_eq!(error_of(&stream(30)[..head]), Some(ProtocolError::Command));

        // The next command begins with a fresh budget.
        let twice = [stream(29), stream(29)].concat();
        assert_eq!(decode(LIMITS, &twice, 7).0.len(), 2);
    }

    #[test]
    fn single_bytes_cost_linear_time() {
        let limits = CommandLimits {
            line: 64,
            inline: 8 << 20,
            args: 1 << 20,
            bulk: 8 << 20,
            command: 16 << 20,
        };
        let mut bulk = Vec::new();
        encode_command(&mut bulk, &[&vec![b'x'; 2 << 20]]);
        let mut many = Vec::new();
        encode_command(&mut many, &vec![&b"x"[..]; 1 << 17]);
        let mut line = vec![b'x'; 2 << 20];
        line.push(b'\n');
        let start = Instant::now();
        for stream in [bulk, many, line] {
            assert_eq!(decode(limits, &stream, 1).0.len(), 1);
        }
        // Parsing from the start again for each byte would take hours.
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn random_bytes_never_panic_and_never_depend_on_the_pieces() {
        let alphabet = b"*$123405\r\n\r\n\r\nab \"'\\x+-:\0\xff";
        let mut seed = 0x5eed_u64;
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
            let whole = decode(LIMITS, &stream, stream.len().max(1));
            assert_eq!(
                whole,
                decode(LIMITS, &stream, 1),
                "{}",
                stream.escape_ascii()
            );
            assert_eq!(
                whole,
                decode(LIMITS, &stream, 5),
                "{}",
                stream.escape_ascii()
            );
        }
    }
}
