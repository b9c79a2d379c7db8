//! What becomes of jobs that were not done, against a real redis-server: they come back, are marked, or are buried, and
//! none is dropped or doubled, whatever breaks in between.

mod support;

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use redis::{Commands, cmd};
use stark::config;
use stark::jitter::Jitter;
use stark::queue::{
    Due, Fate, Header, Identity, Job, Keys, Moved, Past, Producer, Queue, QueueError, Reclaimed,
    Reservation, Settled, Token, Verdict, fate,
};
use support::proxy::{self, Proxy};
use support::redis::Redis;

const KEY: &str = "jobs";
const NODE: &str = "node-1";

/// Retries are due at once.
fn settings(redis: &Redis) -> config::Queue {
    let mut settings = redis.settings(KEY);
    settings.retry.backoff = Duration::ZERO;
    settings
}

fn queue(settings: &config::Queue, generation: u64) -> Queue {
    let identity = Identity {
        node: NODE.into(),
        nonce: 0xfeed,
        pool: "mail".into(),
        slot: 0,
        generation,
    };
    Queue::new(settings, identity)
}

fn opened(settings: &config::Queue) -> Queue {
    let mut queue = queue(settings, 1);
    queue.open().expect("opens");
    queue
}

fn nothing() -> Settled {
    Settled::default()
}

fn failed(reason: &str) -> Verdict {
    Verdict::Failed(reason.into())
}

fn crashed() -> Verdict {
    Verdict::Crashed("SIGSEGV".into())
}

/// As a worker does it.
fn judge(settings: &config::Queue, job: &Job, verdict: Verdict) -> Fate {
    let judged = (job.header(), job.payload.as_slice());
    let mut jitter = Jitter::new(1);
    fate(&settings.retry, judged, verdict, 1_000, NODE, &mut jitter)
}

/// All of them failed.
fn all_failed(settings: &config::Queue, jobs: &[Job]) -> Settled {
    let mut settled = nothing();
    for job in jobs {
        settled.add(judge(settings, job, failed("no route")));
    }
    settled
}

fn push(redis: &Redis, payloads: &[impl AsRef<[u8]>]) {
    let payloads: Vec<&[u8]> = payloads.iter().map(AsRef::as_ref).collect();
    let _: usize = redis.connect().rpush(KEY, payloads).unwrap();
}

fn numbers(jobs: std::ops::Range<usize>) -> Vec<String> {
    jobs.map(|job| job.to_string()).collect()
}

fn texts(jobs: &[Job]) -> Vec<String> {
    let text = |job: &Job| String::from_utf8(job.payload.clone()).unwrap();
    jobs.iter().map(text).collect()
}

/// History and payload of what lies in a list or set, in order.
fn entries(redis: &Redis, key: &str) -> Vec<(Option<Header>, String)> {
    let mut connection = redis.connect();
    let kind: String = connection.key_type(key).unwrap();
    let elements: Vec<Vec<u8>> = match kind.as_str() {
        "list" => connection.lrange(key, 0, -1).unwrap(),
        _ => connection.zrange(key, 0, -1).unwrap(),
    };
    let entry = |element: Vec<u8>| match Header::parse(&element) {
        Some((header, start)) => (Some(header), element[start..].to_vec()),
        None => (None, element),
    };
    let elements = elements.into_iter().map(entry);
    elements
        .map(|(header, payload)| (header, String::from_utf8_lossy(&payload).into_owned()))
        .collect()
}

fn payloads_of(redis: &Redis, key: &str) -> Vec<String> {
    let entries = entries(redis, key).into_iter();
    entries.map(|(_, payload)| payload).collect()
}

fn stats<const N: usize>(redis: &Redis, fields: [&str; N]) -> [usize; N] {
    let mut connection = redis.connect();
    fields.map(|field| {
        let total: Option<usize> = connection.hget(Keys::new(KEY).stats, field).unwrap();
        total.unwrap_or(0)
    })
}

fn server_ms(redis: &Redis) -> u64 {
    let (seconds, micros): (u64, u64) = cmd("TIME").query(&mut redis.connect()).unwrap();
    seconds * 1000 + micros / 1000
}

/// Moves due jobs until so many have come.
fn move_due(settings: &config::Queue, jobs: usize) {
    let mut due = Due::new(settings);
    let limit = Instant::now() + Duration::from_secs(20);
    let mut moved = 0;
    while moved < jobs {
        assert!(Instant::now() < limit, "{moved} of {jobs} came");
        moved += due.move_due().unwrap().jobs;
    }
    assert_eq!(moved, jobs);
}

fn limit(limit: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(limit)
}

#[test]
fn a_failed_job_comes_back_with_its_history_until_it_is_buried() {
    let redis = Redis::start();
    let settings = settings(&redis);
    let keys = Keys::new(KEY);
    // A payload is bytes, also if it looks as if it had a history in front of something else.
    let payload = b"\x00\xffstark/1 {\"id\":\"x\",\"attempt\":9}\nend";
    push(&redis, &[payload]);
    let mut queue = opened(&settings);
    let mut settled = nothing();
    let mut id = String::new();
    for attempt in 1..=3 {
        let reservation = queue.turn(&settled, &[9], 0).unwrap();
        let [job] = &reservation.jobs[..] else {
            panic!("{reservation:?}")
        };
        assert_eq!(job.payload, payload);
        assert_eq!(reservation.payload_bytes, payload.len());
        assert_eq!(job.attempt(), attempt);
        if attempt > 1 {
            assert_eq!(job.id(), id, "through all its runs");
        }
        id = job.id();
        settled = all_failed(&settings, &reservation.jobs);
        assert!(queue.turn(&settled, &[9], 0).unwrap().jobs.is_empty());
        settled = nothing();
        if attempt < 3 {
            move_due(&settings, 1);
        }
    }
    let dead = entries(&redis, &keys.dead);
    let header = dead[0].0.clone().expect("a history");
    assert_eq!((header.id, header.attempt, header.crashes), (id, 3, 0));
    assert_eq!(header.error.as_deref(), Some("no route"));
    assert_eq!(header.node.as_deref(), Some(NODE));
    assert_eq!(entries(&redis, KEY), []);
    assert_eq!(entries(&redis, &keys.delayed), []);
    let fields = ["processed", "failed", "retried", "buried"];
    assert_eq!(stats(&redis, fields), [3, 3, 2, 1]);
}

#[test]
fn each_job_of_a_reservation_goes_its_own_way_by_the_servers_clock() {
    let redis = Redis::start();
    let settings = settings(&redis);
    let keys = Keys::new(KEY);
    push(&redis, &numbers(0..6));
    let mut queue = opened(&settings);
    let jobs = queue.turn(&nothing(), &[5], 0).unwrap().jobs;
    let mut settled = Settled {
        done: 2,
        ..nothing()
    };
    let after = Verdict::Retry {
        after: Some(Duration::from_secs(3600)),
        reason: "rate limit".into(),
    };
    settled.add(judge(&settings, &jobs[1], after));
    settled.add(judge(&settings, &jobs[3], Verdict::Bury("bad".into())));
    settled.add(judge(&settings, &jobs[4], failed("no route")));
    let before = server_ms(&redis);
    assert_eq!(texts(&queue.turn(&settled, &[5], 0).unwrap().jobs), ["5"]);
    let after = server_ms(&redis);
    assert_eq!(payloads_of(&redis, &keys.delayed), ["4", "1"]);
    assert_eq!(payloads_of(&redis, &keys.dead), ["3"]);
    let scores = |key: &str| -> Vec<u64> {
        let all: Vec<(Vec<u8>, f64)> = redis.connect().zrange_withscores(key, 0, -1).unwrap();
        all.into_iter().map(|(_, score)| score as u64).collect()
    };
    let [retried, wanted] = scores(&keys.delayed)[..] else {
        panic!()
    };
    assert!((before..=after).contains(&retried));
    assert!((before + 3_600_000..=after + 3_600_000).contains(&wanted));
    assert!((before..=after).contains(&scores(&keys.dead)[0]));
    let fields = ["processed", "failed", "retried", "buried"];
    assert_eq!(stats(&redis, fields), [5, 3, 2, 1]);
}

#[test]
fn a_thousand_failures_and_one_of_fifty_megabytes_lose_no_byte() {
    let redis = Redis::start();
    let settings = settings(&redis);
    push(&redis, &numbers(0..1000));
    let mut queue = opened(&settings);
    let mut jobs = Vec::new();
    while jobs.len() < 1000 {
        jobs = queue.turn(&nothing(), &[1000], 0).unwrap().jobs;
    }
    let settled = all_failed(&settings, &jobs);
    assert!(queue.turn(&settled, &[1], 0).unwrap().jobs.is_empty());
    move_due(&settings, 1000);
    let mut back = texts(&queue.turn(&nothing(), &[1000], 0).unwrap().jobs);
    back.sort_by_key(|text| text.parse::<usize>().unwrap());
    assert_eq!(back, numbers(0..1000));
    queue
        .turn(
            &Settled {
                done: 1000,
                ..nothing()
            },
            &[1],
            0,
        )
        .unwrap();
    let large: Vec<u8> = (0..50 << 20).map(|place| (place % 251) as u8).collect();
    push(&redis, &[&large]);
    let jobs = queue.turn(&nothing(), &[1], 0).unwrap().jobs;
    let settled = all_failed(&settings, &jobs);
    assert!(queue.turn(&settled, &[1], 0).unwrap().jobs.is_empty());
    move_due(&settings, 1);
    let jobs = queue.turn(&nothing(), &[1], 0).unwrap().jobs;
    assert!(jobs[0].payload == large && jobs[0].attempt() == 2);
}

#[test]
fn a_turn_with_unknown_outcome_sends_each_job_once() {
    use proxy::Fate as Broken;
    for broken in [
        Broken::Dropped,
        Broken::Unanswered,
        Broken::HalfAnswered,
        Broken::Late,
    ] {
        let redis = Redis::start();
        let proxy = Proxy::start(&redis.socket());
        let mut settings = settings(&redis);
        settings.address = proxy.address();
        settings.retry.max_attempts = limit(1);
        push(&redis, &numbers(0..4));
        let mut queue = opened(&settings);
        let jobs = queue.turn(&nothing(), &[2], 0).unwrap().jobs;
        let mut settled = nothing();
        settled.add(judge(&settings, &jobs[0], failed("once")));
        settings.retry.max_attempts = limit(9);
        settled.add(judge(&settings, &jobs[1], failed("twice")));
        proxy.plan("EVALSHA", broken);
        queue.turn(&settled, &[1], 0).unwrap_err();
        assert!(proxy.is_done());
        let next = queue.turn(&settled, &[1], 0).unwrap().jobs;
        assert_eq!(texts(&next), ["2"], "{broken:?}");
        assert_eq!(proxy.deliver(), usize::from(broken == Broken::Late));
        let keys = Keys::new(KEY);
        assert_eq!(payloads_of(&redis, &keys.dead), ["0"], "{broken:?}");
        assert_eq!(payloads_of(&redis, &keys.delayed), ["1"], "{broken:?}");
        assert_eq!(stats(&redis, ["failed", "retried"]), [2, 1], "{broken:?}");
    }
}

#[test]
fn leaving_with_unknown_outcome_sends_each_job_once() {
    use proxy::Fate as Broken;
    for broken in [Broken::Dropped, Broken::Unanswered, Broken::Late] {
        let redis = Redis::start();
        let proxy = Proxy::start(&redis.socket());
        let mut settings = settings(&redis);
        settings.address = proxy.address();
        push(&redis, &numbers(0..4));
        let mut queue = opened(&settings);
        let jobs = queue.turn(&nothing(), &[3], 0).unwrap().jobs;
        let mut settled = nothing();
        settled.add(judge(&settings, &jobs[0], failed("no route")));
        settled.add(judge(&settings, &jobs[1], crashed()));
        proxy.plan("EVALSHA", broken);
        queue.leave(&settled).unwrap_err();
        assert_eq!(queue.leave(&settled), Ok(2), "{broken:?}");
        proxy.deliver();
        let keys = Keys::new(KEY);
        assert_eq!(payloads_of(&redis, &keys.delayed), ["0"], "{broken:?}");
        assert_eq!(payloads_of(&redis, KEY), ["1", "2", "3"], "{broken:?}");
    }
}

#[test]
fn leaving_after_a_turn_that_had_run_sends_what_failed_before_it_once() {
    use proxy::Fate as Broken;
    for second in [None, Some(Broken::Dropped), Some(Broken::Unanswered)] {
        let redis = Redis::start();
        let proxy = Proxy::start(&redis.socket());
        let mut settings = settings(&redis);
        settings.address = proxy.address();
        push(&redis, &numbers(0..4));
        let mut queue = opened(&settings);
        let jobs = queue.turn(&nothing(), &[1], 0).unwrap().jobs;
        let settled = all_failed(&settings, &jobs);
        proxy.plan("EVALSHA", Broken::Unanswered);
        queue.turn(&settled, &[1], 0).unwrap_err();
        if let Some(second) = second {
            // The first farewell finds the turn's list, the second one ends it.
            proxy.plan("EVALSHA", Broken::Dropped);
            queue.leave(&settled).unwrap_err();
            proxy.plan("LRANGE", Broken::Dropped);
            queue.leave(&settled).unwrap_err();
            proxy.plan("LRANGE", second);
            queue.leave(&settled).unwrap_err();
        }
        queue.leave(&settled).unwrap();
        let delayed = payloads_of(&redis, &Keys::new(KEY).delayed);
        assert_eq!(delayed, ["0"], "{second:?}");
        assert_eq!(payloads_of(&redis, KEY), ["1", "2", "3"], "{second:?}");
        assert_eq!(stats(&redis, ["processed", "retried"]), [1, 1]);
    }
}

#[test]
fn a_job_that_takes_its_script_along_is_marked_at_the_head_and_buried_in_the_end() {
    let redis = Redis::start();
    let settings = settings(&redis);
    push(&redis, &numbers(0..4));
    let mut queue = opened(&settings);
    let mut id = None;
    for crashes in 1..=3 {
        let jobs = queue.turn(&nothing(), &[3], 0).unwrap().jobs;
        assert_eq!(texts(&jobs), ["0", "1", "2"]);
        assert_eq!(jobs[0].attempt(), 1, "a crash is no run");
        assert_eq!(*id.get_or_insert(jobs[0].id()), jobs[0].id());
        let mut settled = nothing();
        settled.add(judge(&settings, &jobs[0], crashed()));
        assert_eq!(queue.leave(&settled), Ok(if crashes < 3 { 3 } else { 2 }));
        queue.open().unwrap();
    }
    assert_eq!(payloads_of(&redis, KEY), ["1", "2", "3"]);
    let dead = entries(&redis, &Keys::new(KEY).dead);
    let header = dead[0].0.clone().unwrap();
    assert_eq!((header.attempt, header.crashes), (1, 3));
    assert_eq!(header.error.as_deref(), Some("SIGSEGV"));
    assert!(
        entries(&redis, KEY)
            .iter()
            .all(|(header, _)| header.is_none())
    );
    assert_eq!(stats(&redis, ["processed", "failed", "buried"]), [1, 1, 1]);
}

/// A successor of a worker that died with these five jobs, the last one already with a history.
fn died() -> (Redis, config::Queue, Vec<Job>, Token) {
    let redis = Redis::start();
    let settings = settings(&redis);
    push(&redis, &numbers(0..4));
    let old = Header {
        attempt: 2,
        crashes: 2,
        ..Header::new("old".into())
    };
    push(&redis, &[old.encode(b"4")]);
    push(&redis, &numbers(5..6));
    let mut queue = opened(&settings);
    let reservation = queue.turn(&nothing(), &[5], 0).unwrap();
    let Reservation { token, jobs, .. } = reservation;
    (redis, settings, jobs, token)
}

#[test]
fn a_successor_sends_what_had_failed_and_marks_what_was_in_hand() {
    let (redis, settings, jobs, token) = died();
    let keys = Keys::new(KEY);
    let lost = stark::queue::retry::LOST_REASON;
    let past = |seen: &Token, count: usize| {
        assert_eq!((*seen, count), (token, 5));
        let retry = Verdict::Retry {
            after: None,
            reason: lost.into(),
        };
        Past {
            ended: 3,
            verdicts: vec![(0, Verdict::Bury(lost.into())), (2, retry)],
            crashed: Some("worker died with it in hand".into()),
        }
    };
    let mut successor = queue(&settings, 2);
    let reclaimed = Reclaimed {
        token: Some(token),
        ended: 3,
        retried: 1,
        buried: 1,
        given_back: 2,
    };
    assert_eq!(successor.reclaim(&past), Ok(Some(reclaimed)));
    assert_eq!(successor.reclaim(&past), Ok(None));
    let dead = entries(&redis, &keys.dead);
    let delayed = entries(&redis, &keys.delayed);
    let waiting = entries(&redis, KEY);
    assert_eq!(payloads_of(&redis, &keys.dead), ["0"]);
    assert_eq!(payloads_of(&redis, &keys.delayed), ["2"]);
    assert_eq!(payloads_of(&redis, KEY), ["3", "4", "5"]);
    for (entry, place, attempt, crashes) in [
        (&dead[0], 0, 1, 0),
        (&delayed[0], 2, 2, 0),
        (&waiting[0], 3, 1, 1),
    ] {
        let header = entry.0.as_ref().expect("a history");
        assert_eq!(header.id, jobs[place].id(), "as its worker knew it");
        assert_eq!((header.attempt, header.crashes), (attempt, crashes));
        assert_eq!(header.node.as_deref(), Some(NODE));
    }
    assert_eq!(delayed[0].0.as_ref().unwrap().error.as_deref(), Some(lost));
    let old = waiting[1].0.as_ref().unwrap();
    assert_eq!((old.attempt, old.crashes), (2, 2), "as it was");
    let fields = ["processed", "failed", "retried", "buried", "reclaimed"];
    assert_eq!(stats(&redis, fields), [3, 2, 1, 1, 2]);
}

#[test]
fn a_job_in_hand_of_too_many_deaths_is_buried_and_its_neighbours_go_on() {
    let (redis, settings, _, _) = died();
    let past = |_: &Token, _: usize| Past {
        ended: 4,
        verdicts: vec![],
        crashed: Some("killed by SIGSEGV".into()),
    };
    let reclaimed = queue(&settings, 2).reclaim(&past).unwrap().unwrap();
    assert_eq!(
        (reclaimed.ended, reclaimed.buried, reclaimed.given_back),
        (5, 1, 0)
    );
    let dead = entries(&redis, &Keys::new(KEY).dead);
    let header = dead[0].0.as_ref().unwrap();
    assert_eq!((header.id.as_str(), header.crashes), ("old", 3));
    assert_eq!(dead[0].1, "4");
    assert_eq!(payloads_of(&redis, KEY), ["5"]);
}

#[test]
fn jobs_of_a_worker_that_was_ended_from_outside_bear_no_mark() {
    let (redis, settings, _, _) = died();
    let past = |_: &Token, _: usize| Past {
        ended: 2,
        ..Past::default()
    };
    queue(&settings, 2).reclaim(&past).unwrap();
    let waiting = entries(&redis, KEY);
    assert_eq!(payloads_of(&redis, KEY), ["2", "3", "4", "5"]);
    let headers: Vec<u32> = waiting
        .iter()
        .map(|(header, _)| header.as_ref().map_or(0, |header| header.crashes))
        .collect();
    assert_eq!(headers, [0, 0, 2, 0]);
}

#[test]
fn a_past_that_cannot_be_of_this_list_is_not_believed() {
    let wrong = |ended: usize, places: &[usize], crashed: bool| Past {
        ended,
        verdicts: places.iter().map(|place| (*place, failed("x"))).collect(),
        crashed: crashed.then(|| "y".into()),
    };
    for past in [
        wrong(6, &[], false),
        wrong(5, &[], true),
        wrong(2, &[2], false),
        wrong(5, &[1, 1], false),
        wrong(5, &[3, 1], false),
    ] {
        let (redis, settings, _, _) = died();
        let reclaimed = queue(&settings, 2)
            .reclaim(&|_, _| past.clone())
            .unwrap()
            .unwrap();
        assert_eq!((reclaimed.ended, reclaimed.given_back), (0, 5), "{past:?}");
        assert_eq!(payloads_of(&redis, KEY), numbers(0..6));
        assert_eq!(entries(&redis, KEY)[0].0, None);
    }
}

#[test]
fn a_worker_whose_list_was_taken_over_sends_nothing() {
    let redis = Redis::start();
    let settings = settings(&redis);
    push(&redis, &numbers(0..2));
    let mut worker = opened(&settings);
    let jobs = worker.turn(&nothing(), &[2], 0).unwrap().jobs;
    queue(&settings, 2)
        .reclaim(&|_, _| Past::default())
        .unwrap();
    let settled = all_failed(&settings, &jobs);
    assert_eq!(
        worker.turn(&settled, &[2], 0).unwrap_err(),
        QueueError::Lost
    );
    assert_eq!(worker.leave(&nothing()), Ok(0));
    let keys = Keys::new(KEY);
    assert_eq!(entries(&redis, &keys.delayed), []);
    assert_eq!(payloads_of(&redis, KEY), ["0", "1"]);
    assert_eq!(stats(&redis, ["processed", "retried"]), [0, 0]);
}

#[test]
fn the_dead_list_keeps_the_newest_and_none_for_too_long() {
    let redis = Redis::start();
    let mut settings = settings(&redis);
    settings.retry.max_attempts = limit(1);
    settings.retry.dead_max = 5;
    settings.retry.dead_for = Some(Duration::from_secs(3600));
    let keys = Keys::new(KEY);
    let long_ago = server_ms(&redis) - 2 * 3_600_000;
    let mut old: Vec<(u64, String)> = numbers(0..300)
        .into_iter()
        .map(|job| (long_ago, format!("old {job}")))
        .collect();
    old.push((server_ms(&redis) - 60_000, "recent".into()));
    let _: usize = redis.connect().zadd_multiple(&keys.dead, &old).unwrap();
    push(&redis, &numbers(0..100));
    let mut queue = opened(&settings);
    let mut bury = |jobs: usize| {
        let jobs = queue.turn(&nothing(), &[jobs], 0).unwrap().jobs;
        let settled = all_failed(&settings, &jobs);
        queue.leave(&settled).unwrap();
        queue.open().unwrap();
        // Of one millisecond they are in no order.
        let mut left = payloads_of(&redis, &keys.dead);
        left.sort();
        left
    };
    assert_eq!(bury(1).len(), 302 - 101, "in steps");
    bury(1);
    assert_eq!(bury(1), ["0", "1", "2", "recent"]);
    bury(1);
    assert_eq!(bury(1), ["0", "1", "2", "3", "4"]);
    let left = bury(90);
    assert_eq!(left.len(), 5);
    assert!(
        left.iter().all(|job| job.parse::<usize>().unwrap() >= 5),
        "{left:?}"
    );
    // Where nothing is buried any more, age is still seen to.
    let _: usize = redis.connect().zadd_multiple(&keys.dead, &old).unwrap();
    let mut due = Due::new(&settings);
    for left in [206, 106, 6, 6] {
        due.move_due().unwrap();
        assert_eq!(payloads_of(&redis, &keys.dead).len(), left);
    }
}

#[test]
fn a_full_server_takes_failures_marks_and_due_jobs_but_no_new_ones() {
    let redis = Redis::start();
    let mut settings = settings(&redis);
    settings.retry.max_attempts = limit(2);
    push(&redis, &numbers(0..9));
    let mut queue = opened(&settings);
    let mut connection = redis.connect();
    let mut config = cmd("CONFIG");
    let _: () = config
        .arg("SET")
        .arg("maxmemory")
        .arg(1)
        .query(&mut connection)
        .unwrap();
    let mut producer = Producer::new(&settings);
    let error = producer
        .push_delayed(&["more"], Duration::ZERO)
        .unwrap_err();
    assert!(
        matches!(&error, QueueError::Unavailable(text) if text.contains("OOM")),
        "{error}"
    );
    let keys = Keys::new(KEY);

    let jobs = queue.turn(&nothing(), &[3], 0).unwrap().jobs;
    let settled = all_failed(&settings, &jobs);
    let jobs = queue.turn(&settled, &[3], 0).unwrap().jobs;
    assert_eq!(texts(&jobs), ["3", "4", "5"]);
    let mut settled = nothing();
    settled.add(judge(&settings, &jobs[0], Verdict::Bury("bad".into())));
    settled.add(judge(&settings, &jobs[1], crashed()));
    assert_eq!(queue.leave(&settled), Ok(2));
    assert_eq!(payloads_of(&redis, KEY), ["4", "5", "6", "7", "8"]);
    queue.open().unwrap();
    queue.turn(&nothing(), &[2], 0).unwrap();
    let past = |_: &Token, _: usize| Past {
        ended: 1,
        verdicts: vec![(0, failed("x"))],
        crashed: Some("y".into()),
    };
    queue.reclaim(&past).unwrap();
    assert_eq!(payloads_of(&redis, KEY), ["5", "6", "7", "8"]);
    assert_eq!(payloads_of(&redis, &keys.dead), ["3"]);
    move_due(&settings, 4);
    assert_eq!(payloads_of(&redis, KEY).len(), 8);
}

#[test]
fn keys_of_another_type_are_named_and_lose_nothing() {
    let redis = Redis::start();
    let mut settings = settings(&redis);
    settings.retry.max_attempts = limit(1);
    push(&redis, &numbers(0..3));
    let mut queue = opened(&settings);
    let jobs = queue.turn(&nothing(), &[2], 0).unwrap().jobs;
    let settled = all_failed(&settings, &jobs);
    let keys = Keys::new(KEY);
    let mut other = redis.connect();
    let reserved = keys.reserved(NODE, "mail", 0);
    let before: Vec<Vec<u8>> = other.lrange(&reserved, 0, -1).unwrap();
    fn refused<T: std::fmt::Debug>(result: Result<T, QueueError>, key: &str) {
        let told = format!("WRONGTYPE {key} is a string, not a zset");
        match result {
            Err(QueueError::Refused(text)) => assert!(text.ends_with(&told), "{text}"),
            other => panic!("{other:?}"),
        }
    }
    for (place, key) in [&keys.delayed, &keys.dead].into_iter().enumerate() {
        let _: () = other.set(key, "a string").unwrap();
        if place == 0 {
            refused(queue.turn(&settled, &[2], 0), key);
        }
        refused(queue.leave(&settled), key);
        refused(Due::new(&settings).move_due(), key);
        let after: Vec<Vec<u8>> = other.lrange(&reserved, 0, -1).unwrap();
        assert_eq!(after, before, "{key}");
        assert_eq!(payloads_of(&redis, KEY), ["2"]);
        let _: () = other.del(key).unwrap();
    }
    let _: () = other.set(&keys.delayed, "a string").unwrap();
    let error = Producer::new(&settings).push_delayed(&["x"], Duration::ZERO);
    assert!(matches!(error, Err(QueueError::Refused(_))), "{error:?}");
    let _: () = other.del(&keys.delayed).unwrap();
    assert_eq!(queue.leave(&settled), Ok(0));
    assert_eq!(payloads_of(&redis, &keys.dead), ["0", "1"]);
}

#[test]
fn due_jobs_come_in_the_order_of_their_times_and_others_stay() {
    let redis = Redis::start();
    let settings = config::Queue {
        keys: vec![KEY.into(), "other".into()],
        ..settings(&redis)
    };
    let mut due = Due::new(&settings);
    assert_eq!(due.move_due(), Ok(Moved::default()));
    let now = server_ms(&redis);
    let keys = Keys::new(KEY);
    let mut jobs: Vec<(u64, String)> = (0..250)
        .map(|job| (now - 1000 + job, job.to_string()))
        .collect();
    jobs.reverse();
    jobs.push((now + 3_600_000, "later".into()));
    let _: usize = redis.connect().zadd_multiple(&keys.delayed, &jobs).unwrap();
    let _: usize = redis
        .connect()
        .zadd(Keys::new("other").delayed, "soon", now + 1_800_000)
        .unwrap();
    push(&redis, &["first"]);
    let moved = [(); 3].map(|()| due.move_due().unwrap());
    assert_eq!(moved.map(|moved| moved.jobs), [100, 100, 50]);
    assert_eq!(moved[0].next_in, Some(Duration::ZERO), "there are more");
    let next_in = moved[2].next_in.expect("one is delayed");
    assert!(next_in <= Duration::from_secs(1800) && next_in > Duration::from_secs(1700));
    let mut expected = vec!["first".to_string()];
    expected.extend(numbers(0..250));
    assert_eq!(payloads_of(&redis, KEY), expected);
    assert_eq!(payloads_of(&redis, &keys.delayed), ["later"]);
    // What others put there stops nobody: scores that are no time, jobs of any size.
    let large = vec![b'x'; 700 << 10];
    for (name, score) in [("a", "-inf"), ("b", "0.5"), ("c", "inf")] {
        let job = [name.as_bytes(), &large].concat();
        let mut zadd = cmd("ZADD");
        let _: usize = zadd
            .arg(&keys.delayed)
            .arg(score)
            .arg(job)
            .query(&mut redis.connect())
            .unwrap();
    }
    let _: usize = redis.connect().zadd(&keys.delayed, "d", 1).unwrap();
    assert_eq!(due.move_due().unwrap().jobs, 2, "a mebibyte was reached");
    assert_eq!(due.move_due().unwrap().jobs, 1);
    let _: usize = redis.connect().zrem(&keys.delayed, "later").unwrap();
    let _: usize = redis.connect().del(Keys::new("other").delayed).unwrap();
    assert!(due.move_due().unwrap().next_in > Some(Duration::from_secs(86400)));
}

#[test]
fn keepers_that_move_at_once_double_nothing() {
    let redis = Redis::start();
    let settings = settings(&redis);
    let mut producer = Producer::new(&settings);
    producer
        .push_delayed(&numbers(0..2000), Duration::ZERO)
        .unwrap();
    let moved: usize = std::thread::scope(|scope| {
        let keepers = [(); 4].map(|()| {
            scope.spawn(|| {
                let mut due = Due::new(&settings);
                let mut sum = 0;
                while let Moved {
                    jobs,
                    next_in: Some(_),
                } = due.move_due().unwrap()
                {
                    sum += jobs;
                }
                sum
            })
        });
        keepers
            .into_iter()
            .map(|keeper| keeper.join().unwrap())
            .sum()
    });
    // Who finds nothing more to wait for has not counted what it moved last.
    assert!(moved <= 2000);
    let mut all = payloads_of(&redis, KEY);
    all.sort_by_key(|text| text.parse::<usize>().unwrap());
    assert_eq!(all, numbers(0..2000));
}

#[test]
fn jobs_pushed_with_a_delay_are_told_apart_and_come_as_they_were_pushed() {
    let redis = Redis::start();
    let settings = settings(&redis);
    let mut producer = Producer::new(&settings);
    let payloads: [&[u8]; 3] = [b"same", b"same", b"\0\xff\nstark/1 {}"];
    let none: [&[u8]; 0] = [];
    assert_eq!(producer.push_delayed(&none, Duration::ZERO), Ok(0));
    assert_eq!(producer.push_delayed(&payloads, Duration::ZERO), Ok(3));
    let hour = Duration::from_secs(3600);
    assert_eq!(
        Producer::new(&settings).push_delayed(&["same"], hour),
        Ok(4)
    );
    let moved = Due::new(&settings).move_due().unwrap();
    assert_eq!(moved.jobs, 3);
    assert!(moved.next_in > Some(hour - Duration::from_secs(60)) && moved.next_in <= Some(hour));
    let mut queue = opened(&settings);
    let jobs = queue.turn(&nothing(), &[9], 0).unwrap().jobs;
    let came: Vec<&[u8]> = jobs.iter().map(|job| job.payload.as_slice()).collect();
    assert_eq!(came, payloads);
    assert!(jobs.iter().all(|job| job.attempt() == 1));
    assert_ne!(jobs[0].id(), jobs[1].id());
    // At-most-once sees no history either.
    let mut producer = Producer::new(&settings);
    producer.push_delayed(&["popped"], Duration::ZERO).unwrap();
    Due::new(&settings).move_due().unwrap();
    let popped = self::queue(&settings, 9).pop(&nothing()).unwrap();
    assert_eq!(texts(&popped.jobs), ["popped"]);
}
