//! The header: one line before the untouched payload of a job that has a history, as
//! `stark/1 {"id":"...","attempt":2,"crashes":0,"first":...,"last":...,"error":"...","node":"..."}`. Whatever is not
//! exactly such a line is payload. Pure.

use serde::{Deserialize, Serialize};

/// What every header of this version begins with.
const START: &[u8] = b"stark/1 ";
/// A line longer than this is no header.
const MOST_LINE_BYTES: usize = 4096;
const MOST_ID_BYTES: usize = 128;
const MOST_NODE_BYTES: usize = 255;
/// Reasons are cut here.
pub const MOST_ERROR_BYTES: usize = 500;
/// Neither runs nor crashes are counted further.
const MOST_RUNS: u32 = 1_000_000;
/// The last millisecond of the year 9999.
const LAST_MS: u64 = 253_402_300_799_999;

/// What is known of a job that is not on its first run, or was pushed with a delay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Names the job among all others, through all its runs: 1 to 128 bytes without control characters.
    pub id: String,
    /// Which run comes next, from 1 to a million. Of a dead job: how many runs it has had.
    pub attempt: u32,
    /// Workers and scripts that died with it in hand, up to a million.
    #[serde(default)]
    pub crashes: u32,
    /// When it first failed or crashed, in ms since 1970; none: it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
    /// When it last did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
    /// Why it last did: one line of at most 500 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Where it last did: the daemon's node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

impl Header {
    /// Of a job that has run and crashed never.
    pub fn new(id: String) -> Self {
        Self {
            id,
            attempt: 1,
            crashes: 0,
            first: None,
            last: None,
            error: None,
            node: None,
        }
    }

    /// The header that `element` begins with, and where its payload begins; none: all of it is payload.
    pub fn parse(element: &[u8]) -> Option<(Self, usize)> {
        let rest = element.strip_prefix(START)?;
        // serde would take an array for the fields, too.
        if rest.first() != Some(&b'{') {
            return None;
        }
        let room = rest.len().min(MOST_LINE_BYTES - START.len());
        let end = rest[..room].iter().position(|&byte| byte == b'\n')?;
        let header: Self = serde_json::from_slice(&rest[..end]).ok()?;
        header.is_sane().then_some((header, START.len() + end + 1))
    }

    /// The element of a list that is this header and that payload. What no header may have is cut or left out.
    pub fn encode(&self, payload: &[u8]) -> Vec<u8> {
        let sane = Self {
            id: self.id.clone(),
            attempt: self.attempt.clamp(1, MOST_RUNS),
            crashes: self.crashes.min(MOST_RUNS),
            first: self.first.map(|ms| ms.min(LAST_MS)),
            last: self.last.map(|ms| ms.min(LAST_MS)),
            error: self.error.as_deref().map(one_line),
            node: self
                .node
                .clone()
                .filter(|node| is_name(node, MOST_NODE_BYTES)),
        };
        debug_assert!(sane.is_sane(), "{sane:?}");
        let json = serde_json::to_vec(&sane).expect("texts and numbers always make JSON");
        [START, &json, b"\n", payload].concat()
    }

    fn is_sane(&self) -> bool {
        is_name(&self.id, MOST_ID_BYTES)
            && (1..=MOST_RUNS).contains(&self.attempt)
            && self.crashes <= MOST_RUNS
            && [self.first, self.last]
                .into_iter()
                .flatten()
                .all(|ms| ms <= LAST_MS)
            && self.error.as_deref().is_none_or(is_line)
            && self
                .node
                .as_deref()
                .is_none_or(|node| is_name(node, MOST_NODE_BYTES))
    }
}

fn is_name(text: &str, most_bytes: usize) -> bool {
    (1..=most_bytes).contains(&text.len()) && !text.contains(char::is_control)
}

fn is_line(text: &str) -> bool {
    text.len() <= MOST_ERROR_BYTES && !text.contains(char::is_control)
}

/// A reason as a header can hold it: control characters become blanks, and it is cut between two characters.
fn one_line(reason: &str) -> String {
    let mut line = String::new();
    for c in reason.trim().chars() {
        let c = if c.is_control() { ' ' } else { c };
        if line.len() + c.len_utf8() > MOST_ERROR_BYTES {
            break;
        }
        line.push(c);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jitter::Jitter;

    fn header() -> Header {
        Header {
            id: "00000000000000ab-mail-2-3-7-9".into(),
            attempt: 2,
            crashes: 1,
            first: Some(1_700_000_000_000),
            last: Some(1_700_000_000_001),
            error: Some("cannot send: \"550\"".into()),
            node: Some("host-1f".into()),
        }
    }

    /// The header of `line`, if it is one before this payload.
    fn parsed(line: &str) -> Option<Header> {
        let element = format!("{line}\npayload");
        let (header, start) = Header::parse(element.as_bytes())?;
        assert_eq!(&element[start..], "payload");
        Some(header)
    }

    #[test]
    fn a_header_is_one_line_of_json_before_the_payload() {
        let element = header().encode(b"payload");
        assert_eq!(
            String::from_utf8(element).unwrap(),
            "stark/1 {\"id\":\"00000000000000ab-mail-2-3-7-9\",\"attempt\":2,\"crashes\":1,\
             \"first\":1700000000000,\"last\":1700000000001,\"error\":\"cannot send: \\\"550\\\"\",\
             \"node\":\"host-1f\"}\npayload"
        );
        let new = Header::new("x".into());
        assert_eq!(
            new.encode(b""),
            b"stark/1 {\"id\":\"x\",\"attempt\":1,\"crashes\":0}\n"
        );
        assert_eq!(parsed("stark/1 {\"attempt\":1, \"id\":\"x\"}"), Some(new));
    }

    #[test]
    fn what_was_encoded_is_parsed_again_whatever_the_payload() {
        for payload in [
            &b""[..],
            b"\n",
            b"\0\xff\xfe",
            b"stark/1 {\"id\":\"x\",\"attempt\":9}\nnot again",
            &[b'\n'; 5000],
        ] {
            let element = header().encode(payload);
            let (parsed, start) = Header::parse(&element).unwrap();
            assert_eq!((parsed, &element[start..]), (header(), payload));
        }
    }

    #[test]
    fn a_payload_that_only_looks_like_a_header_stays_a_payload() {
        for line in [
            "",
            "stark/1",
            "stark/1 ",
            "stark/1 {}",
            "stark/1 {\"id\":\"x\"}",
            "stark/1 {\"attempt\":1}",
            "stark/1  {\"id\":\"x\",\"attempt\":1}",
            " stark/1 {\"id\":\"x\",\"attempt\":1}",
            "stark/2 {\"id\":\"x\",\"attempt\":1}",
            "Stark/1 {\"id\":\"x\",\"attempt\":1}",
            "stark/1 {\"id\":\"x\",\"attempt\":1} x",
            "stark/1 {\"id\":\"x\",\"attempt\":1}{}",
            "stark/1 {\"id\":\"x\",\"attempt\":1,}",
            "stark/1 {\"id\":\"x\",\"attempt\":1,\"user\":1}",
            "stark/1 {\"id\":\"x\",\"attempt\":1,\"attempt\":1}",
            "stark/1 [\"x\",1,0,1,1,\"\",\"n\"]",
            "stark/1 {\"id\":7,\"attempt\":1}",
            "stark/1 {\"id\":null,\"attempt\":1}",
            "stark/1 {\"id\":\"x\",\"attempt\":\"1\"}",
            "stark/1 {\"id\":\"x\",\"attempt\":1.0}",
            "stark/1 {\"id\":\"x\",\"attempt\":-1}",
            "stark/1 {\"id\":\"x\",\"attempt\":1,\"error\":\"two\\nlines\"}",
            "stark/1 {\"id\":\"a\\u0000b\",\"attempt\":1}",
            "stark/1 {\"id\":\"x\",\"attempt\":1,\"node\":\"\"}",
            "stark/1 {\"id\":\"x\",\"attempt\":1,\"first\":253402300800000}",
        ] {
            assert_eq!(parsed(line), None, "{line}");
        }
        assert_eq!(Header::parse(b"stark/1 {\"id\":\"x\",\"attempt\":1}"), None);
        assert_eq!(
            Header::parse(b"stark/1 {\"id\":\"\xff\",\"attempt\":1}\n"),
            None
        );
        let deep = format!("stark/1 {{\"id\":{}\n", "[".repeat(3000));
        assert_eq!(Header::parse(deep.as_bytes()), None);
    }

    #[test]
    fn bounds_hold_at_their_ends_and_not_beyond() {
        let with = |id: usize, attempt: u32, crashes: u32, error: usize| {
            let [id, error] = [id, error].map(|count| "x".repeat(count));
            parsed(&format!(
                "stark/1 {{\"id\":\"{id}\",\"attempt\":{attempt},\"crashes\":{crashes},\"error\":\"{error}\"}}"
            ))
        };
        assert!(with(1, 1, 0, 0).is_some());
        assert!(with(128, 1_000_000, 1_000_000, 500).is_some());
        for (id, attempt, crashes, error) in [
            (0, 1, 0, 0),
            (129, 1, 0, 0),
            (1, 0, 0, 0),
            (1, 1_000_001, 0, 0),
            (1, 1, 1_000_001, 0),
            (1, 1, 0, 501),
        ] {
            assert_eq!(
                with(id, attempt, crashes, error),
                None,
                "{id} {attempt} {crashes} {error}"
            );
        }
        // Blanks are no part of a value, so that only the line's own length differs.
        let line = |bytes: usize| {
            let rest = "{\"id\":\"x\",\"attempt\":1}";
            let blanks = " ".repeat(bytes - 1 - 8 - rest.len());
            parsed(&format!("stark/1 {{{blanks}{}", &rest[1..]))
        };
        assert!(line(4096).is_some());
        assert_eq!(line(4097), None);
    }

    #[test]
    fn whatever_is_encoded_is_a_header() {
        for error in [
            "two\nlines\r\n",
            "\u{1b}[31mred\u{7f}\u{85}",
            &"\"\\".repeat(1000),
            &"\u{2028}ü".repeat(400),
            &format!("{}😀", "x".repeat(498)),
            "",
        ] {
            let one = Header {
                error: Some(error.into()),
                attempt: u32::MAX,
                crashes: u32::MAX,
                first: Some(u64::MAX),
                last: Some(0),
                node: Some("n".repeat(300)),
                id: "\\".repeat(128),
            };
            let element = one.encode(b"payload");
            let (again, start) = Header::parse(&element).expect("a header");
            assert_eq!(&element[start..], b"payload");
            assert_eq!((again.attempt, again.crashes), (1_000_000, 1_000_000));
            let error = again.error.unwrap();
            assert!(
                error.len() <= 500 && !error.contains(char::is_control),
                "{error}"
            );
            assert!(element.len() <= 4096);
        }
        let cut = format!("{}😀", "x".repeat(498));
        assert_eq!(one_line(&cut), "x".repeat(498));
        assert_eq!(one_line(" a\nb\t"), "a b");
    }

    #[test]
    fn damaged_headers_neither_panic_nor_change_the_payload() {
        let mut chance = Jitter::new(7);
        let mut below = |end: usize| (chance.share() * end as f64) as usize;
        let whole = header().encode(b"\x01payload\xff");
        for cut in 0..whole.len() {
            let (left, _) = whole.split_at(cut);
            let is_header = cut > whole.iter().position(|&byte| byte == b'\n').unwrap();
            assert_eq!(Header::parse(left).is_some(), is_header, "{cut}");
        }
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..1 + below(4) {
                let place = below(bytes.len());
                match below(3) {
                    0 => bytes[place] = below(256) as u8,
                    1 => drop(bytes.remove(place)),
                    _ => bytes.insert(place, b"\n{}\"\\:,0"[below(8)]),
                }
            }
            if let Some((header, start)) = Header::parse(&bytes) {
                let (again, _) = Header::parse(&header.encode(b"")).expect("what is one stays one");
                assert_eq!(again, header);
                assert_eq!(bytes[start - 1], b'\n');
            }
        }
    }
}
