//! RESP, the protocol of Redis, version 2 and 3: pure and bounded. Bytes go in as they arrive, whole commands or replies
//! come out; nothing is parsed twice, nothing recurses on input, nothing grows past a limit that the caller named.
//!
//! `command` and `inline` read what clients send, `reply` writes what servers answer, `reply_decoder` reads answers.
//! Sockets, and what a command means, are left to the callers: the admin port, the CLI, the script protocol, the store.

mod buffer;
mod command;
mod inline;
mod reply;
mod reply_decoder;

pub use command::{CommandDecoder, CommandLimits, ProtocolError};
pub use reply::{Protocol, Reply};
pub use reply_decoder::{DecodeError, MAX_DEPTH, ReplyDecoder};

/// Appends a command, an array of bulk strings, to `out`.
pub fn encode_command(out: &mut Vec<u8>, args: &[&[u8]]) {
    encode_array(out, args.len());
    for arg in args {
        encode_bulk(out, arg);
    }
}

/// Appends the head of an array; `length` elements have to follow.
pub fn encode_array(out: &mut Vec<u8>, length: usize) {
    encode_length(out, b'*', length);
}

/// Appends one bulk string.
pub fn encode_bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    encode_length(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Appends the null bulk string of RESP2.
pub fn encode_null(out: &mut Vec<u8>) {
    out.extend_from_slice(b"$-1\r\n");
}

/// Appends a kind's byte, a length and the end of the line. By hand: `write!` would cost more than the rest of a command.
fn encode_length(out: &mut Vec<u8>, kind: u8, length: usize) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    let mut rest = length;
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.push(kind);
    out.extend_from_slice(&digits[start..]);
    out.extend_from_slice(b"\r\n");
}

/// Reads a length: digits only, without sign or leading zeros.
fn parse_length(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() || (digits.len() > 1 && digits[0] == b'0') {
        return None;
    }
    digits.iter().try_fold(0usize, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| usize::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_array_of_bulk_strings() {
        let mut out = Vec::new();
        encode_command(&mut out, &[b"run", b"\0\r\n", b"", &[b'x'; 10]]);
        assert_eq!(
            out,
            b"*4\r\n$3\r\nrun\r\n$3\r\n\0\r\n\r\n$0\r\n\r\n$10\r\nxxxxxxxxxx\r\n"
        );
    }

    #[test]
    fn a_length_is_digits_only() {
        assert_eq!(parse_length(b"0"), Some(0));
        assert_eq!(parse_length(b"1024"), Some(1024));
        let max = usize::MAX.to_string();
        assert_eq!(parse_length(max.as_bytes()), Some(usize::MAX));
        let over = (usize::MAX as u128 + 1).to_string();
        for wrong in ["", "-1", "+5", "-0", "01", "00", " 1", "1 ", "1x", &over] {
            assert_eq!(parse_length(wrong.as_bytes()), None, "{wrong:?}");
        }
    }

    #[test]
    fn lengths_are_written_as_they_are_read() {
        for length in [0, 9, 10, 99, 100, 65_536, usize::MAX] {
            let mut out = Vec::new();
            encode_length(&mut out, b'$', length);
            assert_eq!(out, format!("${length}\r\n").into_bytes());
        }
    }
}
