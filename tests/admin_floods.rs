//! The admin port when clients come in crowds, with bad manners or bad intentions: who behaves is answered throughout, and
//! the workers never pay for it.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use stark::resp::{Reply, ReplyDecoder};
use support::stark::{Ended, LIMIT, Stark, kill, run, wait_for};

const TWO: &str = "[main]\nmax_clients = 1000\n[run]\nbuiltin = null\n[worker]\ncount = 2\n";

/// Starts a daemon that may have so many descriptors at first, and so many at most.
fn start_with_descriptors(soft: u32, hard: u32) -> Stark {
    let stark = Stark::prepare(TWO, "");
    let program = stark.program();
    let mut shell = Command::new("sh");
    let limits = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" \"$@\"");
    shell.args(["-c", &limits]).arg(program.get_program());
    shell.args(program.get_args());
    for (name, value) in program.get_envs() {
        shell.env(name, value.expect("it is set"));
    }
    let Ended { status, stderr, .. } = run(shell, b"");
    assert_eq!(status, 0, "stark starts: {stderr}");
    stark
}

/// The test's own descriptors.
fn make_room_for_descriptors() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

fn connect(stark: &Stark) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", stark.port())).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

fn ping(stream: &mut TcpStream) {
    stream.write_all(b"PING\r\n").unwrap();
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"+PONG\r\n");
}

/// What comes until the end of the connection; a reset is an end, too.
fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
        _ => String::from_utf8_lossy(&bytes).into_owned(),
    }
}

fn soft_limit(pid: i32) -> String {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.expect("the kernel has it").split_whitespace().next();
    soft.unwrap().to_string()
}

/// A worker dies, and a successor is forked.
fn a_worker_is_replaced(stark: &Stark, stream: &mut TcpStream) {
    let total = figure(stream, "worker_total");
    let children = support::stark::children(stark.pid());
    let title = |pid: &i32| support::stark::title(*pid).contains("worker");
    let victim = children.into_iter().find(title).expect("a worker lives");
    kill(victim, Signal::SIGKILL);
    wait_for(LIMIT, "a successor is forked", || {
        figure(stream, "worker_total") > total && figure(stream, "worker_alive") == 2
    });
}

/// A number of `INFO`, asked on a connection that stands.
fn figure(stream: &mut TcpStream, name: &str) -> u64 {
    stream.write_all(b"INFO\r\n").unwrap();
    let mut decoder = ReplyDecoder::new(1 << 20);
    let reply = loop {
        if let Some(reply) = decoder.next_reply().expect("INFO is answered") {
            break reply;
        }
        let count = stream.read(decoder.space(4096)).expect("INFO is answered");
        assert!(count > 0, "the connection stands");
        decoder.filled(count);
    };
    let Reply::Bulk(text) = reply else {
        panic!("INFO is one bulk string");
    };
    let text = String::from_utf8(text).unwrap();
    let found = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    found.expect("INFO has it").parse().expect("a number")
}

#[test]
fn a_thousand_clients_are_answered_with_the_descriptors_that_the_kernel_allows() {
    make_room_for_descriptors();
    let stark = start_with_descriptors(256, 4096);
    let mut clients: Vec<TcpStream> = (0..1000).map(|_| connect(&stark)).collect();
    for client in &mut clients {
        ping(client);
    }
    let mut one_more = connect(&stark);
    assert_eq!(
        rest(&mut one_more),
        "-ERR max number of clients reached\r\n"
    );
    let mut first = clients.remove(0);
    assert_eq!(figure(&mut first, "connected_clients"), 1000);
    assert_eq!(figure(&mut first, "max_clients"), 1000);
    a_worker_is_replaced(&stark, &mut first);
    // Workers and their scripts begin with what we were started with.
    wait_for(LIMIT, "they have that limit", || {
        let children = support::stark::children(stark.pid());
        children.into_iter().all(|pid| soft_limit(pid) == "256")
    });
    drop(clients);
    wait_for(LIMIT, "the others are gone", || {
        figure(&mut first, "connected_clients") == 1
    });
    drop(first);
    stark.stop();
}

#[test]
fn a_flood_of_clients_leaves_the_descriptors_that_workers_need() {
    make_room_for_descriptors();
    let stark = start_with_descriptors(100, 100);
    let warning = stark.wait_for_log("fewer clients than configured");
    assert!(
        warning.contains("configured=1000 descriptors=100"),
        "{warning}"
    );
    let mut first = connect(&stark);
    let room = figure(&mut first, "max_clients");
    assert!((20..100).contains(&room), "{room}");
    let mut flood: Vec<TcpStream> = (0..300).map(|_| connect(&stark)).collect();
    wait_for(LIMIT, "all places are taken", || {
        figure(&mut first, "connected_clients") == room
    });
    assert_eq!(
        rest(flood.last_mut().unwrap()),
        "-ERR max number of clients reached\r\n"
    );
    for _ in 0..3 {
        a_worker_is_replaced(&stark, &mut first);
    }
    assert!(stark.log_lines("admin cannot accept").is_empty());
    drop(flood);
    drop(first);
    stark.stop();
}

#[test]
fn clients_without_manners_disturb_nobody() {
    make_room_for_descriptors();
    let stark = Stark::start(TWO, "");
    let mut witness = connect(&stark);
    let mut kept = Vec::new();
    let mut seed = 0x5eed_u64;
    for round in 0..200 {
        let mut half = connect(&stark);
        half.write_all(b"*3\r\n$4\r\nECHO\r\n$60000\r\nabc")
            .unwrap();
        kept.push(half);
        let mut deaf = connect(&stark);
        deaf.write_all(&b"INFO\r\nCOMMAND DOCS\r\nCLIENT LIST\r\n".repeat(10))
            .unwrap();
        kept.push(deaf);
        let mut browser = connect(&stark);
        browser
            .write_all(b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\nSHUTDOWN NOW\r\n")
            .unwrap();
        kept.push(browser);
        let mut noise = connect(&stark);
        let garbage: Vec<u8> = (0..round * 7)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 56) as u8
            })
            .collect();
        // The daemon may have closed it before all is written.
        let _ = noise.write_all(&garbage);
        kept.push(noise);
        let gone = connect(&stark);
        gone.shutdown(Shutdown::Both).unwrap();
        ping(&mut witness);
    }
    // A command in single bytes, between the others' noise.
    let mut slow = connect(&stark);
    slow.set_nodelay(true).unwrap();
    for byte in b"*1\r\n$4\r\nPI" {
        slow.write_all(&[*byte]).unwrap();
        ping(&mut witness);
    }
    slow.write_all(b"NG\r\n").unwrap();
    let mut answer = [0; 7];
    slow.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"+PONG\r\n");
    // Those of browsers are closed, without a word and without an effect.
    assert_eq!(rest(&mut kept[2]), "");
    assert_eq!(stark.command(&["PING"]), Reply::Simple("PONG".into()));
    drop(kept);
    wait_for(LIMIT, "only those who behave are left", || {
        figure(&mut witness, "connected_clients") == 2
    });
    drop((witness, slow));
    stark.stop();
}
