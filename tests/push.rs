//! `stark push`: every byte arrives, in order, soon; and however it ends, it says how many jobs went.

mod support;

use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};

use nix::sys::signal::Signal;
use support::redis::Redis;
use support::stark::{LIMIT, Stark, kill, queue, status, wait_for, wait_for_value};

const NULL: &str = "[run]\nbuiltin = null\n";

fn wait_for_length(redis: &Redis, length: usize) {
    wait_for_value(LIMIT, "jobs in the queue", length, || {
        redis.list("jobs").len()
    });
}

/// Settings with a queue, and no daemon.
fn prepare(redis: &Redis) -> Stark {
    Stark::prepare(&format!("{NULL}{}", queue(redis, "jobs")), "")
}

/// `stark push -`, and its stdin.
fn push_from_pipe(stark: &Stark) -> (Child, ChildStdin) {
    let mut program: Command = stark.program();
    program.args(["push", "-"]);
    program
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut push = program.spawn().expect("stark runs");
    let stdin = push.stdin.take().expect("piped");
    (push, stdin)
}

/// Exit status (128 and the signal's number if one ended it), stdout, stderr.
fn ended(push: Child) -> (i32, String, String) {
    use std::os::unix::process::ExitStatusExt;
    let output = push.wait_with_output().expect("it is our child");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let status = output.status;
    let status = status
        .code()
        .or_else(|| Some(128 + status.signal()?))
        .expect("it has ended");
    (status, text(output.stdout), text(output.stderr))
}

#[test]
fn push_appends_arguments_and_lines_of_stdin_byte_by_byte() {
    let redis = Redis::start();
    let stark = Stark::prepare(&format!("{NULL}{}", queue(&redis, "jobs")), "");
    assert_eq!(
        stark.cli(&["push", "one", "two three", ""]).stdout,
        "3 pushed\n"
    );
    let lines = b"a\0b\xff\r\n\n\x80last without newline";
    assert_eq!(
        stark.cli_with_stdin(&["push", "-"], lines).stdout,
        "3 pushed\n"
    );
    let expected: [&[u8]; 6] = [
        b"one",
        b"two three",
        b"",
        b"a\0b\xff\r",
        b"",
        b"\x80last without newline",
    ];
    assert_eq!(redis.list("jobs"), expected);

    assert_eq!(stark.cli(&["push", "--key", "other", "x"]).status, 0);
    assert_eq!(redis.list("other"), [b"x"]);
    let many: String = (0..2500).map(|number| format!("{number}\n")).collect();
    stark.cli_with_stdin(&["push", "--key", "many", "-"], many.as_bytes());
    let numbers: Vec<Vec<u8>> = (0..2500).map(|n| n.to_string().into_bytes()).collect();
    assert!(redis.list("many") == numbers, "all, in their order");
}

#[test]
fn push_without_redis_or_queue_is_1() {
    let mut redis = Redis::start();
    redis.stop();
    let stark = Stark::prepare(&format!("{NULL}{}", queue(&redis, "jobs")), "");
    let ended = stark.cli(&["push", "x"]);
    assert_eq!(ended.status, 1, "{ended:?}");
    assert!(ended.stderr.starts_with("stark: cannot push"), "{ended:?}");
    stark.write("t.ini", NULL);
    let ended = stark.cli(&["push", "x"]);
    assert_eq!(ended.status, 1, "{ended:?}");
    assert!(ended.stderr.contains("no queue"), "{ended:?}");
}

#[test]
fn a_line_is_pushed_when_it_is_complete_though_more_may_come() {
    let redis = Redis::start();
    let stark = prepare(&redis);
    let (push, mut stdin) = push_from_pipe(&stark);
    stdin.write_all(b"one\ntw").expect("it reads");
    wait_for_length(&redis, 1);
    stdin.write_all(b"o\nthr").expect("it reads");
    wait_for_length(&redis, 2);
    stdin.write_all(b"ee").expect("it reads");
    drop(stdin);
    assert_eq!(ended(push), (0, "3 pushed\n".into(), String::new()));
    assert_eq!(redis.list("jobs"), [&b"one"[..], b"two", b"three"]);
}

#[test]
fn jobs_larger_than_a_command_should_be_arrive_whole() {
    let redis = Redis::start();
    let stark = prepare(&redis);
    let large = vec![b'x'; 3 << 20];
    let input = [&large[..], b"\nsmall\n", &large].concat();
    assert_eq!(
        stark.cli_with_stdin(&["push", "-"], &input).stdout,
        "3 pushed\n"
    );
    let there = redis.list("jobs");
    assert!(there[0] == large && there[1] == b"small" && there[2] == large);
}

#[test]
fn an_interrupted_push_says_how_many_went_and_ends_by_the_signal() {
    let redis = Redis::start();
    let stark = prepare(&redis);
    for (signal, expected) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let before = redis.list("jobs").len();
        let (push, mut stdin) = push_from_pipe(&stark);
        stdin.write_all(b"1\n2\n3\nhalf a li").expect("it reads");
        wait_for_length(&redis, before + 3);
        kill(push.id() as i32, signal);
        let told = (
            expected,
            String::new(),
            "stark: interrupted, 3 pushed\n".into(),
        );
        assert_eq!(ended(push), told);
        assert_eq!(
            redis.list("jobs").len(),
            before + 3,
            "what was told is true"
        );
    }
}

#[test]
fn a_second_interruption_ends_a_push_that_waits_for_a_server() {
    let redis = Redis::start();
    let ini = format!("{NULL}{}timeout = 1h\n", queue(&redis, "jobs"));
    let stark = Stark::prepare(&ini, "");
    let (push, mut stdin) = push_from_pipe(&stark);
    stdin.write_all(b"1\n").expect("it reads");
    wait_for_length(&redis, 1);
    redis.pause();
    stdin.write_all(b"2\n").expect("it reads");
    let pid = push.id() as i32;
    kill(pid, Signal::SIGINT);
    let is_taken = || u64::from_str_radix(&status(pid, "ShdPnd"), 16) == Ok(0);
    wait_for(LIMIT, "the first signal is taken", is_taken);
    kill(pid, Signal::SIGINT);
    assert_eq!(ended(push).0, 130);
    redis.resume();
}

#[test]
fn a_server_that_dies_in_the_middle_is_told_with_what_went_before() {
    let mut redis = Redis::start();
    let stark = prepare(&redis);
    let (push, mut stdin) = push_from_pipe(&stark);
    stdin.write_all(b"1\n2\n").expect("it reads");
    wait_for_length(&redis, 2);
    redis.stop();
    stdin.write_all(b"3\n").expect("it reads");
    drop(stdin);
    let (status, stdout, stderr) = ended(push);
    assert_eq!((status, &*stdout), (1, ""), "{stderr}");
    let start = "stark: cannot push after 2 jobs: cannot reach redis at ";
    assert!(stderr.starts_with(start), "{stderr}");
    assert!(
        stderr.ends_with("; whether the next 1 arrived is not known\n"),
        "{stderr}"
    );
}

#[test]
fn a_server_that_is_away_is_told_before_anything_is_read() {
    let mut redis = Redis::start();
    redis.stop();
    let stark = prepare(&redis);
    let (push, _stdin) = push_from_pipe(&stark);
    let (status, _, stderr) = ended(push);
    assert_eq!(status, 1);
    assert!(
        stderr.starts_with("stark: cannot push: cannot reach redis at "),
        "{stderr}"
    );
    assert!(!stderr.contains("not known"), "{stderr}");
}

#[test]
fn a_job_goes_to_the_first_key_unless_told_and_to_the_server_of_the_pool_that_has_the_key() {
    let (redis, other) = (Redis::start(), Redis::start());
    let mail = queue(&other, "letters").replace("[queue]", "[queue mail]");
    let ini = format!(
        "{NULL}{}[run mail]\nbuiltin = null\n{mail}",
        queue(&redis, "jobs low")
    );
    let stark = Stark::prepare(&ini, "");
    for words in [
        &["push", "a"][..],
        &["push", "--key", "low", "b"],
        &["push", "--key", "letters", "c"],
    ] {
        let ended = stark.cli(words);
        assert_eq!(ended.status, 0, "{words:?}: {ended:?}");
    }
    assert_eq!(redis.list("jobs"), [b"a"]);
    assert_eq!(redis.list("low"), [b"b"]);
    assert_eq!(other.list("letters"), [b"c"]);
}

#[test]
fn an_empty_key_is_a_mistake_of_the_command_line() {
    let redis = Redis::start();
    let stark = prepare(&redis);
    assert_eq!(stark.cli(&["push", "--key", "", "x"]).status, 2);
    assert_eq!(stark.cli(&["push", "--key", "a", "--", "--json"]).status, 0);
    assert_eq!(redis.list("a"), [b"--json"]);
}
