//! What the queue asks of a server, what it says when it does not get it, and how it is told of changes.

mod support;

use std::time::{Duration, Instant};

use redis::{Commands, cmd};
use stark::config::{Delivery, Secret};
use stark::queue::{
    Due, Event, Fate, Identity, Moved, Past, Producer, Queue, QueueError, Sample, Sampler, Settled,
    Token, Tracking, Verdict, Watch, check, fate,
};
use support::redis::Redis;

const KEY: &str = "test:redis";

fn queue_of(settings: &stark::config::Queue) -> Queue {
    let identity = Identity {
        node: "node-1".into(),
        nonce: 0xfeed,
        pool: "mail".into(),
        slot: 0,
        generation: 1,
    };
    Queue::new(settings, identity)
}

fn opened(settings: &stark::config::Queue) -> Queue {
    let mut queue = queue_of(settings);
    queue.open().expect("opens");
    queue
}

fn done(done: usize) -> Settled {
    Settled {
        done,
        ..Settled::default()
    }
}

fn push(redis: &Redis, jobs: std::ops::Range<usize>) {
    let payloads: Vec<String> = jobs.map(|job| job.to_string()).collect();
    let _: usize = redis.connect().rpush(KEY, payloads).unwrap();
}

#[test]
fn passwords_users_and_databases_are_used_and_refusals_are_named() {
    let redis = Redis::start_with(&["--requirepass", "secret"]);
    let mut settings = redis.settings(KEY);
    let refused = |settings: &stark::config::Queue, word: &str| match check(settings) {
        Err(QueueError::Refused(text)) => assert!(text.contains(word), "{text}"),
        other => panic!("{other:?}"),
    };
    refused(&settings, "NOAUTH");
    settings.password = Some(Secret("wrong".into()));
    refused(&settings, "WRONGPASS");
    settings.password = Some(Secret("secret".into()));
    settings.db = 99;
    refused(&settings, "DB index is out of range");
    settings.db = 3;
    Producer::new(&settings).push(&["in 3"]).unwrap();
    let mut queue = opened(&settings);
    let reservation = queue.turn(&done(0), &[1], 0).unwrap();
    assert_eq!(reservation.jobs[0].payload, b"in 3");
    settings.db = 0;
    let mut elsewhere = opened(&settings);
    assert!(elsewhere.turn(&done(0), &[1], 0).unwrap().jobs.is_empty());
}

#[test]
fn missing_rights_name_what_is_needed_and_the_named_rights_suffice() {
    let redis = Redis::start();
    let mut admin = redis.connect();
    let mut set_user = |rules: &[&str]| {
        let mut set = cmd("ACL");
        set.arg("SETUSER").arg("worker").arg(rules);
        let _: () = set.query(&mut admin).unwrap();
    };
    set_user(&["on", ">pw", "~test:redis", "+@all"]);
    let mut settings = redis.settings(KEY);
    settings.username = Some("worker".into());
    settings.password = Some(Secret("pw".into()));
    let Err(QueueError::Refused(message)) = check(&settings) else {
        panic!("refused")
    };
    let (_, needed) = message.split_once("the user needs ").expect(&message);
    let mut rules = vec!["reset", "on", ">pw"];
    rules.extend(needed.split(' '));
    set_user(&rules);

    check(&settings).unwrap();
    push(&redis, 0..3);
    let mut queue = opened(&settings);
    queue.turn(&done(0), &[2], 0).unwrap();
    queue.turn(&done(2), &[1], 0).unwrap();
    assert_eq!(queue.registered().unwrap().len(), 1);
    let mut successor = queue_of(&settings);
    let reclaimed = successor.reclaim(&|_, _| Past::default()).unwrap().unwrap();
    assert_eq!(reclaimed.given_back, 1);
    let mut watch = Watch::new(&settings);
    assert_eq!(watch.open(), Ok(Tracking::On));
    assert_eq!(answer(&mut watch), Event::Lengths(vec![1]));
    successor.open().unwrap();
    let held = successor.turn(&done(0), &[1], 0).unwrap();
    successor.tail().give_back(held.extent(), 1).unwrap();
    successor.given_back(1);
    successor.leave(&done(0)).unwrap();
    assert_eq!(Sampler::new(&settings).sample().unwrap()[0].waiting, 1);
    assert_eq!(successor.pop(&done(0)).unwrap().jobs.len(), 1);
    assert!(successor.pop(&done(1)).unwrap().jobs.is_empty());

    let mut worker = opened(&settings);
    for bury in [false, true] {
        let mut producer = Producer::new(&settings);
        producer.push_delayed(&["x"], Duration::ZERO).unwrap();
        assert!(Due::new(&settings).move_due().unwrap().jobs > 0);
        let held = worker.turn(&done(0), &[1], 0).unwrap();
        let entry = held.jobs[0].header().encode(b"x");
        let mut settled = done(0);
        settled.add(match bury {
            false => Fate::Later { delay_ms: 0, entry },
            true => Fate::Dead { entry },
        });
        worker.turn(&settled, &[1], 0).unwrap();
        worker.reclaim(&|_, _| Past::default()).unwrap();
        worker.open().unwrap();
    }
    // Both ends of the dead list are seen to.
    settings.retry.dead_max = 1;
    settings.retry.dead_for = Some(Duration::from_millis(1));
    Due::new(&settings).move_due().unwrap();
    let held = worker.turn(&done(0), &[1], 0).unwrap();
    let verdict = Verdict::Crashed("x".into());
    let crashed = |_: &Token, _: usize| Past {
        crashed: Some("x".into()),
        ..Past::default()
    };
    let mut settled = done(0);
    let judged = (held.jobs[0].header(), &b"x"[..]);
    let mut jitter = stark::jitter::Jitter::new(1);
    settled.add(fate(&settings.retry, judged, verdict, 0, "n", &mut jitter));
    assert_eq!(worker.leave(&settled), Ok(1));
    worker.open().unwrap();
    worker.turn(&done(0), &[1], 0).unwrap();
    assert_eq!(worker.reclaim(&crashed).unwrap().unwrap().given_back, 1);
}

#[test]
fn a_check_says_the_version_warns_of_eviction_and_changes_nothing() {
    let redis = Redis::start();
    let settings = redis.settings(KEY);
    let checked = check(&settings).unwrap();
    assert!(checked.version.split('.').count() >= 3, "{checked:?}");
    assert_eq!(checked.warning, None);
    let mut admin = redis.connect();
    let mut policy = |policy: &str| {
        let mut set = cmd("CONFIG");
        set.arg("SET").arg("maxmemory-policy").arg(policy);
        let _: () = set.query(&mut admin).unwrap();
        check(&settings).unwrap().warning
    };
    assert_eq!(policy("volatile-lru"), None);
    let warning = policy("allkeys-lru").expect("a warning");
    assert!(warning.contains("allkeys-lru"), "{warning}");
    let keys: Vec<String> = redis.connect().keys("*").unwrap();
    assert_eq!(keys, Vec::<String>::new());
    let _: () = redis.connect().set(KEY, "a string").unwrap();
    assert!(
        check(&settings)
            .unwrap_err()
            .to_string()
            .contains("it is a string, not a list")
    );
    let keys = stark::queue::Keys::new(KEY);
    let _: () = redis.connect().del(KEY).unwrap();
    for key in [&keys.delayed, &keys.dead] {
        let _: () = redis.connect().set(key, "a string").unwrap();
        let error = check(&settings).unwrap_err().to_string();
        let told = format!("cannot use key {key} of");
        assert!(error.starts_with(&told), "{error}");
        assert!(error.ends_with("it is a string, not a zset"), "{error}");
        let _: () = redis.connect().del(key).unwrap();
    }
}

/// Asks, and hears what the watch says next.
fn answer(watch: &mut Watch) -> Event {
    watch.ask().unwrap();
    next_event(watch)
}

/// What the watch says next.
fn next_event(watch: &mut Watch) -> Event {
    loop {
        if let Some(event) = watch.read().unwrap() {
            return event;
        }
        let mut fds = [nix::poll::PollFd::new(
            watch.fd().expect("connected"),
            nix::poll::PollFlags::POLLIN,
        )];
        let ready = nix::poll::poll(&mut fds, 10_000u16).unwrap();
        assert!(ready > 0, "the server says nothing");
    }
}

#[test]
fn the_watch_is_told_once_when_the_key_changes_after_it_was_asked_for() {
    let redis = Redis::start();
    let mut watch = Watch::new(&redis.settings(KEY));
    assert_eq!(watch.open(), Ok(Tracking::On));
    assert_eq!(watch.deadline(), None);
    assert_eq!(answer(&mut watch), Event::Lengths(vec![0]));
    push(&redis, 0..2);
    push(&redis, 2..3);
    assert_eq!(next_event(&mut watch), Event::Invalidated);
    assert_eq!(answer(&mut watch), Event::Lengths(vec![3]));
    assert_eq!(watch.deadline(), None);
    assert_eq!(watch.read(), Ok(None));
    let _: () = cmd("FLUSHALL").query(&mut redis.connect()).unwrap();
    assert_eq!(next_event(&mut watch), Event::Invalidated);
}

#[test]
fn the_watch_is_told_of_every_key_and_answers_their_lengths_together() {
    let redis = Redis::start();
    let settings = stark::config::Queue {
        keys: vec!["a".into(), "b".into(), "c".into()],
        ..redis.settings(KEY)
    };
    let mut watch = Watch::new(&settings);
    assert_eq!(watch.open(), Ok(Tracking::On));
    assert_eq!(answer(&mut watch), Event::Lengths(vec![0, 0, 0]));
    for (key, lengths) in [("a", [1, 0, 0]), ("c", [1, 0, 1]), ("b", [1, 1, 1])] {
        let _: usize = redis.connect().rpush(key, "job").unwrap();
        assert_eq!(next_event(&mut watch), Event::Invalidated, "{key}");
        assert_eq!(answer(&mut watch), Event::Lengths(lengths.into()));
    }
    watch.ask().unwrap();
    watch.ask().unwrap();
    for _ in 0..2 {
        assert_eq!(next_event(&mut watch), Event::Lengths(vec![1, 1, 1]));
    }
    assert_eq!(watch.deadline(), None);
}

#[test]
fn a_change_between_two_answers_to_one_question_is_not_overlooked() {
    // This server tells of a change of the first key before it answers for the second.
    let settings = stark::config::Queue {
        keys: vec!["a".into(), "b".into()],
        ..told(&[
            b"%1\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n",
            b"+OK\r\n",
            b":0\r\n>2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n:0\r\n:3\r\n:0\r\n",
        ])
    };
    let mut watch = Watch::new(&settings);
    assert_eq!(watch.open(), Ok(Tracking::On));
    assert_eq!(answer(&mut watch), Event::Invalidated);
    assert_eq!(next_event(&mut watch), Event::Lengths(vec![0, 3]));
}

#[test]
fn the_watch_tells_of_delayed_jobs_apart() {
    let redis = Redis::start();
    let settings = redis.settings(KEY);
    let mut watch = Watch::new(&settings);
    assert_eq!(watch.open(), Ok(Tracking::On));
    assert_eq!(answer(&mut watch), Event::Lengths(vec![0]));
    let mut producer = Producer::new(&settings);
    producer.push_delayed(&["a"], Duration::ZERO).unwrap();
    assert_eq!(next_event(&mut watch), Event::DelayedChanged);
    assert_eq!(answer(&mut watch), Event::Lengths(vec![0]));
    assert_eq!(Due::new(&settings).move_due().unwrap().jobs, 1);
    assert_eq!(next_event(&mut watch), Event::Invalidated);
    assert_eq!(next_event(&mut watch), Event::DelayedChanged);
    assert_eq!(answer(&mut watch), Event::Lengths(vec![1]));
    let nothing = Due::new(&settings).move_due().unwrap();
    assert_eq!(nothing, Moved::default());
    // That changed nothing, so nobody is told.
    push(&redis, 0..1);
    assert_eq!(next_event(&mut watch), Event::Invalidated);
    assert_eq!(answer(&mut watch), Event::Lengths(vec![2]));
    let keys = stark::queue::Keys::new(KEY);
    let _: () = redis.connect().set(&keys.delayed, "a string").unwrap();
    assert_eq!(next_event(&mut watch), Event::DelayedChanged);
    assert_eq!(answer(&mut watch), Event::Lengths(vec![2]));
}

#[test]
fn a_sample_counts_what_lies_where() {
    let redis = Redis::start();
    let settings = stark::config::Queue {
        keys: vec![KEY.into(), "other".into()],
        ..redis.settings(KEY)
    };
    let mut sampler = Sampler::new(&settings);
    assert_eq!(sampler.sample(), Ok(vec![Sample::default(); 2]));
    push(&redis, 0..10);
    let mut queue = opened(&settings);
    queue.turn(&done(0), &[4, 1], 0).unwrap();
    queue.turn(&done(4), &[3, 1], 0).unwrap();
    let keys = stark::queue::Keys::new(KEY);
    let _: usize = redis.connect().zadd(&keys.delayed, "later", 1).unwrap();
    for job in ["x", "y"] {
        let _: usize = redis.connect().zadd(&keys.dead, job, 1).unwrap();
    }
    // Far more lists than are asked for at once.
    let others: Vec<String> = (0..2500)
        .map(|slot| keys.reserved("n", "p", slot))
        .collect();
    let mut connection = redis.connect();
    for list in &others {
        let _: usize = connection.rpush(list, &["token", "job"]).unwrap();
    }
    let _: usize = connection.sadd(&keys.registry, &others).unwrap();
    let expected = Sample {
        waiting: 3,
        reserved: 3 + 2500,
        delayed: 1,
        dead: 2,
        taken: 4 + 3 + 2500,
    };
    assert_eq!(sampler.sample(), Ok(vec![expected, Sample::default()]));
    let _: () = connection.set(&keys.stats, "a string").unwrap();
    let uncounted = Sample {
        taken: 2503,
        ..expected
    };
    assert_eq!(sampler.sample().unwrap()[0], uncounted);
    let _: () = connection.set("other", "a string").unwrap();
    assert!(matches!(sampler.sample(), Err(QueueError::Refused(_))));
}

#[test]
fn a_change_right_behind_an_answer_is_not_overlooked() {
    let redis = Redis::start();
    let mut watch = Watch::new(&redis.settings(KEY));
    watch.open().unwrap();
    for job in 0..50 {
        watch.ask().unwrap();
        // The answer must be on its way before the push, and both before they are read.
        let mut fds = [nix::poll::PollFd::new(
            watch.fd().unwrap(),
            nix::poll::PollFlags::POLLIN,
        )];
        nix::poll::poll(&mut fds, 10_000u16).unwrap();
        push(&redis, job..job + 1);
        let length = Event::Lengths(vec![job as u64]);
        assert_eq!(next_event(&mut watch), length);
        assert_eq!(next_event(&mut watch), Event::Invalidated);
    }
}

#[test]
fn a_watch_notices_a_hang_up_and_a_stall() {
    let mut redis = Redis::start();
    let mut settings = redis.settings(KEY);
    settings.timeout = Duration::from_millis(100);
    let mut watch = Watch::new(&settings);
    watch.open().unwrap();
    redis.pause();
    watch.ask().unwrap();
    let deadline = watch.deadline().expect("an answer is owed");
    let error = loop {
        match watch.read() {
            Ok(event) => assert_eq!(event, None),
            Err(error) => break error,
        }
    };
    assert!(Instant::now() >= deadline);
    assert!(
        error.to_string().contains("no answer within 100ms"),
        "{error}"
    );
    assert!(watch.fd().is_none());
    redis.resume();
    redis.restart();
    let mut watch = Watch::new(&redis.settings(KEY));
    watch.open().unwrap();
    redis.stop();
    let error = loop {
        match watch.read() {
            Ok(event) => assert_eq!(event, None),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, QueueError::Unavailable(_)), "{error}");
}

#[test]
fn a_server_refusing_tracking_still_tells_the_length() {
    let redis = Redis::start();
    push(&redis, 0..4);
    let mut deny = cmd("ACL");
    deny.arg("SETUSER").arg("default").arg("-client|tracking");
    let _: () = deny.query(&mut redis.connect()).unwrap();
    let mut watch = Watch::new(&redis.settings(KEY));
    let tracking = watch.open().unwrap();
    assert!(
        matches!(&tracking, Tracking::Refused(text) if text.contains("NOPERM")),
        "{tracking:?}"
    );
    assert_eq!(answer(&mut watch), Event::Lengths(vec![4]));
}

/// Answers each connection with these bytes, whatever it asks.
fn impostor(answer: &'static [u8]) -> stark::config::Queue {
    told(&[answer])
}

/// Answers what comes on each connection with these bytes, one after the other.
fn told(answers: &[&'static [u8]]) -> stark::config::Queue {
    let answers = answers.to_vec();
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            for answer in &answers {
                let _ = client.read(&mut [0; 1024]);
                let _ = client.write_all(answer);
            }
        }
    });
    stark::config::Queue {
        address: stark::config::Address::Tcp(address.ip().to_string(), address.port()),
        db: 0,
        username: None,
        password: None,
        timeout: Duration::from_secs(5),
        keys: vec![KEY.into()],
        delivery: Delivery::AtLeastOnce,
        prefetch: stark::config::Prefetch::Auto,
        retry: stark::config::Retry::default(),
    }
}

#[test]
fn old_servers_and_strangers_are_refused_by_name() {
    let old = b"*4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n6.0.9\r\n";
    let error = check(&impostor(old)).unwrap_err();
    assert!(
        matches!(&error, QueueError::Refused(text) if text.ends_with("version 6.0.9 is too old, 6.2 is needed")),
        "{error}"
    );
    let error = check(&impostor(
        b"-ERR unknown command `HELLO`, with args beginning with: `2`, \r\n",
    ));
    assert!(
        matches!(&error, Err(QueueError::Refused(text)) if text.contains("before 6.0 is too old")),
        "{error:?}"
    );
    for away in [
        &b""[..],
        b"$100\r\nhalf",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"-ERR max number of clients reached\r\n",
        b"-LOADING Redis is loading the dataset in memory\r\n",
    ] {
        let error = check(&impostor(away)).unwrap_err();
        assert!(matches!(error, QueueError::Unavailable(_)), "{error}");
    }
}
