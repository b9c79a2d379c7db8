//! The token: the first element of a reserved list, which says whose reservation it is. No two reservations ever have
//! the same one. A list whose first element is none holds jobs only. Pure.

use std::fmt;

/// What every token begins with, whatever its version.
const FAMILY: &str = "stark-token/";

/// Marks one reservation of one slot: a start's nonce, the slot in its pool, the generation of the worker there, and
/// the number of the reservation in that worker's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// Drawn at each start of a daemon.
    pub nonce: u64,
    /// The slot in its pool.
    pub slot: u32,
    /// Which process of this slot.
    pub generation: u64,
    /// Counts this process's reservations, from 1.
    pub number: u64,
}

impl Token {
    /// The token that `element` is, exactly as it is printed; none if it is anything else, and so a job.
    pub fn parse(element: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(element).ok()?;
        let mut words = text.strip_prefix(FAMILY)?.strip_prefix("1 ")?.split(' ');
        let token = Self {
            nonce: u64::from_str_radix(words.next()?, 16).ok()?,
            slot: words.next()?.parse().ok()?,
            generation: words.next()?.parse().ok()?,
            number: words.next()?.parse().ok()?,
        };
        (token.to_string() == text).then_some(token)
    }

    /// Whether `element` is the token of a stark that is newer than this one.
    pub fn is_newer(element: &[u8]) -> bool {
        let Some(rest) = element.strip_prefix(FAMILY.as_bytes()) else {
            return false;
        };
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let version = &rest[..digits];
        rest.get(digits) == Some(&b' ') && digits > 0 && version[0] != b'0' && version != b"1"
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            nonce,
            slot,
            generation,
            number,
        } = self;
        write!(f, "{FAMILY}1 {nonce:016x} {slot} {generation} {number}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: Token = Token {
        nonce: 0xbeef,
        slot: 3,
        generation: 12,
        number: 400,
    };

    #[test]
    fn a_token_is_read_as_it_was_printed() {
        assert_eq!(TOKEN.to_string(), "stark-token/1 000000000000beef 3 12 400");
        assert_eq!(Token::parse(TOKEN.to_string().as_bytes()), Some(TOKEN));
        let largest = Token {
            nonce: u64::MAX,
            slot: u32::MAX,
            generation: u64::MAX,
            number: u64::MAX,
        };
        assert_eq!(Token::parse(largest.to_string().as_bytes()), Some(largest));
    }

    #[test]
    fn whatever_differs_in_a_byte_is_a_job() {
        for job in [
            "",
            "hello",
            "stark-token/1",
            "stark-token/1 beef 3 12 400",
            "stark-token/1 000000000000BEEF 3 12 400",
            "stark-token/1 000000000000beef 03 12 400",
            "stark-token/1 000000000000beef +3 12 400",
            "stark-token/1 000000000000beef 3 12",
            "stark-token/1 000000000000beef 3 12 400 ",
            "stark-token/1 000000000000beef 3 12 400\n",
            "stark-token/1 000000000000beef 4294967296 12 400",
            " stark-token/1 000000000000beef 3 12 400",
        ] {
            assert_eq!(Token::parse(job.as_bytes()), None, "{job:?}");
        }
        assert_eq!(Token::parse(b"stark-token/1 \xff 3 12 400"), None);
    }

    #[test]
    fn a_newer_token_is_recognised() {
        assert!(Token::is_newer(b"stark-token/2 anything"));
        assert!(Token::is_newer(b"stark-token/10 0"));
        for other in [
            "stark-token/1 000000000000beef 3 12 400",
            "stark-token/",
            "stark-token/2",
            "stark-token/x 1",
            "stark-token/01 1",
            "job",
        ] {
            assert!(!Token::is_newer(other.as_bytes()), "{other:?}");
        }
    }
}
