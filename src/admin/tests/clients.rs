//! What clients learn of each other and of themselves, and how they speak: `CLIENT`, `HELLO`, both versions of RESP, both
//! kinds of socket.

use super::*;
use std::os::unix::net::UnixStream;

fn field(line: &str, name: &str) -> String {
    let found = line
        .split_whitespace()
        .find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    found
        .unwrap_or_else(|| panic!("no {name} in {line}"))
        .into()
}

#[test]
fn a_client_is_listed_with_what_it_said_of_itself() {
    let server = start();
    let mut peer = server.connect();
    assert_eq!(peer.ask("CLIENT ID"), ":1\r\n");
    assert_eq!(peer.ask("CLIENT GETNAME"), "$-1\r\n");
    assert_eq!(peer.ask("CLIENT SETNAME bob"), "+OK\r\n");
    assert_eq!(peer.ask("CLIENT SETINFO LIB-NAME redis-py"), "+OK\r\n");
    assert_eq!(peer.ask("CLIENT SETINFO lib-ver 5.0.1"), "+OK\r\n");
    assert_eq!(peer.text("CLIENT GETNAME"), "bob\r\n");
    let mut other = server.connect();
    assert_eq!(other.ask("SELECT 0"), "+OK\r\n");
    let list = peer.text("CLIENT LIST");
    let lines: Vec<&str> = list.trim_end().lines().collect();
    assert_eq!(lines.len(), 2, "{list}");
    let own = peer.0.get_ref().local_addr().unwrap().to_string();
    for (line, fields) in [
        (
            lines[0],
            [
                ("id", "1"),
                ("addr", own.as_str()),
                ("laddr", &server.address.to_string()),
                ("name", "bob"),
                ("lib-name", "redis-py"),
                ("lib-ver", "5.0.1"),
                ("cmd", "client|list"),
                ("resp", "2"),
            ],
        ),
        (
            lines[1],
            [
                ("id", "2"),
                ("name", ""),
                ("flags", "N"),
                ("db", "0"),
                ("multi", "-1"),
                ("user", "default"),
                ("cmd", "select"),
                ("lib-name", ""),
            ],
        ),
    ] {
        for (name, value) in fields {
            assert_eq!(field(line, name), value, "{name} in {line}");
        }
    }
    assert_eq!(peer.ask("CLIENT SETNAME \"\""), "+OK\r\n");
    assert_eq!(peer.ask("CLIENT GETNAME"), "$-1\r\n");
}

#[test]
fn resp3_is_spoken_after_hello_3_and_not_after_reset() {
    let server = start();
    let mut peer = server.connect();
    assert_eq!(peer.ask("HELLO"), "*14\r\n");
    let mut hello = String::new();
    while !hello.ends_with("modules\r\n*0\r\n") {
        hello += &peer.line();
    }
    assert!(hello.contains("proto\r\n:2\r\n"), "{hello}");
    assert_eq!(peer.ask("HELLO 3"), "%7\r\n");
    while peer.line() != "*0\r\n" {}
    assert_eq!(peer.ask("CLIENT GETNAME"), "_\r\n");
    peer.send("INFO server\r\n");
    assert!(peer.line().starts_with('='));
    assert!(peer.line().starts_with("txt:# Server"));
    while peer.line() != "\r\n" {}
    assert_eq!(peer.ask("COMMAND DOCS ping"), "%1\r\n");
    peer.send("RESET\r\n");
    while peer.line() != "+RESET\r\n" {}
    assert_eq!(peer.ask("CLIENT GETNAME"), "$-1\r\n");
    assert!(peer.ask("INFO server").starts_with('$'));
}

#[test]
fn a_killed_client_is_closed_and_nobody_else() {
    let server = start();
    let mut killer = server.connect();
    assert_eq!(killer.ask("PING"), "+PONG\r\n");
    let mut victims: Vec<Peer> = (0..3).map(|_| server.connect()).collect();
    let address = |peer: &Peer| peer.0.get_ref().local_addr().unwrap();
    for victim in &mut victims {
        assert_eq!(victim.ask("PING"), "+PONG\r\n");
    }
    let first = address(&victims[0]);
    assert_eq!(killer.ask(&format!("CLIENT KILL {first}")), "+OK\r\n");
    assert_eq!(victims[0].rest(), "");
    assert_eq!(
        killer.ask(&format!("CLIENT KILL {first}")),
        "-ERR No such client\r\n"
    );
    // Who is killed is not listed any more, even in the same turn.
    killer.send("CLIENT KILL ID 3\r\nCLIENT LIST\r\n");
    assert_eq!(killer.line(), ":1\r\n");
    let head = killer.line();
    let list = killer.read_text(&head);
    let ids: Vec<String> = list
        .trim_end()
        .lines()
        .map(|line| field(line, "id"))
        .collect();
    assert_eq!(ids, ["1", "4"]);
    assert_eq!(victims[1].rest(), "");
    assert_eq!(victims[2].ask("PING"), "+PONG\r\n");
}

#[test]
fn who_kills_itself_is_answered_first() {
    let server = start();
    let mut witness = server.connect();
    assert_eq!(witness.ask("PING"), "+PONG\r\n");
    let mut peer = server.connect();
    let own = peer.0.get_ref().local_addr().unwrap();
    assert_eq!(peer.ask(&format!("CLIENT KILL ADDR {own}")), ":0\r\n");
    assert_eq!(peer.ask("CLIENT KILL ID 2 SKIPME no"), ":1\r\n");
    assert_eq!(peer.rest(), "");
    let mut peer = server.connect();
    let own = peer.0.get_ref().local_addr().unwrap();
    assert_eq!(peer.ask(&format!("CLIENT KILL {own}")), "+OK\r\n");
    assert_eq!(peer.rest(), "");
    assert_eq!(witness.ask("CLIENT KILL TYPE pubsub"), ":0\r\n");
    witness.wait_for_connected("1");
}

#[test]
fn a_unix_socket_is_a_door_like_the_other_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let unix = UnixListener::bind(&path).unwrap();
    let server = Server::start_with(Limits::new(2), Access::default(), Some(unix));
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(b"PING\r\nCLIENT INFO\r\n").unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "+PONG");
    lines.next().unwrap().unwrap();
    let line = lines.next().unwrap().unwrap();
    let address = format!("unix:{}", path.display());
    assert_eq!(field(&line, "addr"), address);
    assert_eq!(field(&line, "laddr"), address);
    assert_eq!(field(&line, "flags"), "U");
    // The bound counts both kinds.
    let mut peer = server.connect();
    assert_eq!(peer.info("connected_clients"), "2");
    let mut refused = String::new();
    let mut third = UnixStream::connect(&path).unwrap();
    third.set_read_timeout(Some(LIMIT)).unwrap();
    third.read_to_string(&mut refused).unwrap();
    assert_eq!(refused, "-ERR max number of clients reached\r\n");
    assert_eq!(peer.ask(&format!("CLIENT KILL ADDR {address}")), ":1\r\n");
    let mut rest = String::new();
    assert_eq!(stream.read_to_string(&mut rest).unwrap(), 0);
    peer.wait_for_connected("1");
}

#[test]
fn time_is_seconds_and_microseconds() {
    let server = start();
    let mut peer = server.connect();
    assert_eq!(peer.ask("TIME"), "*2\r\n");
    let mut number = || {
        peer.line();
        peer.line().trim_end().parse::<u64>().unwrap()
    };
    let seconds = number();
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(now - seconds < 60, "{seconds}");
    assert!(number() < 1_000_000);
}
