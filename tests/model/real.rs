//! The scripts of the model against the real ones: the same random operations, the same answers, the same keys.

use std::collections::BTreeSet;

use redis::{Value, cmd};
use stark::queue::script::{DUE, GIVEBACK, OPEN, POP, RECLAIM, Script, TURN};

use crate::store::{Answer, Command, Fate, Fault, Job, Key, Reserved, Store, Token};
use crate::support::redis::Redis;

/// splitmix64, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    /// A value that is near the truth, and mostly the truth itself.
    fn about(&mut self, truth: usize) -> usize {
        match self.below(8) {
            0 => truth + 1,
            1 => truth.saturating_sub(1),
            _ => truth,
        }
    }
}

/// waiting, reserved, registry, stats, delayed and dead of a key.
fn names(key: usize) -> [String; 6] {
    let names = [
        "waiting", "reserved", "registry", "stats", "delayed", "dead",
    ];
    names.map(|name| format!("{name}{key}"))
}

/// A job as an element. What it looks like is nothing to the scripts.
fn element(job: &Job) -> String {
    match (job.attempt, job.crashes) {
        (1, 0) => job.name.to_string(),
        (attempt, crashes) => format!("{}/{attempt}/{crashes}", job.name),
    }
}

fn job_of(element: &str) -> Job {
    let mut numbers = element
        .split('/')
        .map(|text| text.parse().expect("a number"));
    let mut next = |usual: u16| numbers.next().unwrap_or(usual);
    Job {
        name: next(0),
        attempt: next(1) as u8,
        crashes: next(0) as u8,
    }
}

/// As the scripts take them. Jobs are due in the order of their names, all of them long ago.
fn fate_words(fates: &[Fate]) -> Vec<String> {
    if fates.is_empty() {
        return vec![];
    }
    let words = fates.iter().flat_map(|fate| match fate {
        Fate::Later(job) => {
            let delay_ms = i64::from(job.name) * 1_000_000 - 1_000_000_000_000;
            [delay_ms.to_string(), element(job)]
        }
        Fate::Dead(job) => ["dead".into(), element(job)],
        Fate::Head(job) => ["head".into(), element(job)],
    });
    let caps = ["1000000".to_string(), "0".to_string()];
    caps.into_iter().chain(words).collect()
}

/// The command as the real scripts take it.
fn call(connection: &mut redis::Connection, command: &Command) -> Value {
    let number = |number: usize| number.to_string();
    let (script, keys, arguments): (&Script, Vec<String>, Vec<String>) = match command {
        Command::Open { key, token } => {
            let [_, reserved, registry, ..] = names(*key);
            (&OPEN, vec![reserved, registry], vec![name(*token)])
        }
        Command::Turn {
            held,
            jobs,
            next,
            divisor,
            failed,
            fates,
            expected,
        } => {
            let mut keys: Vec<String> = (0..expected.len())
                .flat_map(|key| names(key).into_iter().take(2))
                .collect();
            let [_, _, _, stats, delayed, dead] = names(*held);
            keys.extend([delayed, dead, stats]);
            let mut arguments = vec![number(1 + held), number(1 + jobs), name(*next)];
            arguments.extend([*divisor, 1 << 20, *jobs, *failed].map(number));
            for (token, most) in expected {
                arguments.extend([name(*token), number(*most)]);
            }
            arguments.extend(fate_words(fates));
            (&TURN, keys, arguments)
        }
        Command::GiveBack {
            key,
            token,
            jobs,
            count,
        } => {
            let keys = names(*key).into_iter().take(2).collect();
            let arguments = vec![name(*token), number(1 + jobs), number(*count)];
            (&GIVEBACK, keys, arguments)
        }
        Command::Reclaim {
            key,
            token,
            jobs,
            ended,
            failed,
            reclaimed,
            fates,
        } => {
            let is_marked = |fate: &&Fate| matches!(fate, Fate::Head(_));
            let gone = ended + fates.iter().filter(is_marked).count();
            let mut arguments = vec![name(*token)];
            arguments.extend([1 + jobs, 1 + gone, *ended, *failed, *reclaimed].map(number));
            arguments.extend(fate_words(fates));
            let [waiting, reserved, registry, stats, delayed, dead] = names(*key);
            (
                &RECLAIM,
                vec![waiting, reserved, registry, delayed, dead, stats],
                arguments,
            )
        }
        Command::Due { key, jobs } => {
            let [waiting, _, _, _, delayed, dead] = names(*key);
            let arguments = [jobs.len(), 1 << 20, 0].map(number).to_vec();
            (&DUE, vec![waiting, delayed, dead], arguments)
        }
    };
    eval(connection, script, &keys, &arguments)
}

fn eval(
    connection: &mut redis::Connection,
    script: &Script,
    keys: &[String],
    arguments: &[String],
) -> Value {
    let mut eval = cmd("EVAL");
    eval.arg(script.text()).arg(keys.len()).arg(keys);
    eval.arg(arguments).query(connection).expect("it runs")
}

fn name(token: Token) -> String {
    format!("token-{token}")
}

/// What a turn or a pop says it has taken: the key, from 1, and the jobs one by one or in parts.
fn taken(answer: Value) -> Option<(usize, Vec<Job>)> {
    let Value::Array(items) = answer else {
        return None;
    };
    let mut items = items.into_iter();
    let key: usize = redis::from_redis_value(items.next()?).expect("a number");
    let jobs = items.flat_map(|part| match part {
        Value::Array(jobs) => jobs,
        job => vec![job],
    });
    let job = |job: Value| {
        let element: String = redis::from_redis_value(job).expect("a text");
        job_of(&element)
    };
    Some((key - 1, jobs.map(job).collect()))
}

/// What lies in the real store.
fn read(connection: &mut redis::Connection, keys: usize) -> Store {
    Store {
        keys: (0..keys).map(|key| read_key(connection, key)).collect(),
    }
}

fn read_key(connection: &mut redis::Connection, key: usize) -> Key {
    let [waiting, reserved, registry, stats, delayed, dead] = names(key);
    let mut list = |key: &str| -> Vec<String> {
        let mut lrange = cmd("LRANGE");
        lrange.arg(key).arg(0).arg(-1).query(connection).unwrap()
    };
    let job = |text: &String| job_of(text);
    let waiting = list(&waiting).iter().map(job).collect();
    let jobs = list(&reserved);
    let mut total = |field: &str| -> usize {
        let mut hget = cmd("HGET");
        let total: Option<usize> = hget.arg(&stats).arg(field).query(connection).unwrap();
        total.unwrap_or(0)
    };
    let figures = ["processed", "failed", "reclaimed", "retried", "buried"];
    let [processed, failed, reclaimed, retried, buried] = figures.map(&mut total);
    let mut set = |key: &str| -> BTreeSet<Job> {
        let all: Vec<String> = cmd("ZRANGE")
            .arg(key)
            .arg(0)
            .arg(-1)
            .query(connection)
            .unwrap();
        all.iter().map(job).collect()
    };
    let (delayed, dead) = (set(&delayed), set(&dead));
    let mut sismember = cmd("SISMEMBER");
    sismember.arg(registry).arg(reserved);
    Key {
        waiting,
        reserved: jobs.split_first().map(|(token, jobs)| Reserved {
            token: token.strip_prefix("token-").unwrap().parse().unwrap(),
            jobs: jobs.iter().map(job).collect(),
        }),
        registered: sismember.query(connection).unwrap(),
        delayed,
        dead,
        processed,
        failed,
        reclaimed,
        retried,
        buried,
    }
}

/// A command that makes sense in this store, or just fails to.
fn random_command(random: &mut Random, store: &Store, last: &mut Token) -> Command {
    // Mostly the key that holds jobs, as a worker would.
    let holding = store
        .keys
        .iter()
        .position(|key| !key.reserved_jobs().is_empty());
    let key = match holding {
        Some(key) if random.below(8) > 0 => key,
        _ => random.below(store.keys.len()),
    };
    let mut token_of = |key: &Key| match key.token() {
        Some(token) if random.below(12) > 0 => token,
        _ => random.below(usize::from(*last) + 1) as Token,
    };
    let tokens: Vec<Token> = store.keys.iter().map(&mut token_of).collect();
    let token = tokens[key];
    let jobs = random.about(store.keys[key].reserved_jobs().len());
    let ended = random.below(jobs + 1);
    *last += 1;
    let held = store.keys[key].reserved_jobs();
    match random.below(14) {
        0..4 => {
            let closed = store.keys.iter().position(|key| key.reserved.is_none());
            Command::Open {
                key: closed.unwrap_or(key),
                token: *last,
            }
        }
        4 => Command::Reclaim {
            key,
            token,
            jobs,
            ended,
            failed: random.below(ended + 1),
            reclaimed: jobs - ended,
            fates: {
                let mut fates = random_fates(random, &held[..ended.min(held.len())]);
                let in_hand = held.get(ended);
                let marked = in_hand.filter(|_| random.below(2) > 0).map(|job| Job {
                    crashes: job.crashes + 1,
                    ..*job
                });
                fates.extend(marked.map(Fate::Head));
                fates
            },
        },
        5 | 6 => Command::GiveBack {
            key,
            token,
            jobs,
            count: random.below(jobs + 1),
        },
        7 | 8 => Command::Due {
            key,
            jobs: {
                let most = 1 + random.below(9);
                store.keys[key].delayed.iter().take(most).copied().collect()
            },
        },
        _ => Command::Turn {
            held: key,
            jobs,
            next: *last,
            divisor: random.below(4),
            failed: random.below(jobs + 1),
            fates: random_fates(random, held),
            expected: tokens
                .iter()
                .map(|token| (*token, 1 + random.below(70)))
                .collect(),
        },
    }
}

/// A job that nobody has run.
fn push(connection: &mut redis::Connection, store: &mut Store, key: usize, name: u16) {
    let job = Job {
        name,
        attempt: 1,
        crashes: 0,
    };
    store.keys[key].waiting.push(job);
    let mut rpush = cmd("RPUSH");
    rpush.arg(&names(key)[0]).arg(element(&job));
    let _: usize = rpush.query(connection).unwrap();
}

/// Some of these jobs were not done.
fn random_fates(random: &mut Random, jobs: &[Job]) -> Vec<Fate> {
    let fate = |job: &Job| match random.below(4) {
        0 => Some(Fate::Later(Job {
            attempt: job.attempt + 1,
            ..*job
        })),
        1 if random.below(4) == 0 => Some(Fate::Dead(*job)),
        _ => None,
    };
    jobs.iter().filter_map(fate).collect()
}

fn compare(keys: usize, seed: u64, operations: usize) {
    let redis = Redis::start();
    let mut connection = redis.connect();
    let (mut random, mut store) = (Random(seed), Store::new(keys));
    let (mut last, mut pushed, mut successes, mut others) = (0, 0, 0, 0);
    for operation in 0..operations {
        let most = if random.below(50) == 0 { 200 } else { 4 };
        for _ in 0..random.below(most) {
            pushed += 1;
            push(&mut connection, &mut store, random.below(keys), pushed);
        }
        let command = random_command(&mut random, &store, &mut last);
        let expected = store.run(&command, Fault::None);
        successes += usize::from(expected.is_some());
        let answer = call(&mut connection, &command);
        let context = format!("keys {keys}, seed {seed}, operation {operation}: {command:?}");
        match (&command, expected) {
            (Command::Open { .. }, expected) => {
                assert_eq!(answer, Value::Int(expected.is_some().into()), "{context}");
            }
            (_, None) => assert_eq!(answer, Value::Nil, "{context}"),
            (Command::Turn { held, .. }, Some(Answer::Taken(key, jobs))) => {
                others += usize::from(key != *held);
                assert_eq!(taken(answer), Some((key, jobs)), "{context}");
            }
            (Command::GiveBack { count, .. }, Some(_)) => {
                assert_eq!(answer, Value::Int(*count as i64), "{context}");
            }
            (Command::Due { jobs, .. }, Some(_)) => {
                let [moved, _]: [i64; 2] = redis::from_redis_value(answer).expect("two numbers");
                assert_eq!(moved, jobs.len() as i64, "{context}");
            }
            (Command::Reclaim { jobs, ended, .. }, Some(_)) => {
                assert_eq!(answer, Value::Int((jobs - ended) as i64), "{context}");
            }
            (_, Some(answer)) => unreachable!("{answer:?} of {context}"),
        }
        assert_eq!(read(&mut connection, keys), store, "{context}");
    }
    assert!(
        successes > operations / 4,
        "{successes} of {operations} did something"
    );
    let sum = |figure: fn(&Key) -> usize| store.keys.iter().map(figure).sum::<usize>();
    let (retried, buried) = (sum(|key| key.retried), sum(|key| key.buried));
    assert!(
        retried > operations / 4 && buried > operations / 20,
        "{retried} retried, {buried} buried in {operations}"
    );
    assert!(
        keys == 1 || others > operations / 50,
        "{others} of {operations} went to another key"
    );
}

#[test]
fn the_scripts_of_the_model_do_what_the_real_ones_do() {
    for (keys, seed) in [(1, 0), (1, 1), (2, 2), (3, 3)] {
        compare(keys, seed, 1000);
    }
}

#[test]
fn a_pop_takes_the_first_job_of_the_first_key_that_has_one() {
    let redis = Redis::start();
    let mut connection = redis.connect();
    let (mut random, mut store, mut pushed) = (Random(5), Store::new(3), 0);
    for _ in 0..300 {
        for _ in 0..random.below(3) {
            pushed += 1;
            push(&mut connection, &mut store, random.below(3), pushed);
        }
        let before = random.below(3);
        let failed = random.below(2);
        store.keys[before].processed += 1;
        store.keys[before].failed += failed;
        let keys = [0, 1, 2].map(|key| names(key)[0].clone());
        let keys = [&keys[..], &[names(before)[3].clone()]].concat();
        let answer = eval(
            &mut connection,
            &POP,
            &keys,
            &["1".to_string(), failed.to_string()],
        );
        let first = store.keys.iter().position(|key| !key.waiting.is_empty());
        let expected = first.map(|key| (key, vec![store.keys[key].waiting.remove(0)]));
        assert_eq!(taken(answer), expected);
        assert_eq!(read(&mut connection, 3), store);
    }
}
