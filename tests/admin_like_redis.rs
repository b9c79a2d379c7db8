//! Where Redis has a command, the admin port answers it as Redis does: both are asked the same, a real redis-server beside
//! a daemon, and every reply is compared. Words that differ between versions of Redis are compared by their codes.

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use stark::resp::{Reply, ReplyDecoder};
use support::redis::Redis;
use support::stark::{LIMIT, Stark};

/// Someone who asks one of the two.
struct Asker {
    stream: UnixStream,
    decoder: ReplyDecoder,
}

impl Asker {
    fn new(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Self {
            stream,
            decoder: ReplyDecoder::new(16 << 20),
        }
    }

    /// None: the connection was closed instead.
    fn ask(&mut self, line: &str) -> Option<Reply> {
        // At once: the connection may be closed as soon as the first bytes are seen.
        let line = format!("{line}\r\n");
        self.stream.write_all(line.as_bytes()).unwrap();
        self.reply()
    }

    fn reply(&mut self) -> Option<Reply> {
        loop {
            if let Some(reply) = self.decoder.next_reply().expect("a reply") {
                return Some(reply);
            }
            // A reset is an end, too.
            let count = self.stream.read(self.decoder.space(4096)).unwrap_or(0);
            if count == 0 {
                return None;
            }
            self.decoder.filled(count);
        }
    }
}

/// Without what belongs to one of them: its words behind an error's code, its numbers and texts.
fn shape(reply: &Reply) -> String {
    match reply {
        Reply::Error(text) => format!("-{}", text.split(' ').next().unwrap_or_default()),
        Reply::Simple(text) => format!("+{text}"),
        Reply::Integer(_) => ":".into(),
        Reply::Bulk(_) | Reply::Verbatim(_) => "$".into(),
        Reply::Array(items) => {
            let shapes: Vec<String> = items.iter().map(shape).collect();
            format!("[{}]", shapes.join(" "))
        }
        Reply::Map(pairs) => {
            let shapes: Vec<String> = pairs
                .iter()
                .map(|(key, value)| format!("{key:?}={}", shape(value)))
                .collect();
            format!("{{{}}}", shapes.join(" "))
        }
        other => format!("{other:?}"),
    }
}

/// Both, asked the same.
struct Pair {
    redis: Asker,
    stark: Asker,
}

impl Pair {
    #[track_caller]
    fn same(&mut self, line: &str) {
        let (theirs, ours) = (self.redis.ask(line), self.stark.ask(line));
        assert_eq!(ours, theirs, "{line}");
    }

    #[track_caller]
    fn alike(&mut self, line: &str) {
        let (theirs, ours) = (self.redis.ask(line), self.stark.ask(line));
        assert_eq!(
            ours.as_ref().map(shape),
            theirs.as_ref().map(shape),
            "{line}: {ours:?} {theirs:?}"
        );
    }
}

/// A server, a daemon, and how to meet both.
struct Both {
    redis: Redis,
    stark: Stark,
}

impl Both {
    fn start(password: Option<&str>) -> Self {
        let mut main = String::from("[main]\nunixsocket = admin.sock\n");
        let redis = match password {
            None => Redis::start(),
            Some(password) => {
                main += &format!("password = {password}\n");
                Redis::start_with(&["--requirepass", password])
            }
        };
        let ini = format!("{main}[run]\nbuiltin = null\n[worker]\ncount = 1\n");
        Self {
            redis,
            stark: Stark::start(&ini, ""),
        }
    }

    fn pair(&self) -> Pair {
        Pair {
            redis: Asker::new(&self.redis.socket()),
            stark: Asker::new(&self.stark.path("admin.sock")),
        }
    }
}

#[test]
fn everything_that_both_know_is_answered_alike() {
    let both = Both::start(None);
    let long = format!("nope {} b c", "x".repeat(200));
    let many = format!("{} {}", "n".repeat(200), "arg ".repeat(100));
    let same = [
        "PING",
        "ping hi",
        "PING a b",
        "ECHO",
        "ECHO a b",
        "echo \"a\\r\\nb\"",
        "echo ''",
        "nope",
        "nope a b",
        &long,
        &many,
        "SELECT",
        "SELECT 0",
        "SELECT x",
        "SELECT -1",
        "SELECT 99",
        "SELECT 99999999999999999999",
        "AUTH",
        "AUTH x",
        "AUTH default x",
        "AUTH nobody x",
        "AUTH a b c",
        "HELLO 1",
        "HELLO 4",
        "HELLO x",
        "HELLO 99999999999999999999",
        "HELLO 2 nope",
        "HELLO 2 AUTH x",
        "HELLO 2 AUTH nobody x",
        "HELLO 2 SETNAME",
        "HELLO 2 SETNAME \"a b\"",
        "CLIENT",
        "CLIENT GETNAME",
        "CLIENT GETNAME x",
        "CLIENT SETNAME",
        "CLIENT SETNAME \"a b\"",
        "CLIENT SETNAME \"a\\nb\"",
        "CLIENT SETNAME bob",
        "CLIENT GETNAME",
        "CLIENT SETNAME ''",
        "CLIENT GETNAME",
        "CLIENT ID x",
        "CLIENT INFO x",
        "CLIENT LIST x",
        "CLIENT LIST TYPE nope",
        "CLIENT LIST ID",
        "CLIENT LIST ID x",
        "CLIENT LIST ID 0",
        "CLIENT KILL",
        "CLIENT KILL 1.2.3.4:5",
        "CLIENT KILL TYPE nope",
        "CLIENT KILL TYPE pubsub",
        "CLIENT KILL USER nobody",
        "CLIENT KILL SKIPME maybe",
        "CLIENT KILL nope x",
        "CLIENT KILL ID 9999 TYPE",
        "CLIENT KILL ID 9999",
        "CLIENT KILL ID x",
        "CLIENT KILL ID -1",
        "CLIENT KILL ADDR 1.2.3.4:5",
        "CLIENT KILL LADDR 1.2.3.4:5 SKIPME no",
        "CLIENT nope",
        "COMMAND nope",
        "COMMAND COUNT x",
        "COMMAND INFO nope",
        "COMMAND INFO nope nope",
        "COMMAND DOCS nope",
        "TIME x",
        "INFO nosuch",
        "SHUTDOWN nope",
        "SHUTDOWN NOW nope",
        "RESET x",
        "RESET",
    ];
    let alike = [
        "TIME",
        "CLIENT ID",
        "CLIENT INFO",
        "CLIENT LIST",
        "CLIENT LIST TYPE normal",
        "HELLO",
        "HELLO 2",
        "COMMAND COUNT",
        "INFO",
        "INFO server",
        "info all",
        "CLIENT LIST ID 1",
    ];
    for hello in ["HELLO 2", "HELLO 3"] {
        let mut pair = both.pair();
        pair.alike(hello);
        for line in same {
            // Some of them change the protocol, all of them succeed or fail on both sides.
            pair.same(line);
            pair.alike(hello);
        }
        for line in alike {
            pair.alike(line);
            pair.alike(hello);
        }
        pair.same("RESET");
        pair.same("CLIENT GETNAME");
        pair.same("QUIT");
        assert_eq!(pair.redis.reply(), None);
        assert_eq!(pair.stark.reply(), None);
    }
    both.stark.stop();
}

#[test]
fn what_is_no_command_is_refused_with_the_same_words() {
    let both = Both::start(None);
    for line in [
        "*x\r\n",
        "*1\r\n:1\r\n",
        "*1\r\n$x\r\n",
        "*1\r\n$-1\r\n",
        "PING \"a",
        "PING 'a'b",
        "*99999999999\r\n",
        "*1\r\n$600000000\r\n",
        "POST / HTTP/1.1",
        "Host: localhost",
    ] {
        let mut pair = both.pair();
        pair.same("PING");
        pair.same(line);
        assert_eq!(pair.redis.reply(), None, "{line}");
        assert_eq!(pair.stark.reply(), None, "{line}");
    }
    both.stark.stop();
}

#[test]
fn who_did_not_authenticate_is_told_the_same() {
    let both = Both::start(Some("secret"));
    let mut pair = both.pair();
    for line in [
        "PING",
        "INFO",
        "CLIENT LIST",
        "AUTH no",
        "AUTH default no",
        "AUTH nobody secret",
        "HELLO 3 AUTH default no",
        "HELLO 9",
        "HELLO x",
        "RESET",
        "PING",
        "AUTH secret",
        "PING",
        "AUTH no",
        "PING",
        "RESET",
        "PING",
        "AUTH default secret",
        "PING",
        "CLIENT KILL USER default SKIPME yes",
        "QUIT",
    ] {
        pair.same(line);
    }
    let mut pair = both.pair();
    pair.alike("HELLO");
    pair.alike("HELLO 3");
    pair.alike("HELLO 3 AUTH default secret SETNAME bob");
    pair.same("CLIENT GETNAME");
    pair.same("RESET");
    pair.same("CLIENT GETNAME");
    let mut cli = both.pair().stark;
    assert_eq!(cli.ask("AUTH secret"), Some(Reply::OK));
    assert_eq!(cli.ask("SHUTDOWN"), Some(Reply::OK));
    both.stark.assert_nothing_left();
}
