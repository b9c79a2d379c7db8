//! Inline commands: a line of words, quoted as redis-cli and `redis-server` do it. For people with telnet, and shell scripts.

/// The line's quotes do not match, or a word goes on after a closing quote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unbalanced;

/// Splits a line into words. `"..."` knows `\n \r \t \b \a \xHH` and takes any other escaped byte as it is; `'...'` knows
/// only `\'`.
pub(super) fn split(line: &[u8]) -> Result<Vec<Vec<u8>>, Unbalanced> {
    let mut words = Vec::new();
    let mut rest = skip_space(line);
    while !rest.is_empty() {
        let mut word = Vec::new();
        rest = skip_space(take_word(rest, &mut word)?);
        words.push(word);
    }
    Ok(words)
}

/// Is this line the beginning of an HTTP request? A browser can be made to send one to any local port, and the body
/// that follows would be read as commands.
pub(super) fn is_http(words: &[Vec<u8>]) -> bool {
    let Some(first) = words.first() else {
        return false;
    };
    let method = ["get", "post", "host:"]
        .iter()
        .any(|name| first.eq_ignore_ascii_case(name.as_bytes()));
    method || words[1..].iter().any(|word| word.starts_with(b"HTTP/"))
}

/// Appends the word at the front of `rest`, and returns what follows it. A quote may open anywhere in a word and must
/// close at its end.
fn take_word<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], Unbalanced> {
    loop {
        match rest {
            [] => return Ok(rest),
            [byte, ..] if is_space(*byte) => return Ok(rest),
            [b'"', inside @ ..] => return closed(take_double_quoted(inside, word)?),
            [b'\'', inside @ ..] => return closed(take_single_quoted(inside, word)?),
            [byte, after @ ..] => {
                word.push(*byte);
                rest = after;
            }
        }
    }
}

fn take_double_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], Unbalanced> {
    loop {
        let (byte, after) = match rest {
            [] => return Err(Unbalanced),
            [b'"', after @ ..] => return Ok(after),
            [b'\\', b'x', high, low, after @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                (hex(*high) << 4 | hex(*low), after)
            }
            [b'\\', escaped, after @ ..] => (unescape(*escaped), after),
            [byte, after @ ..] => (*byte, after),
        };
        word.push(byte);
        rest = after;
    }
}

fn take_single_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], Unbalanced> {
    loop {
        let (byte, after) = match rest {
            [] => return Err(Unbalanced),
            [b'\'', after @ ..] => return Ok(after),
            [b'\\', b'\'', after @ ..] => (b'\'', after),
            [byte, after @ ..] => (*byte, after),
        };
        word.push(byte);
        rest = after;
    }
}

fn closed(rest: &[u8]) -> Result<&[u8], Unbalanced> {
    match rest.first() {
        Some(byte) if !is_space(*byte) => Err(Unbalanced),
        _ => Ok(rest),
    }
}

fn skip_space(line: &[u8]) -> &[u8] {
    let start = line.iter().position(|&byte| !is_space(byte));
    &line[start.unwrap_or(line.len())..]
}

/// What C's `isspace` says, which knows the vertical tab.
fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

fn unescape(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[u8]) -> Result<Vec<Vec<u8>>, Unbalanced> {
        split(line)
    }

    #[test]
    fn words_are_split_and_quoted_as_redis_does() {
        let cases: &[(&[u8], &[&[u8]])] = &[
            (b"", &[]),
            (b" \t\x0b ", &[]),
            (b"PING", &[b"PING"]),
            (b"  echo   two  words ", &[b"echo", b"two", b"words"]),
            (b"echo \"a b\" 'c d'", &[b"echo", b"a b", b"c d"]),
            (b"echo \"\" ''", &[b"echo", b"", b""]),
            (
                br#"echo "\n\r\t\b\a\\\"\q""#,
                &[b"echo", b"\n\r\t\x08\x07\\\"q"],
            ),
            (br#"echo "\x41\xfF\xg1""#, &[b"echo", b"A\xffxg1"]),
            (br"echo 'it\'s \n'", &[b"echo", br"it's \n"]),
            (b"fo\"o b\" x", &[b"foo b", b"x"]),
            (br"a\nb", &[br"a\nb"]),
            (b"a\0b \xff", &[b"a\0b", b"\xff"]),
        ];
        for (line, expected) in cases {
            let expected: Vec<Vec<u8>> = expected.iter().map(|word| word.to_vec()).collect();
            assert_eq!(words(line), Ok(expected), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn quotes_that_do_not_match_are_refused() {
        for line in [
            "\"",
            "'",
            "\"a",
            "'a\\'",
            "\"a\\\"",
            "\"a\"b",
            "'a'b",
            "x \"a\"\"b\"",
            "\"\\x4",
        ] {
            assert_eq!(words(line.as_bytes()), Err(Unbalanced), "{line}");
        }
    }

    #[test]
    fn an_http_request_is_recognised_by_any_of_its_first_lines() {
        for line in [
            "GET / HTTP/1.1",
            "post /x",
            "Host: localhost:9003",
            "SHUTDOWN / HTTP/1.1",
        ] {
            assert!(is_http(&words(line.as_bytes()).unwrap()), "{line}");
        }
        for line in ["", "PING", "ECHO GET", "GETTER x"] {
            assert!(!is_http(&words(line.as_bytes()).unwrap()), "{line}");
        }
    }
}
