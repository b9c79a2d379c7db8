//! A queue of several keys, and giving back: against a real redis-server, and over connections that break.

mod support;

use redis::{Commands, cmd};
use stark::queue::{
    Identity, Keys, Past, Queue, QueueError, Reservation, Settled, Tail, Token, check,
};
use support::proxy::{Fate, Proxy};
use support::redis::Redis;

const KEYS: [&str; 2] = ["urgent", "bulk"];
const BROKEN: [Fate; 3] = [Fate::Dropped, Fate::Unanswered, Fate::Late];

fn settings(redis: &Redis) -> stark::config::Queue {
    stark::config::Queue {
        keys: KEYS.map(str::to_owned).to_vec(),
        ..redis.settings(KEYS[0])
    }
}

fn queue(settings: &stark::config::Queue, generation: u64) -> Queue {
    let identity = Identity {
        node: "node-1".into(),
        nonce: 0xfeed,
        pool: "mail".into(),
        slot: 0,
        generation,
    };
    Queue::new(settings, identity)
}

fn opened(settings: &stark::config::Queue) -> Queue {
    let mut queue = queue(settings, 1);
    queue.open().expect("opens");
    queue
}

fn done(done: usize) -> Settled {
    Settled {
        done,
        ..Settled::default()
    }
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

fn turn(queue: &mut Queue, settled: usize) -> Reservation {
    queue.turn(&done(settled), &[3, 3], 0).expect("a turn")
}

fn payloads(reservation: &Reservation) -> Vec<String> {
    let text = |payload: &Vec<u8>| String::from_utf8(payload.clone()).unwrap();
    reservation
        .jobs
        .iter()
        .map(|job| text(&job.payload))
        .collect()
}

fn list(redis: &Redis, key: &str) -> Vec<String> {
    redis.connect().lrange(key, 0, -1).unwrap()
}

fn processed(redis: &Redis) -> [usize; 2] {
    KEYS.map(|key| {
        let total: Option<usize> = redis
            .connect()
            .hget(Keys::new(key).stats, "processed")
            .unwrap();
        total.unwrap_or(0)
    })
}

fn reserved_names() -> [String; 2] {
    KEYS.map(|key| Keys::new(key).reserved("node-1", "mail", 0))
}

fn away<T: std::fmt::Debug>(result: Result<T, QueueError>) {
    assert!(
        matches!(result, Err(QueueError::Unavailable(_))),
        "{result:?}"
    );
}

#[test]
fn the_first_key_that_has_jobs_is_served_and_each_counts_its_own() {
    let redis = Redis::start();
    let mut queue = opened(&settings(&redis));
    redis.push("bulk", &["b1", "b2", "b3", "b4"]);
    let first = turn(&mut queue, 0);
    assert_eq!(
        (first.key_index, payloads(&first)),
        (1, vec!["b1".into(), "b2".into(), "b3".into()])
    );
    assert_eq!(first.jobs[0].key(), "bulk");
    redis.push("urgent", &["u1"]);
    let second = turn(&mut queue, 3);
    assert_eq!(
        (second.key_index, payloads(&second)),
        (0, vec!["u1".into()])
    );
    assert_eq!(payloads(&turn(&mut queue, 1)), ["b4"]);
    assert!(turn(&mut queue, 1).jobs.is_empty());
    assert_eq!(processed(&redis), [1, 4]);
    for name in reserved_names() {
        assert_eq!(list(&redis, &name).len(), 1, "only the token");
    }
    assert_eq!(queue.leave(&done(0)), Ok(0));
    let mut left: Vec<String> = redis.connect().keys("*").unwrap();
    left.sort();
    assert_eq!(
        left,
        KEYS.map(|key| Keys::new(key).stats)
            .map(String::from)
            .into_iter()
            .rev()
            .collect::<Vec<_>>()
    );
}

#[test]
fn each_key_has_a_limit_and_a_share_of_its_own() {
    let redis = Redis::start();
    let mut queue = opened(&settings(&redis));
    redis.push("bulk", &["b"; 20]);
    assert_eq!(queue.turn(&done(0), &[100, 2], 4).unwrap().jobs.len(), 2);
    assert_eq!(
        queue.turn(&done(2), &[1, 100], 4).unwrap().jobs.len(),
        5,
        "a quarter of 18"
    );
}

/// A worker that holds b1 to b3, behind a proxy which breaks the turn to u1.
fn turn_with(fate: Fate) -> (Redis, Proxy, Queue) {
    let redis = Redis::start();
    let proxy = Proxy::start(&redis.socket());
    let mut settings = settings(&redis);
    settings.address = proxy.address();
    let mut queue = opened(&settings);
    redis.push("bulk", &["b1", "b2", "b3", "b4"]);
    turn(&mut queue, 0);
    redis.push("urgent", &["u1", "u2"]);
    proxy.plan("EVALSHA", fate);
    away(queue.turn(&done(3), &[1, 3], 0));
    (redis, proxy, queue)
}

#[test]
fn a_turn_from_key_to_key_with_unknown_outcome_is_found_out_and_settles_once() {
    for fate in BROKEN {
        let (redis, proxy, mut queue) = turn_with(fate);
        // What the broken turn did not see must not matter: only its repetition, or itself, chooses.
        let reservation = queue.turn(&done(3), &[1, 3], 0).unwrap();
        assert_eq!(
            (reservation.key_index, payloads(&reservation)),
            (0, vec!["u1".into()]),
            "{fate:?}"
        );
        proxy.deliver();
        assert_eq!(payloads(&turn(&mut queue, 1)), ["u2"], "{fate:?}");
        assert_eq!(payloads(&turn(&mut queue, 1)), ["b4"], "{fate:?}");
        assert_eq!(queue.leave(&done(1)), Ok(0));
        assert_eq!(processed(&redis), [2, 4], "{fate:?}");
    }
}

#[test]
fn leaving_after_such_a_turn_gives_back_what_it_may_have_reserved() {
    for fate in BROKEN {
        let (redis, proxy, mut queue) = turn_with(fate);
        assert_eq!(
            queue.leave(&done(3)),
            Ok(usize::from(fate == Fate::Unanswered)),
            "{fate:?}"
        );
        proxy.deliver();
        assert_eq!(list(&redis, "urgent"), ["u1", "u2"], "{fate:?}");
        assert_eq!(list(&redis, "bulk"), ["b4"], "{fate:?}");
        assert_eq!(processed(&redis), [0, 3], "{fate:?}");
        assert_eq!(queue.registered(), Ok(vec![]));
    }
}

#[test]
fn leaving_that_breaks_at_any_of_its_lists_can_be_repeated() {
    for fate in [Fate::Dropped, Fate::Unanswered] {
        for commands_before in 0..2 {
            let redis = Redis::start();
            let proxy = Proxy::start(&redis.socket());
            let mut settings = settings(&redis);
            settings.address = proxy.address();
            let mut queue = opened(&settings);
            redis.push("bulk", &["b1", "b2"]);
            turn(&mut queue, 0);
            let word = &reserved_names()[1 - commands_before];
            proxy.plan(word, fate);
            // The list with the jobs goes first, then the empty one, whose name is in no other command.
            away(queue.leave(&done(1)));
            assert!(proxy.is_done());
            assert_eq!(queue.leave(&done(1)), Ok(1), "{fate:?} {commands_before}");
            assert_eq!(list(&redis, "bulk"), ["b2"]);
            assert_eq!(processed(&redis), [0, 1]);
            assert_eq!(queue.registered(), Ok(vec![]));
        }
    }
}

#[test]
fn a_successor_reclaims_the_lists_of_all_keys() {
    let redis = Redis::start();
    let settings = settings(&redis);
    redis.push("bulk", &["b1", "b2", "b3"]);
    let mut worker = opened(&settings);
    let token = turn(&mut worker, 0).token;
    let mut successor = queue(&settings, 2);
    assert_eq!(successor.registered().unwrap().len(), 2);
    assert_eq!(
        successor.open(),
        Err(QueueError::Lost),
        "reclaim comes first"
    );
    let past = |seen: &Token, jobs: usize| match jobs {
        0 => ended(7),
        _ => {
            assert_eq!((*seen, jobs), (token, 3));
            ended(1)
        }
    };
    let reclaimed = successor.reclaim(&past).unwrap().unwrap();
    assert_eq!(
        (reclaimed.token, reclaimed.ended, reclaimed.given_back),
        (Some(token), 1, 2)
    );
    assert_eq!(list(&redis, "bulk"), ["b2", "b3"]);
    assert_eq!(processed(&redis), [0, 1]);
    assert_eq!(successor.registered(), Ok(vec![]));
    assert_eq!(
        worker.turn(&done(3), &[3, 3], 0).unwrap_err(),
        QueueError::Lost
    );
}

#[test]
fn a_crash_between_two_opens_harms_nobody() {
    let redis = Redis::start();
    let settings = settings(&redis);
    redis.push("bulk", &["b1"]);
    let first = stark::config::Queue {
        keys: vec![KEYS[0].into()],
        ..settings.clone()
    };
    opened(&first);
    let mut successor = queue(&settings, 2);
    assert_eq!(successor.open(), Err(QueueError::Lost));
    successor.reclaim(&nothing_ended).unwrap();
    successor.open().unwrap();
    assert_eq!(payloads(&turn(&mut successor, 0)), ["b1"]);
}

#[test]
fn a_worker_whose_other_list_was_taken_over_takes_nothing_from_its_key() {
    let redis = Redis::start();
    let settings = settings(&redis);
    let mut worker = opened(&settings);
    redis.push("bulk", &["b1"]);
    turn(&mut worker, 0);
    redis.push("urgent", &["u1"]);
    let lists = worker.registered().unwrap();
    let urgent = lists.iter().find(|list| list.key == "urgent").unwrap();
    queue(&settings, 2)
        .reclaim_registered(urgent, &nothing_ended)
        .unwrap();
    assert_eq!(
        worker.turn(&done(1), &[3, 3], 0).unwrap_err(),
        QueueError::Lost
    );
    assert_eq!(list(&redis, "urgent"), ["u1"]);
    assert_eq!(list(&redis, &reserved_names()[1])[1..], ["b1"]);
    assert_eq!(processed(&redis), [0, 0]);
}

/// A worker that holds b1, b2 and b3 of four, behind a proxy.
fn holding() -> (Redis, Proxy, Queue, Reservation) {
    let redis = Redis::start();
    let proxy = Proxy::start(&redis.socket());
    let mut settings = settings(&redis);
    settings.address = proxy.address();
    let mut queue = opened(&settings);
    redis.push("bulk", &["b1", "b2", "b3", "b4"]);
    let reservation = turn(&mut queue, 0);
    (redis, proxy, queue, reservation)
}

#[test]
fn jobs_given_back_are_at_the_head_in_order_and_the_rest_goes_on() {
    let (redis, _proxy, mut queue, _) = holding();
    assert_eq!(queue.give_back(0), Ok(()));
    assert_eq!(queue.give_back(2), Ok(()));
    assert_eq!(list(&redis, "bulk"), ["b2", "b3", "b4"]);
    assert_eq!(payloads(&turn(&mut queue, 1)), ["b2", "b3", "b4"]);
    assert_eq!(queue.give_back(1), Ok(()));
    assert_eq!(queue.give_back(1), Ok(()));
    assert_eq!(queue.leave(&done(0)), Ok(1));
    assert_eq!(list(&redis, "bulk"), ["b2", "b3", "b4"]);
    assert_eq!(processed(&redis), [0, 1]);
}

#[test]
fn giving_back_with_unknown_outcome_gives_each_job_back_once() {
    for fate in BROKEN {
        for next in ["turn", "leave", "give back"] {
            let (redis, proxy, mut queue, _) = holding();
            proxy.plan("EVALSHA", fate);
            away(queue.give_back(1));
            match next {
                "turn" => assert_eq!(payloads(&turn(&mut queue, 2)), ["b3", "b4"]),
                "leave" => assert_eq!(queue.leave(&done(1)), Ok(1)),
                _ => assert_eq!(queue.give_back(1), Ok(())),
            }
            proxy.deliver();
            match next {
                "turn" => assert_eq!(queue.leave(&done(0)), Ok(2)),
                "leave" => {}
                _ => assert_eq!(queue.leave(&done(1)), Ok(0)),
            }
            let (left, ended) = match next {
                "turn" => (vec!["b3", "b4"], 2),
                _ => (vec!["b2", "b3", "b4"], 1),
            };
            assert_eq!(list(&redis, "bulk"), left, "{fate:?} {next}");
            assert_eq!(processed(&redis), [0, ended], "{fate:?} {next}");
        }
    }
}

#[test]
fn another_thread_gives_back_while_a_job_runs() {
    let (redis, _proxy, mut queue, held) = holding();
    let mut tail: Tail = queue.tail();
    let extent = held.extent();
    std::thread::spawn(move || {
        assert_eq!(tail.give_back(extent, 2), Ok(()));
        assert_eq!(tail.give_back(extent, 2), Ok(()), "again: it is done");
    })
    .join()
    .unwrap();
    assert_eq!(list(&redis, "bulk"), ["b2", "b3", "b4"]);
    queue.given_back(2);
    assert_eq!(payloads(&turn(&mut queue, 1)), ["b2", "b3", "b4"]);
    assert_eq!(processed(&redis), [0, 1]);
}

#[test]
fn what_another_thread_may_have_given_back_is_found_out_by_the_next_turn() {
    for fate in BROKEN {
        let (redis, proxy, mut queue, held) = holding();
        let mut tail = queue.tail();
        proxy.plan("EVALSHA", fate);
        away(tail.give_back(held.extent(), 2));
        queue.give_up(2);
        assert_eq!(
            payloads(&turn(&mut queue, 1)),
            ["b2", "b3", "b4"],
            "{fate:?}"
        );
        proxy.deliver();
        assert_eq!(tail.give_back(held.extent(), 2), Err(QueueError::Lost));
        assert_eq!(queue.leave(&done(0)), Ok(3), "{fate:?}");
        assert_eq!(list(&redis, "bulk"), ["b2", "b3", "b4"], "{fate:?}");
        assert_eq!(processed(&redis), [0, 1], "{fate:?}");
    }
}

#[test]
fn a_tail_finds_out_by_itself_when_it_is_asked_again() {
    for fate in BROKEN {
        let (redis, proxy, queue, held) = holding();
        let mut tail = queue.tail();
        proxy.plan("EVALSHA", fate);
        away(tail.give_back(held.extent(), 1));
        assert_eq!(tail.give_back(held.extent(), 1), Ok(()), "{fate:?}");
        proxy.deliver();
        assert_eq!(list(&redis, "bulk"), ["b3", "b4"], "{fate:?}");
    }
}

#[test]
fn a_worker_that_lost_its_list_gives_nothing_back() {
    let (redis, _proxy, mut queue, held) = holding();
    let mut tail = queue.tail();
    self::queue(&settings(&redis), 2)
        .reclaim(&nothing_ended)
        .unwrap();
    assert_eq!(tail.give_back(held.extent(), 1), Err(QueueError::Lost));
    assert_eq!(queue.give_back(1), Err(QueueError::Lost));
    assert_eq!(list(&redis, "bulk"), ["b1", "b2", "b3", "b4"]);
}

#[test]
fn a_full_server_drains_over_all_keys_and_takes_jobs_back() {
    let (redis, _proxy, mut queue, _) = holding();
    redis.push("urgent", &["u1"]);
    let mut set = cmd("CONFIG");
    let _: () = set
        .arg("SET")
        .arg("maxmemory")
        .arg(1)
        .query(&mut redis.connect())
        .unwrap();
    assert_eq!(queue.give_back(2), Ok(()));
    assert_eq!(payloads(&turn(&mut queue, 1)), ["u1"]);
    assert_eq!(payloads(&turn(&mut queue, 1)), ["b2", "b3", "b4"]);
    assert_eq!(
        queue.tail().give_back(turn(&mut queue, 3).extent(), 0),
        Ok(())
    );
    assert_eq!(queue.leave(&done(0)), Ok(0));
    assert_eq!(processed(&redis), [1, 4]);
}

#[test]
fn a_key_of_another_type_is_named_and_nothing_is_lost() {
    let (redis, _proxy, mut queue, _) = holding();
    let _: () = redis.connect().set("urgent", "a string").unwrap();
    let refused = |result: Result<(), QueueError>, words: &str| match result {
        Err(QueueError::Refused(text)) => assert!(text.contains(words), "{text}"),
        other => panic!("{other:?}"),
    };
    refused(
        queue.turn(&done(3), &[3, 3], 0).map(drop),
        "cannot use keys urgent, bulk",
    );
    refused(check(&settings(&redis)).map(drop), "key urgent of redis");
    assert_eq!(list(&redis, &reserved_names()[1])[1..], ["b1", "b2", "b3"]);
    let _: () = redis.connect().del("urgent").unwrap();
    assert_eq!(payloads(&turn(&mut queue, 3)), ["b4"]);
}
