//! The admin port of a running daemon, asked by redis-cli: it answers at once whatever the workers do, and nobody wakes
//! without a reason.

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use stark::resp::Reply;
use support::redis::Redis;
use support::stark::{LIMIT, Stark, queue, run, status, wait_for};

const TWO: &str = "[run]\nbuiltin = null\n[worker]\ncount = 2\n";

/// What redis-cli prints into a pipe.
fn redis_cli(stark: &Stark, words: &[&str], stdin: &str) -> String {
    let mut command = Command::new("redis-cli");
    command.args(["-p", &stark.port().to_string()]).args(words);
    let ended = run(command, stdin.as_bytes());
    assert_eq!(ended.status, 0, "redis-cli must be installed: {ended:?}");
    ended.stdout
}

#[test]
fn redis_cli_is_answered_by_arguments_and_by_lines() {
    let stark = Stark::start(TWO, "");
    assert_eq!(redis_cli(&stark, &["ping"], ""), "PONG\n");
    assert_eq!(redis_cli(&stark, &["echo", "two words"], ""), "two words\n");
    assert_eq!(redis_cli(&stark, &["-3", "ping"], ""), "PONG\n");
    assert!(
        redis_cli(&stark, &["command", "count"], "")
            .trim()
            .parse::<u32>()
            .unwrap()
            >= 6
    );
    let unknown = redis_cli(&stark, &["dance", "now"], "");
    assert!(
        unknown.starts_with("ERR unknown command 'dance', with args beginning with: 'now'"),
        "{unknown}"
    );
    assert_eq!(
        redis_cli(&stark, &[], "ping\necho a\necho b\n"),
        "PONG\na\nb\n"
    );
    stark.stop();
}

#[test]
fn redis_cli_ends_the_daemon() {
    let stark = Stark::start(TWO, "");
    redis_cli(&stark, &["shutdown"], "");
    stark.assert_nothing_left();
}

#[test]
fn inline_commands_are_answered_and_browsers_are_not() {
    use std::io::{Read, Write};
    let stark = Stark::start(TWO, "");
    let talk = |text: &str| {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", stark.port())).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // A connection that is closed on unread bytes is reset.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    assert_eq!(
        talk("PING\r\necho \"a b\"\r\nQUIT\r\n"),
        "+PONG\r\n$3\r\na b\r\n+OK\r\n"
    );
    let answer = talk("GET / HTTP/1.1\r\nHost: localhost\r\n\r\nSHUTDOWN\r\n");
    assert!(!answer.contains("OK"), "{answer}");
    assert_eq!(stark.command(&["PING"]), Reply::Simple("PONG".into()));
    stark.stop();
}

#[test]
fn info_has_all_sections_the_asked_ones_and_the_flat_one_of_old() {
    let stark = Stark::start(TWO, "");
    let all = redis_cli(&stark, &["info"], "");
    for section in [
        "Server", "Master", "Memory", "Clients", "Worker", "Stats", "CPU",
    ] {
        assert!(
            all.contains(&format!("# {section}\r\n")),
            "{section}: {all}"
        );
    }
    let some = redis_cli(&stark, &["info", "cpu", "clients"], "");
    let heads: Vec<&str> = some.lines().filter(|line| line.starts_with('#')).collect();
    assert_eq!(heads.len(), 2, "{some}");
    let flat = redis_cli(&stark, &["info", "stark"], "");
    for field in [
        "host",
        "port",
        "daemon_name",
        "start_time",
        "max_worker",
        "total_count",
    ] {
        assert!(
            flat.lines()
                .any(|line| line.starts_with(&format!("{field}:"))),
            "{field}: {flat}"
        );
    }
    let info = stark.info();
    assert_eq!(info["process_id"], stark.pid().to_string());
    assert_eq!(info["tcp_port"], stark.port().to_string());
    assert_eq!(info["config_file"], stark.path("t.ini").to_string_lossy());
    stark.stop();
}

#[test]
fn it_answers_at_once_while_all_workers_are_busy() {
    let redis = Redis::start();
    let ini = format!(
        "[run]\nbuiltin = probe\n[worker]\ncount = 2\n{}",
        queue(&redis, "jobs")
    );
    let stark = Stark::start(&ini, "");
    redis::cmd("RPUSH")
        .arg("jobs")
        .arg(&["sleep 600000", "spin 600000"])
        .exec(&mut redis.connect())
        .unwrap();
    stark.wait_for_figure("worker_busy", 2);
    let begin = Instant::now();
    for _ in 0..100 {
        assert_eq!(stark.command(&["PING"]), Reply::Simple("PONG".into()));
        assert_eq!(stark.figure("worker_busy"), 2);
    }
    assert!(
        begin.elapsed() < Duration::from_secs(10),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(stark.cli(&["shutdown", "now"]).status, 0);
    stark.assert_nothing_left();
}

#[test]
fn a_client_that_breaks_a_bound_hurts_nobody_else() {
    use std::io::{Read, Write};
    let stark = Stark::start(TWO, "");
    for nonsense in [
        "*1000000000\r\n",
        "$-5\r\n",
        "*1\r\n$999999999\r\n",
        "*1\r\n:1\r\n",
    ] {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", stark.port())).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(nonsense.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("-ERR "), "{nonsense:?}: {answer:?}");
    }
    // Half a command, left open.
    let mut half = std::net::TcpStream::connect(("127.0.0.1", stark.port())).unwrap();
    half.write_all(b"*2\r\n$4\r\nEC").unwrap();
    assert_eq!(stark.command(&["PING"]), Reply::Simple("PONG".into()));
    stark.stop();
}

#[test]
fn an_idle_daemon_wakes_for_heartbeats_only() {
    const WORKERS: u64 = 4;
    const BEATS: u64 = 5;
    let redis = Redis::start();
    let ini = format!(
        "[main]\nheartbeat_seconds = 0.5\n[run]\nbuiltin = null\n[worker]\ncount = {WORKERS}\n{}",
        queue(&redis, "jobs")
    );
    let stark = Stark::start(&ini, "");
    stark.wait_for_figure("worker_idle", WORKERS);
    let (master, workers) = (stark.pid(), stark.worker_pids());
    let sleeps = |pid: i32| -> u64 { status(pid, "voluntary_ctxt_switches").parse().unwrap() };
    wait_for(LIMIT, "nobody has anything to do", || {
        workers
            .iter()
            .all(|pid| status(*pid, "State").starts_with('S'))
    });
    let before: Vec<u64> = workers.iter().map(|pid| sleeps(*pid)).collect();
    let (master_before, begin) = (sleeps(master), Instant::now());
    // What happens while nothing happens needs time to be seen.
    std::thread::sleep(Duration::from_millis(500 * BEATS));
    let intervals = begin.elapsed().as_millis() as u64 / 500 + 1;
    let woken = sleeps(master) - master_before;
    assert!(
        woken <= (WORKERS + 1) * intervals,
        "{woken} in {intervals} intervals"
    );
    for (pid, before) in workers.iter().zip(before) {
        // Some for the last turn, since one that waits for Redis sleeps as well; none for heartbeats.
        let woken = sleeps(*pid) - before;
        assert!(woken < BEATS, "a heartbeat is the control thread's affair");
    }
    stark.stop();
}
