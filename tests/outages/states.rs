//! The server answers, but says that it cannot now. Each is an outage of two lines, and no job is lost or runs twice:
//! nobody died. UNBLOCKED, which a server says to those who wait in a command when its role changes, does not arise:
//! nothing of ours waits in the server.

use std::fs;

use crate::support::redis::run;
use crate::*;

const JOBS: usize = 1500;

/// Under load, from `begin` to `end`, which get a connection that was there before.
fn outage(
    options: &[&str],
    word: &str,
    begin: impl FnOnce(&Rig, &mut redis::Connection),
    end: impl FnOnce(&Rig, &mut redis::Connection),
) {
    let rig = rig(Redis::start_with(options));
    let mut connection = rig.redis.connect();
    load(&rig, JOBS);
    begin(&rig, &mut connection);
    wait_until_away(&rig, WORKERS);
    let line = rig.stark.wait_for_log("redis unavailable addr=");
    assert!(line.contains(" WARN ") && line.contains(word), "{line}");
    end(&rig, &mut connection);
    assert_each_ran_once(&rig, JOBS);
    assert_told(&rig.stark, 1);
    assert_eq!(rig.stark.log_lines(" ERROR "), Vec::<String>::new());
}

#[test]
fn a_server_that_became_a_replica_and_a_master_again() {
    outage(
        &[],
        "READONLY",
        |_, server| run(server, &["REPLICAOF", "127.0.0.1", "1"]),
        |_, server| run(server, &["REPLICAOF", "NO", "ONE"]),
    );
}

#[test]
fn a_replica_without_its_master() {
    outage(
        &["--replica-serve-stale-data", "no"],
        "MASTERDOWN",
        |_, server| run(server, &["REPLICAOF", "127.0.0.1", "1"]),
        |_, server| run(server, &["REPLICAOF", "NO", "ONE"]),
    );
}

#[test]
fn a_script_that_runs_for_too_long() {
    outage(
        &["--lua-time-limit", "20"],
        "BUSY",
        |rig, _| {
            let mut other = rig.redis.connect();
            std::thread::spawn(move || {
                let mut endless = redis::cmd("EVAL");
                let _ = endless.arg("while true do end").arg(0).exec(&mut other);
            });
        },
        |_, server| {
            run(server, &["SCRIPT", "KILL"]);
            wait_for(LIMIT, "it is dead", || {
                redis::cmd("PING").exec(server).is_ok()
            });
        },
    );
}

#[test]
fn a_server_full_of_clients() {
    outage(
        &[],
        // It says so and hangs up: who is not quick enough hears no more than that.
        "err=",
        |_, server| {
            run(server, &["CONFIG", "SET", "maxclients", "1"]);
            let all = ["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"];
            run(server, &all);
        },
        |_, server| run(server, &["CONFIG", "SET", "maxclients", "1000"]),
    );
}

#[test]
fn a_server_that_cannot_write_its_snapshots() {
    let save = |server: &mut redis::Connection, status: &str| {
        wait_for(LIMIT, "a snapshot", || {
            let _ = redis::cmd("BGSAVE").exec(server);
            let info: String = redis::cmd("INFO").arg("persistence").query(server).unwrap();
            info.contains(&format!("rdb_last_bgsave_status:{status}"))
        });
    };
    // A directory in the file's place: not even root can write it.
    let obstacle = |rig: &Rig| rig.redis.socket().with_file_name("dump.rdb");
    outage(
        &["--save", "3600 100000"],
        "MISCONF",
        |rig, server| {
            fs::create_dir_all(obstacle(rig).join("in the way")).expect("a directory");
            save(server, "err");
        },
        |rig, server| {
            fs::remove_dir_all(obstacle(rig)).expect("ours");
            save(server, "ok");
        },
    );
}

#[test]
fn a_server_that_loads_its_data_for_long() {
    let slowly = ["--key-load-delay", "20000"];
    let often = ["--loading-process-events-interval-bytes", "1024"];
    let mut rig = rig(Redis::start_with(
        &[&["--appendonly", "no"], &slowly[..], &often[..]].concat(),
    ));
    let mut connection = rig.redis.connect();
    for number in 0..100 {
        let name = format!("other:{number}");
        run(&mut connection, &["SET", &name, &"x".repeat(4000)]);
    }
    run(&mut connection, &["SAVE"]);
    rig.redis.restart();
    let line = rig.stark.wait_for_log("redis unavailable addr=");
    assert!(line.contains("cannot "), "{line}");
    assert_told(&rig.stark, 1);
    // 100 keys of 20 ms.
    let down = down_ms(&rig.stark);
    assert!((1500..30_000).contains(&down), "down_ms={down}");
    rig.push_numbers(0..100);
    rig.drain(100);
    assert_eq!(rig.runs().len(), 100);
}

#[test]
fn what_a_proxy_says_in_a_servers_place() {
    for answer in [
        "-LOADING Redis is loading the dataset in memory\r\n",
        "-CLUSTERDOWN The cluster is down\r\n",
        "-TRYAGAIN not now\r\n",
        "-NOREPLICAS Not enough good replicas to write.\r\n",
    ] {
        let redis = Redis::start();
        let proxy = Proxy::start(&redis.socket());
        let rig = rig_behind(&proxy, redis, WORKERS);
        load(&rig, 800);
        proxy.answer("", answer);
        wait_until_away(&rig, WORKERS);
        let line = rig.stark.wait_for_log("redis unavailable addr=");
        let code = answer[1..].split(' ').next().unwrap();
        assert!(line.contains(code), "{line}");
        proxy.answer_no_more();
        assert_each_ran_once(&rig, 800);
        assert_told(&rig.stark, 1);
    }
}

#[test]
fn a_server_that_cannot_yet_at_the_start_is_waited_for() {
    for answer in [
        "-LOADING Redis is loading the dataset in memory\r\n",
        "-ERR max number of clients reached\r\n",
    ] {
        let redis = Redis::start();
        let proxy = Proxy::start(&redis.socket());
        proxy.answer("", answer);
        let stark = Stark::prepare(&ini(&through(&proxy), 2, ""), "");
        let ended = stark.cli(&[]);
        assert_eq!(ended.status, 0, "{ended:?}");
        assert!(
            ended.stderr.contains("the workers wait for it"),
            "{ended:?}"
        );
        wait_until_told(&stark, 1);
        proxy.answer_no_more();
        let rig = Rig { redis, stark };
        rig.push_numbers(0..100);
        assert_each_ran_once(&rig, 100);
        assert_told(&rig.stark, 1);
    }
}

fn fill(server: &mut redis::Connection) {
    run(server, &["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    run(server, &["CONFIG", "SET", "maxmemory", "1000"]);
}

#[test]
fn a_full_server_is_drained_by_all_keys_and_says_so_to_producers() {
    for more in [
        "key = high low\n",
        "key = high low\ndelivery = at-most-once\n",
    ] {
        let redis = Redis::start();
        let server = support::stark::queue(&redis, KEY).replace(&format!("key = {KEY}\n"), "");
        let stark = Stark::start(&ini(&server, 2, more), "");
        let mut rig = Rig { redis, stark };
        let mut connection = rig.redis.connect();
        let mut gate = rig.gate("gate");
        // Reserved behind the long job, and given back to a full server.
        let mut jobs = vec![rig.job_at(0, &gate), rig.job_at(1, &gate)];
        jobs.extend((2..600).map(|number| rig.job(number)));
        for (key, jobs) in [("high", &jobs[..300]), ("low", &jobs[300..])] {
            let mut push = redis::cmd("RPUSH");
            push.arg(key).arg(jobs).exec(&mut connection).unwrap();
        }
        rig.wait_for_run(0, 1);
        fill(&mut connection);
        // Nobody counts for INFO that does not ask.
        assert_eq!(
            rig.stark.info()["queue0"].split(',').next(),
            Some("key=high")
        );
        let ended = rig.stark.cli(&["push", "job"]);
        assert_eq!(ended.status, 1, "{ended:?}");
        assert!(ended.stderr.contains("OOM"), "{ended:?}");
        gate.open();
        wait_for_value(LIMIT, "runs", 600, || rig.runs().len());
        assert_eq!(support::ledger::repeated(&rig.runs()), Vec::<usize>::new());
        rig.stark.stop();
        assert_eq!(told(&rig.stark), (0, 0), "a full server is no outage");
        rig.redis.stop();
    }
}
