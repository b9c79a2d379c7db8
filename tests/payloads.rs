//! Large, empty and binary payloads through the whole daemon: they arrive byte for byte, in order, and neither the workers'
//! nor the scripts' nor the server's memory grows beyond what a few of them take.

mod support;

use std::fs;

use redis::Commands;

use support::redis::Redis;
use support::stark::{LIMIT, Stark, queue, status, wait_for, wait_for_value};

const KEY: &str = "q";
const MB: usize = 1 << 20;

/// Keeps what arrives, and the length of each.
const SCRIPT: &str = r#"<?php
function run($worker, $data)
{
    file_put_contents('lengths', strlen($data) . "\n", FILE_APPEND);
    file_put_contents('ran', $data, FILE_APPEND);
}
"#;

/// A daemon with one worker. Its script keeps what it gets; the builtin does what the payload says.
struct Rig {
    redis: Redis,
    stark: Stark,
}

impl Rig {
    fn start(run: &str, more: &str) -> Self {
        // Nothing is kept on disk: an append-only file of all this is only slow.
        let redis = Redis::start_with(&["--appendonly", "no"]);
        let ini = format!("[run]\n{run}\n{}{more}\n", queue(&redis, KEY));
        let stark = Stark::start(&ini, SCRIPT);
        stark.wait_for_figure("worker_idle", 1);
        Self { redis, stark }
    }

    fn php() -> Self {
        Self::start("script_file = run.php", "")
    }

    fn worker(&self) -> i32 {
        self.stark.worker_pids()[0]
    }

    fn script(&self) -> i32 {
        support::stark::children(self.worker())[0]
    }

    /// All of them at once appear in the queue.
    fn push(&self, payloads: &[Vec<u8>]) {
        let mut connection = self.redis.connect();
        for payload in payloads {
            let _: usize = connection.rpush("filled", payload).expect("an answer");
        }
        let _: () = connection.rename("filled", KEY).expect("an answer");
    }

    /// Waits until all are settled, and checks that none of them made a process begin anew.
    fn drain(&self, jobs: usize) {
        let (worker, scripts) = (self.worker(), support::stark::children(self.worker()));
        wait_for_value(2 * LIMIT, "jobs settled", jobs, || {
            let mut connection = self.redis.connect();
            let processed: Option<usize> = connection
                .hget("{q}:stark:stats", "processed")
                .expect("an answer");
            processed.unwrap_or(0)
        });
        self.stark.wait_for_figure("worker_idle", 1);
        assert_eq!(self.worker(), worker, "the worker stays");
        assert_eq!(support::stark::children(worker), scripts, "scripts stay");
        assert_eq!(self.stark.figure("run_failures"), 0);
    }

    /// Of the server's memory, in bytes.
    fn server(&self, field: &str) -> usize {
        let mut info = redis::cmd("INFO");
        let text: String = info
            .arg("memory")
            .query(&mut self.redis.connect())
            .expect("an answer");
        let field = format!("{field}:");
        let value = text.lines().find_map(|line| line.strip_prefix(&field));
        value.expect("redis tells").parse().expect("a number")
    }

    /// Pushes and drains; answers how far the server's memory exceeded that of the waiting jobs, at its worst.
    fn push_and_drain(&self, payloads: &[Vec<u8>]) -> usize {
        self.push(payloads);
        let waiting: usize = payloads.iter().map(Vec::len).sum();
        self.drain(payloads.len());
        self.server("used_memory_peak").saturating_sub(waiting)
    }
}

/// The most memory that a process has used so far.
fn most_bytes(pid: i32) -> usize {
    let text = status(pid, "VmHWM");
    let kilobytes: usize = text.trim_end_matches(" kB").parse().expect("a number");
    kilobytes << 10
}

/// Bytes of all values, others for each number. What repeats is no power of two long, as buffers are.
fn payload(number: usize, length: usize) -> Vec<u8> {
    const PRIME: usize = 65_521;
    let mut word = number as u32;
    let next = move || {
        word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (word >> 24) as u8
    };
    let block: Vec<u8> = std::iter::repeat_with(next)
        .take(length.min(PRIME))
        .collect();
    let mut payload = block.repeat(length.div_ceil(PRIME));
    payload.truncate(length);
    payload
}

fn payloads(lengths: &[usize]) -> Vec<Vec<u8>> {
    let numbered = lengths.iter().enumerate();
    numbered
        .map(|(number, length)| payload(number, *length))
        .collect()
}

/// The script got these, in this order, each once and whole.
#[track_caller]
fn assert_arrived(stark: &Stark, sent: &[Vec<u8>]) {
    let lengths: String = sent.iter().map(|one| format!("{}\n", one.len())).collect();
    assert!(stark.read("lengths") == lengths, "other lengths arrived");
    let arrived = fs::read(stark.path("ran")).expect("jobs ran");
    assert!(arrived == sent.concat(), "other bytes arrived");
}

#[track_caller]
fn assert_at_most(what: &str, bytes: usize, most: usize) {
    println!("{what}: {} of at most {} MiB", bytes / MB, most / MB);
    assert!(bytes <= most, "{what} took {} MiB", bytes / MB);
}

#[test]
fn empty_binary_and_protocol_like_payloads_arrive_as_they_are_php() {
    let rig = Rig::php();
    let sent: Vec<Vec<u8>> = vec![
        vec![],
        vec![0],
        vec![],
        b"\r\n".to_vec(),
        b"*2\r\n$3\r\nrun\r\n$-1\r\n".to_vec(),
        b"stark-token/1 000000000000feed 0 1 1".to_vec(),
        (0..=255).collect(),
        vec![0xff; 65_535],
        vec![0; 65_536],
        vec![],
    ];
    rig.push(&sent);
    rig.drain(sent.len());
    assert_arrived(&rig.stark, &sent);
    rig.stark.stop();
}

/// `null` says nothing of what it got; that it got it is counted.
#[test]
fn empty_and_binary_payloads_are_jobs_native() {
    let rig = Rig::start("builtin = null", "");
    let sent = [
        vec![],
        vec![0],
        (0..=255).collect(),
        vec![0xff; 65_536],
        vec![],
    ];
    rig.push(&sent);
    rig.drain(sent.len());
    assert_eq!(rig.stark.figure("run_count"), sent.len() as u64);
    rig.stark.stop();
}

#[test]
fn payloads_of_a_megabyte_arrive_and_leave_no_memory_behind_php() {
    let rig = Rig::php();
    let (worker, script) = (rig.worker(), rig.script());
    let sent = payloads(&[1_000_000; 40]);
    let more = rig.push_and_drain(&sent);
    assert_arrived(&rig.stark, &sent);
    assert_at_most("worker", most_bytes(worker), 20 * MB);
    assert_at_most("script", most_bytes(script), 64 * MB);
    assert_at_most("server, more", more, 12 * MB);
    rig.stark.stop();
}

#[test]
fn payloads_of_fifty_megabytes_arrive_php() {
    const LENGTH: usize = 50_000_000;
    let rig = Rig::php();
    let (worker, script) = (rig.worker(), rig.script());
    let sent = payloads(&[LENGTH; 2]);
    let more = rig.push_and_drain(&sent);
    assert_arrived(&rig.stark, &sent);
    assert_at_most("worker", most_bytes(worker), 4 * LENGTH + 64 * MB);
    assert_at_most("script", most_bytes(script), 4 * LENGTH + 64 * MB);
    assert_at_most("server, more", more, 4 * LENGTH + 12 * MB);
    rig.stark.stop();
}

/// The probe appends the payload's own text to a file, so the file says what arrived.
#[track_caller]
fn probe_gets_every_byte(lengths: &[usize]) {
    let rig = Rig::start("builtin = probe", "");
    let worker = rig.worker();
    let file = rig.stark.path("ran");
    let head = format!("append {} ", file.display());
    let text = |(number, length): (usize, &usize)| {
        let (block, letter) = ("0123456789", (b'a' + number as u8 % 26) as char);
        let mut text = format!("{block}{letter}").repeat(length.div_ceil(11));
        text.truncate(*length);
        text
    };
    let texts: Vec<String> = lengths.iter().enumerate().map(text).collect();
    let sent: Vec<Vec<u8>> = texts
        .iter()
        .map(|text| format!("{head}{text}").into())
        .collect();
    let more = rig.push_and_drain(&sent);
    let arrived = fs::read(&file).expect("jobs ran");
    let expected: String = texts.iter().map(|text| format!("{text}\n")).collect();
    assert!(arrived == expected.as_bytes(), "the file differs");
    let largest = lengths.iter().max().expect("there are some");
    assert_at_most("worker", most_bytes(worker), 4 * largest + 20 * MB);
    assert_at_most("server, more", more, 4 * largest + 12 * MB);
    rig.stark.stop();
}

#[test]
fn payloads_of_a_megabyte_arrive_and_leave_no_memory_behind_native() {
    probe_gets_every_byte(&[1_000_000; 40]);
}

#[test]
fn payloads_of_fifty_megabytes_arrive_native() {
    probe_gets_every_byte(&[50_000_000; 2]);
}

/// A batch that was learned on tiny jobs must not be filled with large ones, nor must the server read them all to find
/// out: those between tiny ones neither.
#[test]
fn large_jobs_between_tiny_ones_arrive_in_order_and_bounded_php() {
    let rig = Rig::php();
    let (worker, script) = (rig.worker(), rig.script());
    let mixed = [10, 2_000_000, 0, 100, 100_000, 1].repeat(8);
    let lengths = [vec![10; 3000], vec![MB; 150], vec![10; 1000], mixed].concat();
    let sent = payloads(&lengths);
    let more = rig.push_and_drain(&sent);
    assert_arrived(&rig.stark, &sent);
    assert_at_most("worker", most_bytes(worker), 32 * MB);
    assert_at_most("script", most_bytes(script), 64 * MB);
    assert_at_most("server, more", more, 80 * MB);
    rig.stark.stop();
}

/// Two seconds for a reply are not two seconds for a large payload.
#[test]
fn a_payload_of_two_hundred_megabytes_arrives_by_default_settings_php() {
    let rig = Rig::php();
    let sent = payloads(&[200_000_000]);
    rig.push(&sent);
    rig.drain(1);
    assert_arrived(&rig.stark, &sent);
    let lines = rig.stark.log_lines("WARN");
    assert_eq!(lines, Vec::<String>::new());
    let (worker, script) = (rig.worker(), rig.script());
    assert_at_most("worker", most_bytes(worker), 450 * MB);
    assert_at_most("script", most_bytes(script), 450 * MB);
    rig.stark.stop();
}

/// A worker that has had a huge job is small again when it has had a few others.
#[test]
fn memory_of_a_large_job_is_given_back_by_the_worker() {
    let rig = Rig::start("builtin = null", "");
    let sent = payloads(&[50_000_000, 10, 10, 10, 10]);
    rig.push(&sent);
    rig.drain(sent.len());
    let worker = rig.worker();
    let most = most_bytes(worker);
    assert!(most > 50_000_000, "it had the payload");
    let resident = || {
        let text = status(worker, "VmRSS");
        let kilobytes: usize = text.trim_end_matches(" kB").parse().expect("a number");
        kilobytes << 10
    };
    wait_for(LIMIT, "a small worker", || resident() < 20 * MB);
    rig.stark.stop();
}
