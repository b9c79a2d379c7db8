//! What the queue promises, against a real redis-server: no job lost or out of order, whatever breaks in between.

mod support;

use std::time::{Duration, Instant};

use redis::{Commands, cmd};
use stark::queue::{
    Identity, Keys, Past, Producer, Queue, QueueError, Reclaimed, Reservation, Settled, Token,
};
use support::proxy::{Fate, Proxy};
use support::redis::Redis;

const KEY: &str = "test:redis";
const NODE: &str = "node-1";

fn identity(slot: u32, generation: u64) -> Identity {
    Identity {
        node: NODE.into(),
        nonce: 0xfeed,
        pool: "mail".into(),
        slot,
        generation,
    }
}

fn queue(settings: &stark::config::Queue) -> Queue {
    Queue::new(settings, identity(0, 1))
}

fn opened(settings: &stark::config::Queue) -> Queue {
    let mut queue = queue(settings);
    assert_eq!(queue.reclaim(&nothing_ended), Ok(None));
    queue.open().expect("opens");
    queue
}

fn nothing_ended(_: &Token, _: usize) -> Past {
    Past::default()
}

fn ended(ended: usize) -> Past {
    Past {
        ended,
        ..Past::default()
    }
}

fn done(done: usize) -> Settled {
    Settled {
        done,
        ..Settled::default()
    }
}

/// Failed jobs that are gone.
fn failed(done: usize, failed: usize) -> Settled {
    Settled {
        done,
        failed,
        fates: Vec::new(),
    }
}

fn push(redis: &Redis, jobs: std::ops::Range<usize>) {
    let payloads: Vec<String> = jobs.map(|job| job.to_string()).collect();
    let _: usize = redis.connect().rpush(KEY, payloads).unwrap();
}

fn payloads(reservation: &Reservation) -> Vec<String> {
    let text = |payload: &Vec<u8>| String::from_utf8(payload.clone()).unwrap();
    reservation
        .jobs
        .iter()
        .map(|job| text(&job.payload))
        .collect()
}

fn waiting(redis: &Redis) -> Vec<String> {
    redis.connect().lrange(KEY, 0, -1).unwrap()
}

fn numbers(jobs: std::ops::Range<usize>) -> Vec<String> {
    jobs.map(|job| job.to_string()).collect()
}

fn reserved_name() -> String {
    Keys::new(KEY).reserved(NODE, "mail", 0)
}

fn stat(redis: &Redis, field: &str) -> usize {
    let total: Option<usize> = redis.connect().hget(Keys::new(KEY).stats, field).unwrap();
    total.unwrap_or(0)
}

#[test]
fn jobs_come_in_the_order_of_their_push_and_are_settled_by_the_next_turn() {
    let redis = Redis::start();
    let mut queue = opened(&redis.settings(KEY));
    assert!(queue.turn(&done(0), &[10], 0).unwrap().jobs.is_empty());
    push(&redis, 0..5);
    let first = queue.turn(&done(0), &[3], 0).unwrap();
    assert_eq!(payloads(&first), numbers(0..3));
    assert_eq!(first.payload_bytes, 3);
    assert_eq!(first.jobs[2].key(), KEY);
    assert_eq!(first.jobs[2].attempt(), 1);
    let settled = failed(2, 1);
    let second = queue.turn(&settled, &[3], 0).unwrap();
    assert_eq!(payloads(&second), numbers(3..5));
    assert!(second.token.number > first.token.number);
    assert!(queue.turn(&done(2), &[3], 0).unwrap().jobs.is_empty());
    assert_eq!((stat(&redis, "processed"), stat(&redis, "failed")), (5, 1));
    let held: usize = redis.connect().llen(reserved_name()).unwrap();
    assert_eq!(held, 1, "only the token");
}

#[test]
fn a_turn_takes_no_more_than_its_share_but_one() {
    let redis = Redis::start();
    let mut queue = opened(&redis.settings(KEY));
    push(&redis, 0..20);
    let sizes = [1000, 1000, 1000, 2].map(|most| {
        let held = queue.turn(&done(0), &[most], 8).unwrap().jobs.len();
        queue.leave(&done(held)).unwrap();
        queue.open().unwrap();
        held
    });
    assert_eq!(
        sizes,
        [3, 3, 2, 2],
        "an eighth of 20, of 17, of 14; at most 2"
    );
}

#[test]
fn leaving_gives_back_what_was_not_begun_to_the_head_in_order() {
    let redis = Redis::start();
    let mut queue = opened(&redis.settings(KEY));
    push(&redis, 0..10);
    queue.turn(&done(0), &[5], 0).unwrap();
    assert_eq!(queue.leave(&failed(1, 1)), Ok(3));
    assert_eq!(waiting(&redis), numbers(2..10));
    assert_eq!((stat(&redis, "processed"), stat(&redis, "failed")), (2, 1));
    assert_eq!(stat(&redis, "reclaimed"), 0, "nobody died");
    assert_eq!(queue.registered(), Ok(vec![]));
    let exists: bool = redis.connect().exists(reserved_name()).unwrap();
    assert!(!exists);
    assert_eq!(
        queue.leave(&done(0)),
        Ok(0),
        "there is nothing more to leave"
    );
    assert_eq!(queue.turn(&done(0), &[1], 0).unwrap_err(), QueueError::Lost);
    queue.open().unwrap();
    assert_eq!(
        payloads(&queue.turn(&done(0), &[2], 0).unwrap()),
        numbers(2..4)
    );
}

#[test]
fn a_successor_reclaims_what_had_not_ended_and_only_that() {
    let redis = Redis::start();
    push(&redis, 0..100);
    let settings = redis.settings(KEY);
    let token = opened(&settings).turn(&done(0), &[100], 0).unwrap().token;
    push(&redis, 100..105);

    let mut successor = Queue::new(&settings, identity(0, 2));
    assert_eq!(
        successor.open().unwrap_err(),
        QueueError::Lost,
        "reclaim comes first"
    );
    let past = |seen: &Token, jobs: usize| {
        assert_eq!((*seen, jobs), (token, 100));
        ended(42)
    };
    let reclaimed = Reclaimed {
        token: Some(token),
        ended: 42,
        given_back: 58,
        ..Reclaimed::default()
    };
    assert_eq!(successor.reclaim(&past), Ok(Some(reclaimed)));
    assert_eq!(successor.reclaim(&past), Ok(None));
    assert_eq!(waiting(&redis), numbers(42..105));
    let stats = ["processed", "failed", "reclaimed"].map(|field| stat(&redis, field));
    assert_eq!(stats, [42, 0, 58]);
    successor.open().unwrap();
    assert_eq!(
        payloads(&successor.turn(&done(0), &[1], 0).unwrap()),
        ["42"]
    );
}

#[test]
fn progress_that_cannot_be_of_this_list_is_not_believed() {
    let redis = Redis::start();
    push(&redis, 0..3);
    let settings = redis.settings(KEY);
    opened(&settings).turn(&done(0), &[3], 0).unwrap();
    let reclaimed = queue(&settings).reclaim(&|_, _| ended(4)).unwrap().unwrap();
    assert_eq!((reclaimed.ended, reclaimed.given_back), (0, 3));
    assert_eq!(waiting(&redis), numbers(0..3));
}

#[test]
fn a_list_without_token_holds_jobs_only() {
    let redis = Redis::start();
    push(&redis, 3..4);
    let _: usize = redis
        .connect()
        .rpush(reserved_name(), numbers(0..3))
        .unwrap();
    let past = |_: &Token, _: usize| -> Past { panic!("there is no token to ask about") };
    let reclaimed = queue(&redis.settings(KEY)).reclaim(&past).unwrap().unwrap();
    assert_eq!((reclaimed.token, reclaimed.given_back), (None, 3));
    assert_eq!(waiting(&redis), numbers(0..4));
}

#[test]
fn a_list_of_a_newer_version_is_left_alone() {
    let redis = Redis::start();
    let list = ["stark-token/2 whatever", "job"];
    let _: usize = redis.connect().rpush(reserved_name(), &list).unwrap();
    let error = queue(&redis.settings(KEY))
        .reclaim(&nothing_ended)
        .unwrap_err();
    assert!(
        matches!(&error, QueueError::Refused(text) if text.contains("newer stark")),
        "{error}"
    );
    let left: Vec<String> = redis.connect().lrange(reserved_name(), 0, -1).unwrap();
    assert_eq!(left, list);
}

#[test]
fn a_start_finds_every_registered_list_of_its_node_and_reclaims_by_name() {
    let redis = Redis::start();
    push(&redis, 0..6);
    let settings = redis.settings(KEY);
    for (node, pool, slot) in [(NODE, "mail", 0), (NODE, "sms", 7), ("other", "mail", 0)] {
        let identity = Identity {
            node: node.into(),
            pool: pool.into(),
            ..identity(slot, 1)
        };
        let mut queue = Queue::new(&settings, identity);
        queue.open().unwrap();
        queue.turn(&done(0), &[2], 0).unwrap();
    }
    let keys = Keys::new(KEY);
    let _: () = redis.connect().sadd(&keys.registry, "garbage").unwrap();
    let mut starter = queue(&settings);
    let mut lists = starter.registered().unwrap();
    let elsewhere = lists.extract_if(.., |list| list.node != NODE).count();
    assert_eq!(elsewhere, 1);
    let slots: Vec<_> = lists
        .iter()
        .map(|list| (list.pool.as_str(), list.slot))
        .collect();
    assert_eq!(slots, [("mail", 0), ("sms", 7)]);
    for list in lists.iter().rev() {
        let reclaimed = starter.reclaim_registered(list, &nothing_ended);
        assert_eq!(reclaimed.unwrap().unwrap().given_back, 2);
    }
    assert_eq!(waiting(&redis), numbers(0..4));
    assert_eq!(starter.registered().unwrap().len(), 1, "the other's");
}

#[test]
fn the_registration_of_a_vanished_list_is_removed() {
    let redis = Redis::start();
    let settings = redis.settings(KEY);
    let mut queue = opened(&settings);
    let _: () = redis.connect().del(reserved_name()).unwrap();
    assert_eq!(queue.registered().unwrap().len(), 1);
    assert_eq!(queue.reclaim(&nothing_ended), Ok(None));
    assert_eq!(queue.registered().unwrap().len(), 0);
}

#[test]
fn a_worker_whose_list_was_taken_over_settles_nothing_and_begins_anew() {
    let redis = Redis::start();
    push(&redis, 0..4);
    let settings = redis.settings(KEY);
    let mut worker = opened(&settings);
    worker.turn(&done(0), &[2], 0).unwrap();
    Queue::new(&settings, identity(0, 2))
        .reclaim(&nothing_ended)
        .unwrap();

    assert_eq!(
        worker.turn(&done(2), &[2], 0).unwrap_err(),
        QueueError::Lost
    );
    assert_eq!(stat(&redis, "processed"), 0);
    assert_eq!(waiting(&redis), numbers(0..4));
    assert_eq!(
        worker.turn(&done(2), &[2], 0).unwrap_err(),
        QueueError::Lost
    );
    assert_eq!(worker.reclaim(&nothing_ended), Ok(None));
    worker.open().unwrap();
    assert_eq!(
        payloads(&worker.turn(&done(0), &[9], 0).unwrap()),
        numbers(0..4)
    );

    let mut thief = Queue::new(&settings, identity(0, 3));
    thief.reclaim(&nothing_ended).unwrap();
    assert_eq!(worker.leave(&done(1)), Err(QueueError::Lost));
    assert_eq!(waiting(&redis), numbers(0..4));
}

/// A worker behind a proxy, and what breaks the turn that reserves jobs 2 and 3.
fn turn_with(fate: Fate) -> (Redis, Proxy, Queue) {
    let redis = Redis::start();
    let proxy = Proxy::start(&redis.socket());
    push(&redis, 0..10);
    let mut settings = redis.settings(KEY);
    settings.address = proxy.address();
    let mut queue = opened(&settings);
    assert_eq!(
        payloads(&queue.turn(&done(0), &[2], 0).unwrap()),
        numbers(0..2)
    );
    proxy.plan("EVALSHA", fate);
    let error = queue.turn(&done(2), &[2], 0).unwrap_err();
    assert!(
        matches!(error, QueueError::Unavailable(_)),
        "{fate:?}: {error}"
    );
    assert!(proxy.is_done());
    (redis, proxy, queue)
}

#[test]
fn a_turn_with_unknown_outcome_is_found_out_and_settles_once() {
    for fate in [
        Fate::Dropped,
        Fate::Unanswered,
        Fate::HalfAnswered,
        Fate::Late,
    ] {
        let (redis, proxy, mut queue) = turn_with(fate);
        let reservation = queue.turn(&done(2), &[2], 0).unwrap();
        assert_eq!(payloads(&reservation), numbers(2..4), "{fate:?}");
        assert_eq!(proxy.deliver(), usize::from(fate == Fate::Late));
        assert_eq!(
            payloads(&queue.turn(&done(2), &[9], 0).unwrap()),
            numbers(4..10)
        );
        assert!(queue.turn(&done(6), &[9], 0).unwrap().jobs.is_empty());
        assert_eq!(stat(&redis, "processed"), 10, "{fate:?}");
    }
}

#[test]
fn a_late_turn_that_comes_before_its_repetition_is_found_too() {
    let (redis, proxy, mut queue) = turn_with(Fate::Late);
    assert_eq!(proxy.deliver(), 1);
    assert_eq!(
        payloads(&queue.turn(&done(2), &[2], 0).unwrap()),
        numbers(2..4)
    );
    assert_eq!(queue.leave(&done(2)), Ok(0));
    assert_eq!(stat(&redis, "processed"), 4);
}

#[test]
fn leaving_after_a_turn_with_unknown_outcome_gives_back_what_it_may_have_reserved() {
    for fate in [Fate::Dropped, Fate::Unanswered, Fate::Late] {
        let (redis, proxy, mut queue) = turn_with(fate);
        let given_back = if fate == Fate::Unanswered { 2 } else { 0 };
        assert_eq!(queue.leave(&done(2)), Ok(given_back), "{fate:?}");
        proxy.deliver();
        assert_eq!(waiting(&redis), numbers(2..10), "{fate:?}");
        assert_eq!(stat(&redis, "processed"), 2, "{fate:?}");
    }
}

#[test]
fn leaving_and_opening_with_unknown_outcome_can_be_repeated() {
    for fate in [Fate::Dropped, Fate::Unanswered] {
        let (redis, proxy, mut queue) = turn_with(Fate::Dropped);
        proxy.plan("EVALSHA", fate);
        assert!(matches!(
            queue.leave(&done(2)),
            Err(QueueError::Unavailable(_))
        ));
        assert_eq!(queue.leave(&done(2)), Ok(0), "{fate:?}");
        assert_eq!(waiting(&redis), numbers(2..10));

        proxy.plan("EVALSHA", fate);
        assert!(matches!(queue.open(), Err(QueueError::Unavailable(_))));
        if queue.open() == Err(QueueError::Lost) {
            assert_eq!(fate, Fate::Unanswered, "its own list is in the way");
            queue.reclaim(&nothing_ended).unwrap();
            queue.open().unwrap();
        }
        assert_eq!(
            payloads(&queue.turn(&done(0), &[2], 0).unwrap()),
            numbers(2..4)
        );
    }
}

#[test]
fn keys_of_another_type_lose_nothing() {
    let redis = Redis::start();
    push(&redis, 0..2);
    let settings = redis.settings(KEY);
    let mut queue = opened(&settings);
    queue.turn(&done(0), &[2], 0).unwrap();
    let mut other = redis.connect();
    let _: () = other.set(KEY, "a string").unwrap();
    let refused = |result: Result<(), QueueError>| match result {
        Err(QueueError::Refused(text)) => assert!(text.contains("WRONGTYPE"), "{text}"),
        other => panic!("{other:?}"),
    };
    refused(queue.turn(&done(2), &[2], 0).map(drop));
    refused(queue.leave(&done(1)).map(drop));
    let held: Vec<String> = other.lrange(reserved_name(), 1, -1).unwrap();
    assert_eq!(held, numbers(0..2));
    let _: () = other.del(KEY).unwrap();
    // Statistics of another type must not stop a job.
    let stats = Keys::new(KEY).stats;
    let _: () = other.del(&stats).unwrap();
    let _: () = other.set(&stats, "a string").unwrap();
    assert_eq!(queue.leave(&done(1)), Ok(1));
    assert_eq!(waiting(&redis), ["1"]);
    let _: () = other.set(Keys::new(KEY).registry, "a string").unwrap();
    refused(queue.open());
    let exists: bool = other.exists(reserved_name()).unwrap();
    assert!(!exists);
}

#[test]
fn a_full_server_still_drains() {
    let redis = Redis::start();
    push(&redis, 0..50);
    let settings = redis.settings(KEY);
    let mut full = redis.connect();
    let _: () = cmd("CONFIG")
        .arg("SET")
        .arg("maxmemory")
        .arg(1)
        .query(&mut full)
        .unwrap();
    let error = Producer::new(&settings).push(&["more"]).unwrap_err();
    assert!(
        matches!(&error, QueueError::Unavailable(text) if text.contains("OOM")),
        "{error}"
    );

    let mut queue = opened(&settings);
    assert_eq!(
        payloads(&queue.turn(&done(0), &[20], 0).unwrap()),
        numbers(0..20)
    );
    assert_eq!(queue.leave(&done(10)), Ok(10));
    queue.open().unwrap();
    let mut held = queue.turn(&done(0), &[20], 0).unwrap().jobs.len();
    let mut total = 10 + held;
    while held > 0 {
        held = queue.turn(&done(held), &[20], 0).unwrap().jobs.len();
        total += held;
    }
    assert_eq!(total, 50);
}

#[test]
fn scripts_that_the_server_forgot_are_loaded_again() {
    let redis = Redis::start();
    push(&redis, 0..2);
    let mut queue = opened(&redis.settings(KEY));
    for job in 0..2 {
        let _: () = cmd("SCRIPT")
            .arg("FLUSH")
            .query(&mut redis.connect())
            .unwrap();
        let reservation = queue.turn(&done(job), &[1], 0).unwrap();
        assert_eq!(payloads(&reservation), [job.to_string()]);
    }
}

#[test]
fn payloads_are_byte_exact_up_to_fifty_megabytes() {
    let redis = Redis::start();
    let settings = redis.settings(KEY);
    let mut sent: Vec<Vec<u8>> = vec![
        vec![],
        b"\0".to_vec(),
        b"\r\n$5\r\nhello\r\n".to_vec(),
        (0..=255).collect(),
        b"stark-token/1 000000000000feed 0 1 1".to_vec(),
    ];
    sent.push(
        (0..50 << 20)
            .map(|byte: u32| (byte ^ (byte >> 8)) as u8)
            .collect(),
    );
    assert_eq!(Producer::new(&settings).push(&sent), Ok(6));
    let mut queue = opened(&settings);
    let (small, large) = sent.split_at(5);
    for expected in [small, large] {
        // Given back and taken again, what comes is the same.
        let first = queue.turn(&done(0), &[10], 0).unwrap();
        assert_eq!(queue.leave(&done(0)), Ok(expected.len()));
        queue.open().unwrap();
        let again = queue.turn(&done(0), &[10], 0).unwrap();
        for reservation in [first, again] {
            assert!(reservation.jobs.iter().map(|job| &job.payload).eq(expected));
        }
        assert_eq!(queue.leave(&done(expected.len())), Ok(0));
        queue.open().unwrap();
    }
}

#[test]
fn a_thousand_jobs_fit_in_a_turn_and_more_are_never_taken() {
    let redis = Redis::start();
    push(&redis, 0..2500);
    let mut queue = opened(&redis.settings(KEY));
    assert_eq!(
        payloads(&queue.turn(&done(0), &[5000], 0).unwrap()),
        numbers(0..1000)
    );
    assert_eq!(
        payloads(&queue.turn(&done(1000), &[1000], 0).unwrap()),
        numbers(1000..2000)
    );
    assert_eq!(queue.leave(&done(0)), Ok(1000));
    assert_eq!(waiting(&redis), numbers(1000..2500));
}

/// What turns that ask for a thousand jobs get of jobs of these sizes: how many each, until none is left.
fn turns_of(redis: &Redis, sizes: &[usize]) -> Vec<usize> {
    let jobs: Vec<Vec<u8>> = sizes.iter().map(|size| vec![b'x'; *size]).collect();
    for some in jobs.chunks(100) {
        let _: usize = redis.connect().rpush(KEY, some).unwrap();
    }
    let mut queue = opened(&redis.settings(KEY));
    let (mut counts, mut taken) = (vec![], 0);
    while taken < jobs.len() {
        let held = counts.last().copied().unwrap_or(0);
        let reservation = queue.turn(&done(held), &[1000], 0).unwrap();
        let count = reservation.jobs.len();
        assert!(count == 1 || reservation.payload_bytes <= 1 << 20);
        let expected = &jobs[taken..taken + count];
        assert!(reservation.jobs.iter().map(|job| &job.payload).eq(expected));
        taken += count;
        counts.push(count);
    }
    assert_eq!(queue.leave(&done(counts[counts.len() - 1])), Ok(0));
    counts
}

#[test]
fn a_turn_takes_a_mebibyte_but_always_one_job() {
    let redis = Redis::start();
    assert_eq!(turns_of(&redis, &[1 << 20, 1, 1]), [1, 2]);
    assert_eq!(turns_of(&redis, &[1 << 19, 1 << 19, 0, 1]), [3, 1]);
    assert_eq!(turns_of(&redis, &[0, (1 << 20) + 1, 0]), [1, 1, 1]);
    assert_eq!(turns_of(&redis, &[1 << 10; 1024]), [1000, 24]);
    assert_eq!(turns_of(&redis, &[10_000; 210]), [104, 104, 2]);
    let small_and_large: Vec<usize> = [vec![10; 500], vec![1_000_000; 5], vec![10; 500]].concat();
    let counts = turns_of(&redis, &small_and_large);
    assert!(counts.len() < 20, "{counts:?}");
    assert!(counts.iter().any(|count| *count >= 500), "{counts:?}");
}

#[test]
fn large_jobs_behind_small_ones_do_not_stand_in_the_servers_memory_twice() {
    let redis = Redis::start();
    let peak = || -> usize {
        let mut info = cmd("INFO");
        let info: String = info.arg("memory").query(&mut redis.connect()).unwrap();
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("used_memory_peak:"));
        line.unwrap().parse().unwrap()
    };
    let sizes = [vec![10; 300], vec![1 << 20; 60]].concat();
    let jobs: Vec<Vec<u8>> = sizes.iter().map(|size| vec![b'x'; *size]).collect();
    for some in jobs.chunks(50) {
        let _: usize = redis.connect().rpush(KEY, some).unwrap();
    }
    let mut queue = opened(&redis.settings(KEY));
    let before = peak();
    let mut held = 0;
    for _ in 0..5 {
        held = queue.turn(&done(held), &[1000], 0).unwrap().jobs.len();
    }
    assert!(
        peak() < before + (12 << 20),
        "{} bytes more",
        peak() - before
    );
}

#[test]
fn a_server_that_restarts_between_turns_is_away_and_then_goes_on() {
    let mut redis = Redis::start();
    push(&redis, 0..6);
    let mut queue = opened(&redis.settings(KEY));
    queue.turn(&done(0), &[2], 0).unwrap();
    redis.stop();
    for _ in 0..2 {
        let error = queue.turn(&done(2), &[2], 0).unwrap_err();
        assert!(
            matches!(&error, QueueError::Unavailable(text) if text.starts_with("cannot reach redis at unix:")),
            "{error}"
        );
    }
    redis.restart();
    assert_eq!(
        payloads(&queue.turn(&done(2), &[2], 0).unwrap()),
        numbers(2..4)
    );
    redis.restart();
    while let Err(error) = queue.turn(&done(2), &[2], 0) {
        assert!(matches!(error, QueueError::Unavailable(_)), "{error}");
    }
    assert_eq!(queue.leave(&done(2)), Ok(0));
    assert_eq!(stat(&redis, "processed"), 6);
}

#[test]
fn a_stopped_server_is_away_within_the_timeout() {
    let redis = Redis::start();
    push(&redis, 0..2);
    let mut settings = redis.settings(KEY);
    settings.timeout = Duration::from_millis(200);
    let mut queue = opened(&settings);
    redis.pause();
    for _ in 0..2 {
        let begun = Instant::now();
        let error = queue.turn(&done(0), &[1], 0).unwrap_err();
        assert!(
            matches!(&error, QueueError::Unavailable(text) if text.contains("no answer within 200ms")),
            "{error}"
        );
        assert!(begun.elapsed() >= settings.timeout);
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
    redis.resume();
    loop {
        match queue.turn(&done(0), &[1], 0) {
            Ok(reservation) => break assert_eq!(payloads(&reservation), ["0"]),
            Err(error) => assert!(matches!(error, QueueError::Unavailable(_)), "{error}"),
        }
    }
}

/// Turns, gives back and pops while the server refuses in its own words; then goes on as if nothing had been.
fn refused_for_a_while(word: &str, trouble: &[&[&str]], end: &[&[&str]]) {
    let redis = Redis::start();
    push(&redis, 0..6);
    let configure = |commands: &[&[&str]]| {
        for words in commands {
            let mut command = cmd(words[0]);
            let _: () = command
                .arg(&words[1..])
                .query(&mut redis.connect())
                .unwrap();
        }
    };
    let mut queue = opened(&redis.settings(KEY));
    let mut popping = Queue::new(&redis.settings(KEY), identity(1, 1));
    queue.turn(&done(0), &[3], 0).unwrap();
    configure(trouble);
    let away = |error: QueueError| match error {
        QueueError::Unavailable(text) => assert!(text.contains(word), "{text}"),
        other => panic!("{other:?}"),
    };
    away(queue.give_back(1).unwrap_err());
    away(queue.turn(&done(2), &[2], 0).unwrap_err());
    away(queue.turn(&done(2), &[2], 0).unwrap_err());
    away(popping.pop(&done(0)).unwrap_err());
    configure(end);
    assert_eq!(
        payloads(&queue.turn(&done(2), &[2], 0).unwrap()),
        numbers(2..4)
    );
    assert_eq!(payloads(&popping.pop(&done(0)).unwrap()), ["4"]);
    configure(trouble);
    away(queue.turn(&done(2), &[2], 0).unwrap_err());
    away(queue.leave(&done(2)).unwrap_err());
    configure(end);
    assert_eq!(queue.leave(&done(2)), Ok(0));
    assert_eq!(waiting(&redis), ["5"]);
    assert_eq!(stat(&redis, "processed"), 4);
}

#[test]
fn a_server_that_becomes_a_replica_is_away_until_it_is_a_master_again() {
    let settled = ["REPLICAOF", "NO", "ONE"];
    let unreachable = ["REPLICAOF", "127.0.0.1", "1"];
    let stale = ["CONFIG", "SET", "replica-serve-stale-data"];
    let yes = [&stale[..], &["yes"]].concat();
    let no = [&stale[..], &["no"]].concat();
    refused_for_a_while("READONLY", &[&yes, &unreachable], &[&settled]);
    refused_for_a_while("MASTERDOWN", &[&no, &unreachable], &[&settled]);
}

#[test]
fn a_server_without_enough_replicas_is_away() {
    let replicas = ["CONFIG", "SET", "min-replicas-to-write"];
    let one = [&replicas[..], &["1"]].concat();
    let none = [&replicas[..], &["0"]].concat();
    refused_for_a_while("NOREPLICAS", &[&one], &[&none]);
}

#[test]
fn a_waiting_worker_sees_the_server_hang_up() {
    let mut redis = Redis::start();
    let mut queue = opened(&redis.settings(KEY));
    let is_readable = |queue: &Queue| {
        let fd = queue.fd().expect("connected");
        let mut fds = [nix::poll::PollFd::new(fd, nix::poll::PollFlags::POLLIN)];
        nix::poll::poll(&mut fds, 10_000u16).unwrap();
        fds[0].any().unwrap()
    };
    redis.restart();
    assert!(is_readable(&queue));
    queue.disconnect();
    assert!(queue.fd().is_none());
    assert!(queue.turn(&done(0), &[1], 0).is_ok());
}
