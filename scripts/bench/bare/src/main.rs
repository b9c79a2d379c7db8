//! The bare client beside which stark's drain rate is read: it takes the same turn.lua, at a fixed batch, and does
//! nothing else. No jobs are run, no progress is noted, nothing could be reclaimed. It says `ready`, waits for a line on
//! stdin, drains the queue and prints how many jobs it got.
//!
//! `bare SOCKET KEY SLOT BATCH`

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

const TURN: &str = include_str!("../../../../src/queue/turn.lua");

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, key, slot, batch] = arguments.as_slice() else {
        panic!("usage: bare SOCKET KEY SLOT BATCH");
    };
    let stream = UnixStream::connect(socket)?;
    let mut server = Server {
        replies: BufReader::with_capacity(1 << 16, stream.try_clone()?),
        stream,
    };
    let sha = String::from_utf8(server.ask(&["SCRIPT", "LOAD", TURN])?.concat()).expect("a hash");
    let reserved = format!("{{{key}}}:bare:{slot}");
    let stats = format!("{{{key}}}:stark:stats");
    let (mut token, mut number) = (format!("bare {slot} 0"), 0u64);
    server.ask(&["DEL", &reserved])?;
    server.ask(&["RPUSH", &reserved, &token])?;

    println!("ready");
    std::io::stdin().lock().read_line(&mut String::new())?;
    let (mut held, mut total) = (0, 0);
    loop {
        number += 1;
        let next = format!("bare {slot} {number}");
        let (length, ended) = ((held + 1).to_string(), held.to_string());
        let keys = [key.as_str(), &reserved, &stats];
        let values = [
            "1", &length, &next, "0", "1048576", &ended, "0", &token, batch,
        ];
        let command = [&["EVALSHA", &sha, "3"], &keys[..], &values[..]].concat();
        held = server.ask(&command)?.len();
        token = next;
        total += held;
        if held == 0 {
            break;
        }
    }
    println!("{total}");
    Ok(())
}

/// One connection to Redis.
struct Server {
    stream: UnixStream,
    replies: BufReader<UnixStream>,
}

impl Server {
    /// One command and its reply: a single value, or the jobs of a turn.
    fn ask(&mut self, words: &[&str]) -> std::io::Result<Vec<Vec<u8>>> {
        let mut command = format!("*{}\r\n", words.len());
        for word in words {
            command.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.stream.write_all(command.as_bytes())?;
        let head = self.line()?;
        match head.as_bytes()[0] {
            b'*' if head == "*-1" => panic!("the script answered LOST"),
            b'*' => {
                // The key that was served, and the jobs in parts.
                let parts: usize = head[1..].parse().expect("a length");
                self.line()?;
                let mut jobs = Vec::new();
                for _ in 1..parts {
                    let head = self.line()?;
                    for _ in 0..head[1..].parse().expect("a length") {
                        let head = self.line()?;
                        jobs.push(self.bulk(&head)?);
                    }
                }
                Ok(jobs)
            }
            b'$' if head == "$-1" => panic!("the script answered LOST"),
            b'$' => Ok(vec![self.bulk(&head)?]),
            b'-' => panic!("{head}"),
            _ => Ok(vec![head.into_bytes()]),
        }
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        self.replies.read_line(&mut line)?;
        assert!(line.ends_with("\r\n"), "the server hung up");
        line.truncate(line.len() - 2);
        Ok(line)
    }

    fn bulk(&mut self, head: &str) -> std::io::Result<Vec<u8>> {
        let length: usize = head[1..].parse().expect("a length");
        let mut bytes = vec![0; length + 2];
        self.replies.read_exact(&mut bytes)?;
        bytes.truncate(length);
        Ok(bytes)
    }
}
