//! The scripts of the model against the real ones: the same random operations, the same answers, the same keys.

use redis::{Value, cmd};
use stark::queue::script::{GIVEBACK, OPEN, POP, RECLAIM, Script, TURN};

use crate::store::{Answer, Command, Fault, Job, Key, Reserved, Store, Token};
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

/// waiting, reserved, registry and stats of a key.
fn names(key: usize) -> [String; 4] {
    ["waiting", "reserved", "registry", "stats"].map(|name| format!("{name}{key}"))
}

/// The command as the real scripts take it.
fn call(connection: &mut redis::Connection, command: &Command) -> Value {
    let number = |number: usize| number.to_string();
    let (script, keys, arguments): (&Script, Vec<String>, Vec<String>) = match command {
        Command::Open { key, token } => {
            let [_, reserved, registry, _] = names(*key);
            (&OPEN, vec![reserved, registry], vec![name(*token)])
        }
        Command::Turn {
            held,
            jobs,
            next,
            divisor,
            failed,
            expected,
        } => {
            let mut keys: Vec<String> = (0..expected.len())
                .flat_map(|key| names(key).into_iter().take(2))
                .collect();
            keys.extend(["delayed", "dead", "stats"].map(|name| format!("{name}{held}")));
            let mut arguments = vec![number(1 + held), number(1 + jobs), name(*next)];
            arguments.extend([*divisor, 1 << 20, *jobs, *failed].map(number));
            for (token, most) in expected {
                arguments.extend([name(*token), number(*most)]);
            }
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
        } => {
            let mut arguments = vec![name(*token)];
            arguments.extend([1 + jobs, 1 + ended, *ended, *failed, *reclaimed].map(number));
            let [waiting, reserved, registry, stats] = names(*key);
            let [delayed, dead] = ["delayed", "dead"].map(|name| format!("{name}{key}"));
            (
                &RECLAIM,
                vec![waiting, reserved, registry, delayed, dead, stats],
                arguments,
            )
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
    let job = |job: Value| redis::from_redis_value(job).expect("a job");
    Some((key - 1, jobs.map(job).collect()))
}

/// What lies in the real store.
fn read(connection: &mut redis::Connection, keys: usize) -> Store {
    Store {
        keys: (0..keys).map(|key| read_key(connection, key)).collect(),
    }
}

fn read_key(connection: &mut redis::Connection, key: usize) -> Key {
    let [waiting, reserved, registry, stats] = names(key);
    let mut list = |key: &str| -> Vec<String> {
        let mut lrange = cmd("LRANGE");
        lrange.arg(key).arg(0).arg(-1).query(connection).unwrap()
    };
    let job = |text: &String| text.parse::<Job>().expect("a job");
    let waiting = list(&waiting).iter().map(job).collect();
    let jobs = list(&reserved);
    let mut total = |field: &str| -> usize {
        let mut hget = cmd("HGET");
        let total: Option<usize> = hget.arg(&stats).arg(field).query(connection).unwrap();
        total.unwrap_or(0)
    };
    let [processed, failed, reclaimed] = ["processed", "failed", "reclaimed"].map(&mut total);
    let mut sismember = cmd("SISMEMBER");
    sismember.arg(registry).arg(reserved);
    Key {
        waiting,
        reserved: jobs.split_first().map(|(token, jobs)| Reserved {
            token: token.strip_prefix("token-").unwrap().parse().unwrap(),
            jobs: jobs.iter().map(job).collect(),
        }),
        registered: sismember.query(connection).unwrap(),
        processed,
        failed,
        reclaimed,
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
    match random.below(12) {
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
        },
        5 | 6 => Command::GiveBack {
            key,
            token,
            jobs,
            count: random.below(jobs + 1),
        },
        _ => Command::Turn {
            held: key,
            jobs,
            next: *last,
            divisor: random.below(4),
            failed: random.below(jobs + 1),
            expected: tokens
                .iter()
                .map(|token| (*token, 1 + random.below(70)))
                .collect(),
        },
    }
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
            let key = random.below(keys);
            store.keys[key].waiting.push(pushed);
            let mut rpush = cmd("RPUSH");
            rpush.arg(&names(key)[0]).arg(pushed);
            let _: usize = rpush.query(&mut connection).unwrap();
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
            let key = random.below(3);
            store.keys[key].waiting.push(pushed);
            let mut rpush = cmd("RPUSH");
            rpush.arg(&names(key)[0]).arg(pushed);
            let _: usize = rpush.query(&mut connection).unwrap();
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
