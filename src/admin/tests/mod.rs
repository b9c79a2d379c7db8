//! The admin port under a real poll, spoken to over real sockets: what operators rely on, and what clients without manners
//! must not be able to do to them.

mod access;
mod clients;

use super::*;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Command as Process, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);
const STOP: Token = Token(0);
const FIRST_TOKEN: usize = 1;

/// A loop as the master's, in a thread of its own.
struct Server {
    address: SocketAddr,
    orders: Receiver<Order>,
    stop: Arc<mio::Waker>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(limits: Limits) -> Self {
        Self::start_with(limits, Access::default(), None)
    }

    fn start_with(limits: Limits, access: Access, unix: Option<UnixListener>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut poll = mio::Poll::new().unwrap();
        let stop = Arc::new(mio::Waker::new(poll.registry(), STOP).unwrap());
        let (give, orders) = mpsc::channel();
        let listeners = Listeners {
            tcp: listener,
            unix,
        };
        let mut admin =
            Admin::new(listeners, poll.registry(), FIRST_TOKEN, limits, access).unwrap();
        let thread = std::thread::spawn(move || {
            let mut events = mio::Events::with_capacity(64);
            loop {
                let now = Instant::now();
                let wait = admin.next_deadline(now).map(|at| at - now);
                poll.poll(&mut events, wait).unwrap();
                for event in &events {
                    if !admin.collect(event) {
                        return admin.close(poll.registry());
                    }
                }
                for order in admin.turn(poll.registry(), Instant::now(), &mut snapshot) {
                    give.send(order).unwrap();
                }
            }
        });
        Self {
            address,
            orders,
            stop,
            thread: Some(thread),
        }
    }

    fn connect(&self) -> Peer {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        Peer(BufReader::new(stream))
    }

    fn redis_cli(&self, args: &[&str], input: &str) -> String {
        let mut cli = Process::new("redis-cli")
            .args(["-h", "127.0.0.1", "-p", &self.address.port().to_string()])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("redis-cli is installed");
        cli.stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        let output = cli.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.wake().unwrap();
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))), "the loop panicked");
        }
    }
}

fn snapshot() -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.master.name = "mail".into();
    snapshot
}

/// A client that does as it likes.
struct Peer(BufReader<TcpStream>);

impl Peer {
    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }

    fn ask(&mut self, command: &str) -> String {
        self.send(format!("{command}\r\n"));
        self.line()
    }

    /// Asks for a text.
    fn text(&mut self, command: &str) -> String {
        let head = self.ask(command);
        self.read_text(&head)
    }

    /// The rest of a bulk or verbatim string that began with this line.
    fn read_text(&mut self, head: &str) -> String {
        let length: usize = head[1..].trim_end().parse().expect("a string's length");
        let mut text = vec![0; length + 2];
        self.0.read_exact(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    /// The value of a field of `INFO`.
    fn info(&mut self, field: &str) -> String {
        let text = self.text("INFO");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {field} in {text}"))
            .into()
    }

    /// Asks until so many clients are connected.
    fn wait_for_connected(&mut self, count: &str) {
        let give_up = Instant::now() + LIMIT;
        while self.info("connected_clients") != count {
            assert!(Instant::now() < give_up, "not {count} clients in time");
        }
    }

    /// What comes until the connection ends; a reset is an end too, when the server had not read all.
    fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        match self.0.read_to_end(&mut bytes) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
            _ => String::from_utf8(bytes).unwrap(),
        }
    }
}

fn start() -> Server {
    Server::start(Limits::new(128))
}

#[test]
fn redis_cli_speaks_with_it() {
    let server = start();
    assert_eq!(server.redis_cli(&["ping"], ""), "PONG\n");
    assert_eq!(server.redis_cli(&["echo", "a b\r\n"], ""), "a b\r\n\n");
    assert!(
        server
            .redis_cli(&["info"], "")
            .contains("# Master\r\nname:mail\r\n")
    );
    assert_eq!(server.redis_cli(&["--raw", "command", "count"], ""), "12\n");
    let unknown = server.redis_cli(&["get", "key"], "");
    assert_eq!(
        unknown.trim_end(),
        "ERR unknown command 'get', with args beginning with: 'key'"
    );
}

#[test]
fn redis_cli_finds_its_help_and_falls_back_to_resp2() {
    let server = start();
    let told = server.redis_cli(&[], "help shutdown\nhelp command docs\nping\n");
    assert!(told.contains("[NOW]"), "{told}");
    assert!(told.contains("[command-name [command-name ...]]"), "{told}");
    assert!(told.contains("PONG"), "{told}");
    let info = server.redis_cli(&["--raw", "command", "info", "echo"], "");
    assert!(
        info.starts_with("echo\n2\nloading\nstale\nfast\n"),
        "{info}"
    );
}

#[test]
fn a_command_in_single_bytes_is_answered_like_any_other() {
    let server = start();
    let mut peer = server.connect();
    peer.0.get_ref().set_nodelay(true).unwrap();
    for byte in b"*2\r\n$4\r\nECHO\r\n$5\r\nhello\r\nPI" {
        peer.send([*byte]);
    }
    assert_eq!(peer.line(), "$5\r\n");
    assert_eq!(peer.line(), "hello\r\n");
    peer.send("NG 'a b'\n");
    assert_eq!(peer.line(), "$3\r\n");
    assert_eq!(peer.line(), "a b\r\n");
}

#[test]
fn ten_thousand_pipelined_commands_are_answered_in_order() {
    let server = start();
    let mut peer = server.connect();
    let pipeline: String = (0..10_000).map(|i| format!("PING {i}\r\n")).collect();
    let mut writer = peer.0.get_ref().try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(pipeline.as_bytes()));
    for i in 0..10_000 {
        assert_eq!(peer.line(), format!("${}\r\n", i.to_string().len()));
        assert_eq!(peer.line(), format!("{i}\r\n"));
    }
    writing.join().unwrap().unwrap();
}

#[test]
fn a_client_that_ends_its_sending_half_still_gets_every_answer() {
    let server = start();
    let mut peer = server.connect();
    peer.send("PING\r\n".repeat(10_000));
    peer.0.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(peer.rest(), "+PONG\r\n".repeat(10_000));
}

#[test]
fn a_half_command_holds_nobody_up_and_its_sender_may_leave() {
    let server = start();
    let mut half = server.connect();
    half.send("*2\r\n$4\r\nECHO\r\n$100\r\nabc");
    let mut other = server.connect();
    assert_eq!(other.ask("PING"), "+PONG\r\n");
    drop(half);
    other.wait_for_connected("1");
}

#[test]
fn a_broken_protocol_is_named_and_the_client_closed() {
    let server = start();
    let long = "x".repeat(64 * 1024);
    for (bytes, text) in [
        ("*x\r\n", "invalid multibulk length"),
        ("*1025\r\n", "invalid multibulk length"),
        ("*1\r\n$70000\r\n", "invalid bulk length"),
        ("*1\r\n:1\r\n", "expected '$', got ':'"),
        ("PING \"a\r\n", "unbalanced quotes in request"),
        (&long, "too big inline request"),
    ] {
        let mut peer = server.connect();
        peer.send("PING\r\n");
        peer.send(bytes);
        assert_eq!(
            peer.rest(),
            format!("+PONG\r\n-ERR Protocol error: {text}\r\n")
        );
    }
    assert_eq!(server.connect().ask("PING"), "+PONG\r\n");
}

#[test]
fn errors_leave_the_connection_usable() {
    let server = start();
    let mut peer = server.connect();
    assert_eq!(
        peer.ask("GOODBYE 3"),
        "-ERR unknown command 'GOODBYE', with args beginning with: '3' \r\n"
    );
    assert_eq!(
        peer.ask("ECHO"),
        "-ERR wrong number of arguments for 'echo' command\r\n"
    );
    assert_eq!(peer.ask("PING"), "+PONG\r\n");
}

#[test]
fn a_browser_cannot_steer() {
    let server = start();
    for head in [
        "GET / HTTP/1.1\r\n",
        "POST /x HTTP/1.1\r\n",
        "PUT / HTTP/1.1\r\n",
    ] {
        let mut peer = server.connect();
        peer.send(format!("{head}Host: 127.0.0.1\r\n\r\nSHUTDOWN\r\n"));
        assert_eq!(peer.rest(), "");
    }
    assert!(server.orders.try_recv().is_err());
}

#[test]
fn random_bytes_close_their_sender_or_wait_and_hurt_nobody() {
    let server = start();
    let mut seed = 0xad31_u64;
    let mut witness = server.connect();
    for round in 0..50 {
        let garbage: Vec<u8> = (0..round * 20)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 56) as u8
            })
            .collect();
        let mut peer = server.connect();
        // The server may close before all is written.
        let _ = peer.0.get_mut().write_all(&garbage);
        assert_eq!(witness.ask("PING"), "+PONG\r\n");
    }
}

#[test]
fn a_client_that_never_reads_is_closed_and_nobody_else_notices() {
    let server = start();
    let mut deaf = server.connect();
    let mut other = server.connect();
    let echo = format!("ECHO {}\r\n", "x".repeat(32 * 1024));
    // The kernel's buffers hold some megabytes; one megabyte beyond them ends it.
    let closed = (0..4096).find(|_| {
        assert_eq!(other.ask("PING"), "+PONG\r\n");
        deaf.0.get_mut().write_all(echo.as_bytes()).is_err()
    });
    assert!(closed.is_some());
    other.wait_for_connected("1");
}

#[test]
fn a_slow_reader_gets_all_that_fits_the_limit() {
    let server = start();
    let mut peer = server.connect();
    let echo = format!("ECHO {}\r\n", "x".repeat(60 * 1024));
    peer.send(echo.repeat(16));
    assert_eq!(server.connect().ask("PING"), "+PONG\r\n");
    for _ in 0..16 {
        assert_eq!(peer.line(), "$61440\r\n");
        assert_eq!(peer.line().len(), 61440 + 2);
    }
    assert_eq!(peer.ask("PING"), "+PONG\r\n");
}

#[test]
fn connections_over_the_limit_are_refused_until_a_client_leaves() {
    let server = Server::start(Limits::new(10));
    let mut clients: Vec<Peer> = (0..10).map(|_| server.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.ask("PING"), "+PONG\r\n");
    }
    let refused: Vec<Peer> = (0..200).map(|_| server.connect()).collect();
    for mut peer in refused {
        assert_eq!(peer.rest(), "-ERR max number of clients reached\r\n");
    }
    assert_eq!(clients[0].info("connected_clients"), "10");
    assert_eq!(clients[0].info("total_connections_received"), "10");
    clients.pop();
    clients[0].wait_for_connected("9");
    assert_eq!(server.connect().ask("PING"), "+PONG\r\n");
}

#[test]
fn floods_leave_time_for_others() {
    let server = start();
    let floods: Vec<_> = ["INFO\r\n", "\r\n", "*0\r\n", "COMMAND DOCS\r\n"]
        .iter()
        .map(|command| {
            let stream = server.connect().0.into_inner();
            let (mut writer, mut reader) = (stream.try_clone().unwrap(), stream);
            let flood = command.repeat(1000);
            let writing =
                std::thread::spawn(move || while writer.write_all(flood.as_bytes()).is_ok() {});
            let end = reader.try_clone().unwrap();
            let reading = std::thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while reader.read(&mut buffer).is_ok_and(|count| count > 0) {}
            });
            (end, writing, reading)
        })
        .collect();
    let mut peer = server.connect();
    for _ in 0..200 {
        assert_eq!(peer.ask("PING"), "+PONG\r\n");
    }
    for (end, writing, reading) in floods {
        // Fails for a flood that the server closed already, since its replies were read too slowly.
        let _ = end.shutdown(Shutdown::Both);
        writing.join().unwrap();
        reading.join().unwrap();
    }
}

#[test]
fn quit_is_answered_and_ends_the_connection() {
    let server = start();
    let mut peer = server.connect();
    peer.send("QUIT\r\nPING\r\n");
    assert_eq!(peer.rest(), "+OK\r\n");
}

#[test]
fn shutdown_is_answered_and_handed_to_the_master() {
    let server = start();
    let mut peer = server.connect();
    assert_eq!(peer.ask("SHUTDOWN later"), "-ERR syntax error\r\n");
    assert_eq!(peer.ask("shutdown"), "+OK\r\n");
    assert_eq!(server.orders.recv_timeout(LIMIT), Ok(Order::Shutdown));
    assert_eq!(peer.ask("shutdown NOW"), "+OK\r\n");
    assert_eq!(server.orders.recv_timeout(LIMIT), Ok(Order::ShutdownNow));
}

#[test]
fn the_answer_to_shutdown_is_sent_before_the_master_gets_the_order() {
    let (mut poll, mut admin, address) = admin_alone();
    let mut peer = Peer(BufReader::new(TcpStream::connect(address).unwrap()));
    peer.send("SHUTDOWN\r\n");
    let orders = wait_for_orders(&mut poll, &mut admin);
    assert_eq!(orders, [Order::Shutdown]);
    // Nothing runs the loop any more: what can be read now was sent before.
    assert_eq!(peer.line(), "+OK\r\n");
}

#[test]
fn idle_clients_need_no_turn() {
    let (mut poll, mut admin, address) = admin_alone();
    let mut peer = Peer(BufReader::new(TcpStream::connect(address).unwrap()));
    peer.send("PING\r\nSHUTDOWN\r\n");
    wait_for_orders(&mut poll, &mut admin);
    let now = Instant::now();
    while admin.next_deadline(now).is_some() {
        admin.turn(poll.registry(), now, &mut snapshot);
    }
    let mut events = mio::Events::with_capacity(8);
    poll.poll(&mut events, Some(Duration::from_millis(50)))
        .unwrap();
    assert!(events.is_empty(), "{events:?}");
}

#[test]
fn closing_sends_what_is_left_and_refuses_new_connections() {
    let (mut poll, mut admin, address) = admin_alone();
    let mut peer = Peer(BufReader::new(TcpStream::connect(address).unwrap()));
    peer.send("PING\r\nSHUTDOWN\r\n");
    wait_for_orders(&mut poll, &mut admin);
    admin.close(poll.registry());
    assert_eq!(peer.rest(), "+PONG\r\n+OK\r\n");
    assert!(TcpStream::connect(address).is_err());
    assert_eq!(admin.next_deadline(Instant::now()), None);
    assert!(
        admin
            .turn(poll.registry(), Instant::now(), &mut snapshot)
            .is_empty()
    );
}

fn admin_alone() -> (mio::Poll, Admin, SocketAddr) {
    admin_alone_with(Access::default())
}

fn admin_alone_with(access: Access) -> (mio::Poll, Admin, SocketAddr) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let poll = mio::Poll::new().unwrap();
    let listeners = Listeners {
        tcp: listener,
        unix: None,
    };
    let limits = Limits::new(8);
    let admin = Admin::new(listeners, poll.registry(), FIRST_TOKEN, limits, access).unwrap();
    (poll, admin, address)
}

fn wait_for_orders(poll: &mut mio::Poll, admin: &mut Admin) -> Vec<Order> {
    let mut events = mio::Events::with_capacity(8);
    let give_up = Instant::now() + LIMIT;
    while Instant::now() < give_up {
        let now = Instant::now();
        let wait = admin.next_deadline(now).map_or(LIMIT, |at| at - now);
        poll.poll(&mut events, Some(wait)).unwrap();
        for event in &events {
            assert!(admin.collect(event));
        }
        let orders = admin.turn(poll.registry(), Instant::now(), &mut snapshot);
        if !orders.is_empty() {
            return orders;
        }
    }
    panic!("no order came")
}

#[test]
fn a_turn_is_bounded_however_many_ask_for_much_and_everybody_has_his() {
    const CLIENTS: u64 = 40;
    const BYTES: usize = 60_000;
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let mut poll = mio::Poll::new().unwrap();
    let listeners = Listeners { tcp, unix: None };
    let limits = Limits::new(CLIENTS as usize);
    let access = Access::default();
    let mut admin = Admin::new(listeners, poll.registry(), FIRST_TOKEN, limits, access).unwrap();
    let ask = format!("*2\r\n$4\r\nECHO\r\n${BYTES}\r\n{}\r\n", "x".repeat(BYTES));
    let readers: Vec<JoinHandle<()>> = (0..CLIENTS)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            let ask = ask.clone();
            std::thread::spawn(move || {
                stream.write_all(ask.as_bytes()).unwrap();
                let mut reply = vec![0; format!("${BYTES}\r\n").len() + BYTES + 2];
                stream.read_exact(&mut reply).unwrap();
            })
        })
        .collect();
    let most = (TURN_REPLY_BYTES / BYTES + 1) as u64;
    let mut events = mio::Events::with_capacity(64);
    while readers.iter().any(|reader| !reader.is_finished()) {
        let wait = admin.next_deadline(Instant::now()).map(|_| Duration::ZERO);
        poll.poll(&mut events, wait.or(Some(Duration::from_millis(10))))
            .unwrap();
        for event in &events {
            admin.collect(event);
        }
        let before = admin.figures.commands_processed;
        admin.turn(poll.registry(), Instant::now(), &mut snapshot);
        assert!(admin.figures.commands_processed - before <= most);
    }
    assert_eq!(admin.figures.commands_processed, CLIENTS);
    readers
        .into_iter()
        .for_each(|reader| reader.join().unwrap());
}
