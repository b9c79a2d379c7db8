//! What scripts say, as log lines: one thread per script reads its stdout and stderr, line by line, and nothing it can
//! print makes a line longer than 8 KiB, breaks the log's shape, or fills memory.

use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;

use log::Level;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;

/// Bytes of a line that are logged.
const MAX_LINE: usize = 8192;

/// Reads per stream after the script's end: more than a pipe holds, less than a stray grandchild can write.
const LAST_READS: usize = 64;

/// Logs one line that a script said. `<3>` to `<7>` at its start set the level, as systemd has it.
pub fn say(origin: &str, level: Level, line: &[u8]) {
    let (level, line) = split_level(line).unwrap_or((level, line));
    if !line.is_empty() {
        log::log!(level, "script says {origin} line={}", printable(line));
    }
}

/// The level that a script names in a push.
pub fn level(name: &str) -> Level {
    match name {
        "debug" => Level::Debug,
        "warning" | "warn" => Level::Warn,
        "error" | "critical" | "alert" | "emergency" => Level::Error,
        _ => Level::Info,
    }
}

fn split_level(line: &[u8]) -> Option<(Level, &[u8])> {
    let [b'<', digit, b'>', rest @ ..] = line else {
        return None;
    };
    let level = match digit {
        b'3' => Level::Error,
        b'4' => Level::Warn,
        b'5' | b'6' => Level::Info,
        b'7' => Level::Debug,
        _ => return None,
    };
    Some((level, rest))
}

/// One line of printable text: control characters and bytes that are no UTF-8 become `\x..`, what exceeds 8 KiB `...`.
pub fn printable(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len().min(MAX_LINE) + 3);
    for chunk in bytes[..bytes.len().min(MAX_LINE)].utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                write!(text, "\\x{:02x}", u32::from(character)).expect("a string grows");
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("a string grows");
        }
    }
    if bytes.len() > MAX_LINE {
        text.push_str("...");
    }
    text
}

/// Cuts a stream into lines; of an overlong one only the beginning is kept.
#[derive(Debug, Default)]
struct Lines {
    open: Vec<u8>,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8], line: &mut dyn FnMut(&[u8])) {
        let mut pieces = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            // One byte more than is logged shows that the line was cut.
            let room = MAX_LINE + 1 - self.open.len();
            self.open.extend_from_slice(&piece[..piece.len().min(room)]);
            if pieces.peek().is_some() {
                self.finish(line);
            }
        }
    }

    fn finish(&mut self, line: &mut dyn FnMut(&[u8])) {
        let text = self.open.strip_suffix(b"\r").unwrap_or(&self.open);
        if !text.is_empty() {
            line(text);
        }
        self.open.clear();
    }
}

/// The thread that listens to a script.
#[derive(Debug)]
pub struct Listener {
    /// Closing it tells the thread to read what is there and end.
    stop: PipeWriter,
    thread: JoinHandle<Option<String>>,
}

impl Listener {
    /// Logs what comes from the two pipes: stdout at info, stderr at warn.
    ///
    /// # Errors
    /// No descriptors or no thread to be had.
    pub fn start(origin: &str, stdout: OwnedFd, stderr: OwnedFd) -> io::Result<Self> {
        let (stopped, stop) = io::pipe()?;
        let streams = vec![
            Stream::new(stdout, Level::Info)?,
            Stream::new(stderr, Level::Warn)?,
        ];
        let origin = origin.to_owned();
        let thread = std::thread::Builder::new()
            .name("output".into())
            .stack_size(256 << 10)
            .spawn(move || listen(&origin, streams, &stopped))?;
        Ok(Self { stop, thread })
    }

    /// Logs what is still in the pipes and gives back the last telling line of stderr.
    pub fn finish(self) -> Option<String> {
        drop(self.stop);
        self.thread.join().ok().flatten()
    }
}

#[derive(Debug)]
struct Stream {
    pipe: File,
    level: Level,
    lines: Lines,
}

impl Stream {
    fn new(pipe: OwnedFd, level: Level) -> io::Result<Self> {
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self {
            pipe: File::from(pipe),
            level,
            lines: Lines::default(),
        })
    }

    /// Reads once; false when nothing more will come now.
    fn read(&mut self, origin: &str, last: &mut Option<String>) -> io::Result<bool> {
        let mut buffer = [0; 16 << 10];
        let length = match self.pipe.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        let level = self.level;
        self.lines.feed(&buffer[..length], &mut |line| {
            hear(origin, level, line, last)
        });
        Ok(true)
    }

    fn finish(&mut self, origin: &str, last: &mut Option<String>) {
        let level = self.level;
        self.lines
            .finish(&mut |line| hear(origin, level, line, last));
    }
}

fn hear(origin: &str, level: Level, line: &[u8], last: &mut Option<String>) {
    say(origin, level, line);
    if level == Level::Warn && is_telling(line) {
        *last = Some(printable(&line[..line.len().min(1024)]));
    }
}

/// The frames of a stack trace follow the message; what we want to quote is the message.
fn is_telling(line: &[u8]) -> bool {
    !line.starts_with(b" ") && !line.starts_with(b"#") && line != b"Stack trace:"
}

fn listen(origin: &str, mut streams: Vec<Stream>, stopped: &PipeReader) -> Option<String> {
    // Signals are for the threads that handle them.
    SigSet::all().thread_block().ok();
    let mut last = None;
    while !streams.is_empty() {
        let mut set: Vec<PollFd> = streams
            .iter()
            .map(|stream| stream.pipe.as_fd())
            .chain([stopped.as_fd()])
            .map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN))
            .collect();
        poll(&mut set, PollTimeout::NONE).ok();
        let ready: Vec<bool> = set.iter().map(|one| one.any().unwrap_or(false)).collect();
        if ready[streams.len()] {
            break;
        }
        let mut index = 0;
        streams.retain_mut(|stream| {
            index += 1;
            let open = !ready[index - 1] || stream.read(origin, &mut last).is_ok();
            if !open {
                stream.finish(origin, &mut last);
            }
            open
        });
    }
    for stream in &mut streams {
        for _ in 0..LAST_READS {
            if !stream.read(origin, &mut last).unwrap_or(false) {
                break;
            }
        }
        stream.finish(origin, &mut last);
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let mut cutter = Lines::default();
        let mut found = Vec::new();
        let mut keep = |line: &[u8]| found.push(printable(line));
        for piece in pieces {
            cutter.feed(piece, &mut keep);
        }
        cutter.finish(&mut keep);
        found
    }

    #[test]
    fn a_stream_is_cut_into_lines_wherever_its_pieces_end() {
        let text = b"one\r\ntwo\n\n\nthree";
        for cut in 0..=text.len() {
            assert_eq!(
                lines(&[&text[..cut], &text[cut..]]),
                ["one", "two", "three"]
            );
        }
    }

    #[test]
    fn an_overlong_line_is_cut_and_the_next_one_is_whole() {
        let long = vec![b'x'; 3 * MAX_LINE];
        let found = lines(&[&long, &long, b"\nnext\n"]);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0], format!("{}...", "x".repeat(MAX_LINE)));
        assert_eq!(found[1], "next");
    }

    #[test]
    fn control_characters_and_bad_bytes_cannot_forge_a_log_line() {
        assert_eq!(
            printable(b"a\x1b[31m\0\r\nb\xff \xc2\x85 \xc3\xbc"),
            "a\\x1b[31m\\x00\\x0d\\x0ab\\xff \\x85 ü"
        );
        let cut_in_a_character = "ü".repeat(MAX_LINE);
        assert!(printable(&cut_in_a_character.as_bytes()[1..]).len() < MAX_LINE + 20);
    }

    #[test]
    fn a_level_at_the_start_of_a_line_counts() {
        assert_eq!(
            split_level(b"<3>bad"),
            Some((Level::Error, b"bad".as_slice()))
        );
        assert_eq!(split_level(b"<7>"), Some((Level::Debug, b"".as_slice())));
        assert_eq!(split_level(b"<2>bad"), None);
        assert_eq!(split_level(b"<b>bold</b>"), None);
        assert_eq!(level("warning"), Level::Warn);
        assert_eq!(level("anything"), Level::Info);
    }

    #[test]
    fn the_last_telling_line_of_stderr_is_remembered() {
        let (stdout, mut printed) = io::pipe().unwrap();
        let (stderr, mut warned) = io::pipe().unwrap();
        let listener = Listener::start("slot=0", stdout.into(), stderr.into()).unwrap();
        printed.write_all(b"result\n").unwrap();
        warned
            .write_all(b"Fatal error: no\nStack trace:\n#0 {main}\n  thrown\n")
            .unwrap();
        // The writers stay open, as with a grandchild that outlives the script.
        assert_eq!(listener.finish().as_deref(), Some("Fatal error: no"));
    }
}
