//! The scripts of the model against the real ones: the same random operations, the same answers, the same keys.

use redis::{Value, cmd};
use stark::queue::script::{OPEN, RECLAIM, Script, TURN};

use crate::store::{Command, Fault, Job, Reserved, Store, Token};
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

const KEYS: [&str; 4] = ["waiting", "reserved", "registry", "stats"];

/// The command as the real scripts take it.
fn call(connection: &mut redis::Connection, command: &Command) -> Value {
    let [waiting, reserved, registry, stats] = KEYS;
    let number = |number: usize| number.to_string();
    let (script, keys, arguments): (&Script, Vec<&str>, Vec<String>) = match *command {
        Command::Open { token } => (&OPEN, vec![reserved, registry], vec![name(token)]),
        Command::Turn {
            token,
            jobs,
            next,
            most,
            divisor,
            failed,
        } => {
            let mut arguments = vec![number(1), number(1 + jobs), name(next)];
            arguments.extend([divisor, 1 << 20, jobs, failed].map(number));
            arguments.extend([name(token), number(most)]);
            (&TURN, vec![waiting, reserved, stats], arguments)
        }
        Command::Reclaim {
            token,
            jobs,
            ended,
            failed,
            reclaimed,
        } => {
            let mut arguments = vec![name(token)];
            arguments.extend([1 + jobs, 1 + ended, ended, failed, reclaimed].map(number));
            (&RECLAIM, KEYS.to_vec(), arguments)
        }
    };
    let mut eval = cmd("EVAL");
    eval.arg(script.text()).arg(keys.len()).arg(keys);
    eval.arg(arguments).query(connection).expect("it runs")
}

fn name(token: Token) -> String {
    format!("token-{token}")
}

/// What a turn says it has taken: the key, from 1, and the jobs in parts.
fn jobs_of(answer: Value) -> (usize, Vec<Job>) {
    let Value::Array(items) = answer else {
        panic!("{answer:?}")
    };
    let mut items = items.into_iter();
    let key = redis::from_redis_value(items.next().expect("a key")).expect("a number");
    let parts = items.flat_map(|part| redis::from_redis_value::<Vec<Job>>(part).expect("jobs"));
    (key, parts.collect())
}

/// What lies in the real store.
fn read(connection: &mut redis::Connection) -> Store {
    let mut list = |key: &str| -> Vec<String> {
        let mut lrange = cmd("LRANGE");
        lrange.arg(key).arg(0).arg(-1).query(connection).unwrap()
    };
    let job = |text: &String| text.parse::<Job>().expect("a job");
    let waiting = list(KEYS[0]).iter().map(job).collect();
    let reserved = list(KEYS[1]);
    let reserved = reserved.split_first().map(|(token, jobs)| Reserved {
        token: token.strip_prefix("token-").unwrap().parse().unwrap(),
        jobs: jobs.iter().map(job).collect(),
    });
    let mut total = |field: &str| -> usize {
        let mut hget = cmd("HGET");
        let total: Option<usize> = hget.arg(KEYS[3]).arg(field).query(connection).unwrap();
        total.unwrap_or(0)
    };
    let [processed, failed, reclaimed] = ["processed", "failed", "reclaimed"].map(&mut total);
    let mut sismember = cmd("SISMEMBER");
    let registered = sismember
        .arg(KEYS[2])
        .arg(KEYS[1])
        .query(connection)
        .unwrap();
    Store {
        waiting,
        reserved,
        registered,
        processed,
        failed,
        reclaimed,
    }
}

/// A command that makes sense in this store, or just fails to.
fn random_command(random: &mut Random, store: &Store, last: &mut Token) -> Command {
    let token = match store.token() {
        Some(token) if random.below(8) > 0 => token,
        _ => random.below(usize::from(*last) + 1) as Token,
    };
    let held = store.reserved_jobs().len();
    let jobs = random.about(held);
    let ended = random.below(jobs + 1);
    *last += 1;
    match random.below(10) {
        0 | 1 => Command::Open { token: *last },
        2 => Command::Reclaim {
            token,
            jobs,
            ended,
            failed: random.below(ended + 1),
            reclaimed: jobs - ended,
        },
        _ => Command::Turn {
            token,
            jobs,
            next: *last,
            most: 1 + random.below(5),
            divisor: random.below(4),
            failed: random.below(jobs + 1),
        },
    }
}

fn compare(seed: u64, operations: usize) {
    let redis = Redis::start();
    let mut connection = redis.connect();
    let (mut random, mut store) = (Random(seed), Store::default());
    let (mut last, mut pushed, mut taken) = (0, 0, 0);
    for operation in 0..operations {
        for _ in 0..random.below(4) {
            pushed += 1;
            store.waiting.push(pushed);
            let mut rpush = cmd("RPUSH");
            let _: usize = rpush
                .arg(KEYS[0])
                .arg(pushed)
                .query(&mut connection)
                .unwrap();
        }
        let command = random_command(&mut random, &store, &mut last);
        let expected = store.run(&command, Fault::None);
        taken += usize::from(expected.is_some());
        let answer = call(&mut connection, &command);
        let context = format!("seed {seed}, operation {operation}: {command:?}");
        match (&command, expected) {
            (Command::Open { .. }, expected) => {
                assert_eq!(answer, Value::Int(expected.is_some().into()), "{context}");
            }
            (_, None) => assert_eq!(answer, Value::Nil, "{context}"),
            (Command::Turn { .. }, Some(jobs)) => {
                assert_eq!(jobs_of(answer), (1, jobs), "{context}");
            }
            (Command::Reclaim { jobs, ended, .. }, Some(_)) => {
                assert_eq!(answer, Value::Int((jobs - ended) as i64), "{context}");
            }
        }
        assert_eq!(read(&mut connection), store, "{context}");
    }
    assert!(
        taken > operations / 3,
        "{taken} of {operations} did something"
    );
}

#[test]
fn the_scripts_of_the_model_do_what_the_real_ones_do() {
    for seed in 0..3 {
        compare(seed, 1500);
    }
}
