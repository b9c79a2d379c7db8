//! Connections that break in the middle of a turn: at every byte of its reply, with a reset, and under load.

use std::time::Duration;

use stark::config::Queue as Settings;
use stark::queue::{Identity, Queue, QueueError, Settled};

use crate::support::proxy::Fate;
use crate::*;

fn opened(settings: &Settings) -> Queue {
    let identity = Identity {
        node: "node-1".into(),
        nonce: 0xfeed,
        pool: "mail".into(),
        slot: 0,
        generation: 1,
    };
    let mut queue = Queue::new(settings, identity);
    queue.open().expect("it opens");
    queue
}

#[test]
fn a_turn_whose_reply_breaks_at_any_byte_is_found_out() {
    let redis = Redis::start();
    let proxy = Proxy::start(&redis.socket());
    let mut settings = redis.settings(KEY);
    settings.address = proxy.address();
    settings.timeout = Duration::from_secs(5);
    let mut queue = opened(&settings);
    // "*2\r\n:1\r\n*2\r\n$6\r\njob-00\r\n$6\r\njob-01\r\n"
    let length = "*2\r\n:1\r\n*2\r\n".len() + 2 * "$6\r\njob-00\r\n".len();
    let mut settled = 0;
    let fates = (0..length).map(Fate::Cut).chain([Fate::Reset]);
    for (round, fate) in fates.enumerate() {
        let jobs = [2 * round, 2 * round + 1].map(|job| format!("job-{job:02}"));
        let mut push = redis::cmd("RPUSH");
        push.arg(KEY).arg(&jobs).exec(&mut redis.connect()).unwrap();
        proxy.plan("EVALSHA", fate);
        let done = &Settled {
            done: settled,
            ..Settled::default()
        };
        let broken = queue.turn(done, &[2], 0);
        assert!(
            matches!(broken, Err(QueueError::Unavailable(_))),
            "{fate:?}: {broken:?}"
        );
        let reservation = queue.turn(done, &[2], 0).expect("found out");
        let payloads: Vec<&[u8]> = reservation
            .jobs
            .iter()
            .map(|job| &job.payload[..])
            .collect();
        assert_eq!(
            payloads,
            jobs.each_ref().map(|job| job.as_bytes()),
            "{fate:?}"
        );
        settled = 2;
    }
    let done = &Settled {
        done: 2,
        ..Settled::default()
    };
    assert_eq!(queue.leave(done), Ok(0));
}

#[test]
fn connections_reset_or_cut_under_load_lose_and_double_nothing() {
    let redis = Redis::start();
    let proxy = Proxy::start(&redis.socket());
    let rig = rig_behind(&proxy, redis, WORKERS);
    load(&rig, 2000);
    for round in 0..40 {
        let fate = match round % 4 {
            0 => Fate::Reset,
            1 => Fate::HalfAnswered,
            2 => Fate::Dropped,
            _ => Fate::Cut(round),
        };
        proxy.plan("EVALSHA", fate);
        wait_for(LIMIT, "it happens", || proxy.is_done() || rig.left() == 0);
    }
    assert_each_ran_once(&rig, 2000);
    // Two that broke in a row look like an outage, and are over at once.
    let (begun, ended) = told(&rig.stark);
    assert_eq!(begun, ended);
}
