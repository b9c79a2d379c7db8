//! At-most-once: a plain pop, against a real redis-server. A job may be lost on its way, and never runs twice.

mod support;

use redis::{Commands, cmd};
use stark::queue::{Identity, Keys, Past, Queue, QueueError, Reservation, Settled};
use support::proxy::{Fate, Proxy};
use support::redis::Redis;

const KEYS: [&str; 2] = ["urgent", "bulk"];
const DONE: Settled = settled(1, 0);
const FAILED: Settled = settled(0, 1);
const NOTHING: Settled = settled(0, 0);

const fn settled(done: usize, failed: usize) -> Settled {
    Settled {
        done,
        failed,
        fates: Vec::new(),
    }
}

fn queue(redis: &Redis, address: Option<&Proxy>) -> Queue {
    let mut settings = redis.settings(KEYS[0]);
    settings.keys = KEYS.map(str::to_owned).to_vec();
    settings.delivery = stark::config::Delivery::AtMostOnce;
    if let Some(proxy) = address {
        settings.address = proxy.address();
    }
    let identity = Identity {
        node: "node-1".into(),
        nonce: 0xfeed,
        pool: "mail".into(),
        slot: 0,
        generation: 1,
    };
    Queue::new(&settings, identity)
}

fn payloads(reservation: &Reservation) -> Vec<&[u8]> {
    reservation
        .jobs
        .iter()
        .map(|job| &job.payload[..])
        .collect()
}

/// Jobs that ended and those of them that failed, of a key.
fn counted(redis: &Redis, key: &str) -> (usize, usize) {
    let total = |field: &str| -> usize {
        let total: Option<usize> = redis.connect().hget(Keys::new(key).stats, field).unwrap();
        total.unwrap_or(0)
    };
    (total("processed"), total("failed"))
}

#[test]
fn one_job_a_pop_from_the_first_key_that_has_one_and_nothing_of_it_stays() {
    let redis = Redis::start();
    let mut queue = queue(&redis, None);
    assert_eq!(queue.reclaim(&|_, _| Past::default()), Ok(None));
    redis.push("bulk", &["b1", ""]);
    let first = queue.pop(&NOTHING).unwrap();
    assert_eq!((first.key_index, payloads(&first)), (1, vec![&b"b1"[..]]));
    redis.push("urgent", &["u1"]);
    let second = queue.pop(&DONE).unwrap();
    assert_eq!((second.key_index, payloads(&second)), (0, vec![&b"u1"[..]]));
    assert_eq!(second.jobs[0].key(), "urgent");
    assert_ne!(first.jobs[0].id(), second.jobs[0].id());
    assert!(second.token.number > first.token.number);
    let third = queue.pop(&FAILED).unwrap();
    assert_eq!(payloads(&third), [&b""[..]], "an empty payload is a job");
    assert!(queue.pop(&DONE).unwrap().jobs.is_empty());
    assert!(queue.pop(&NOTHING).unwrap().jobs.is_empty());
    assert_eq!(counted(&redis, "urgent"), (1, 1));
    assert_eq!(counted(&redis, "bulk"), (2, 0));
    let keys: Vec<String> = redis.connect().keys("*").unwrap();
    assert_eq!(keys.len(), 2, "only figures: {keys:?}");
}

#[test]
fn leaving_counts_the_last_job_and_gives_nothing_back() {
    let redis = Redis::start();
    redis.push("bulk", &["b1", "b2"]);
    let mut queue = queue(&redis, None);
    queue.pop(&NOTHING).unwrap();
    assert_eq!(queue.give_back(1), Ok(()));
    assert_eq!(queue.leave(&FAILED), Ok(0));
    assert_eq!(queue.leave(&FAILED), Ok(0));
    assert_eq!(counted(&redis, "bulk"), (1, 1));
    let left: Vec<String> = redis.connect().lrange("bulk", 0, -1).unwrap();
    assert_eq!(left, ["b2"]);
}

#[test]
fn a_broken_connection_may_lose_a_job_but_no_job_comes_twice_and_none_is_counted_twice() {
    for fate in [
        Fate::Dropped,
        Fate::Unanswered,
        Fate::HalfAnswered,
        Fate::Reset,
        Fate::Late,
    ] {
        let redis = Redis::start();
        let proxy = Proxy::start(&redis.socket());
        redis.push("bulk", &["b1", "b2", "b3", "b4"]);
        let mut queue = queue(&redis, Some(&proxy));
        queue.pop(&NOTHING).unwrap();
        proxy.plan("EVALSHA", fate);
        let error = queue.pop(&DONE).unwrap_err();
        assert!(matches!(error, QueueError::Unavailable(_)), "{error}");
        let mut came = vec![];
        let mut reservation = queue.pop(&DONE).unwrap();
        proxy.deliver();
        while !reservation.jobs.is_empty() {
            came.extend(payloads(&reservation).into_iter().map(<[u8]>::to_vec));
            reservation = queue.pop(&DONE).unwrap();
        }
        let expected: &[&[u8]] = match fate {
            Fate::Dropped => &[b"b2", b"b3", b"b4"],
            Fate::Unanswered | Fate::HalfAnswered | Fate::Cut(_) | Fate::Reset => &[b"b3", b"b4"],
            Fate::Late => &[b"b2", b"b4"],
        };
        assert_eq!(came, expected, "{fate:?}");
        let (ended, _) = counted(&redis, "bulk");
        assert!(ended <= 1 + came.len(), "{fate:?}: {ended}");
        assert!(ended >= came.len(), "{fate:?}: {ended}");
    }
}

#[test]
fn an_unreachable_server_costs_no_figures() {
    let mut redis = Redis::start();
    redis.push("bulk", &["b1", "b2"]);
    let mut queue = queue(&redis, None);
    queue.pop(&NOTHING).unwrap();
    queue.disconnect();
    redis.stop();
    for _ in 0..3 {
        assert!(matches!(queue.pop(&DONE), Err(QueueError::Unavailable(_))));
    }
    redis.restart();
    assert_eq!(payloads(&queue.pop(&DONE).unwrap()), [&b"b2"[..]]);
    assert_eq!(counted(&redis, "bulk"), (1, 0));
}

#[test]
fn a_full_server_is_drained_and_figures_of_another_type_stop_no_job() {
    let redis = Redis::start();
    redis.push("bulk", &["b1", "b2", "b3"]);
    let _: () = redis.connect().set(Keys::new("bulk").stats, "x").unwrap();
    let mut set = cmd("CONFIG");
    let _: () = set
        .arg("SET")
        .arg("maxmemory")
        .arg(1)
        .query(&mut redis.connect())
        .unwrap();
    let mut queue = queue(&redis, None);
    for job in ["b1", "b2", "b3"] {
        assert_eq!(payloads(&queue.pop(&DONE).unwrap()), [job.as_bytes()]);
    }
    assert!(queue.pop(&DONE).unwrap().jobs.is_empty());
    let _: () = redis.connect().del(Keys::new("bulk").stats).unwrap();
    assert!(queue.pop(&FAILED).unwrap().jobs.is_empty());
    assert_eq!(counted(&redis, "bulk"), (1, 1), "even on a full server");
}

#[test]
fn a_key_of_another_type_loses_no_job_of_the_others() {
    let redis = Redis::start();
    redis.push("urgent", &["u1"]);
    let _: () = redis.connect().set("bulk", "x").unwrap();
    let mut queue = queue(&redis, None);
    assert_eq!(payloads(&queue.pop(&NOTHING).unwrap()), [&b"u1"[..]]);
    assert!(matches!(queue.pop(&DONE), Err(QueueError::Refused(_))));
    redis.push("urgent", &["u2"]);
    assert_eq!(payloads(&queue.pop(&DONE).unwrap()), [&b"u2"[..]]);
}
