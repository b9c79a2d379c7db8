//! Named pools in a running daemon: each has its own program, count, limits, environment and queue or none, and what
//! happens to one pool is nothing to the others.

mod support;

use std::collections::BTreeMap;

use nix::sys::signal::Signal;
use redis::Commands;

use support::redis::Redis;
use support::stark::{LIMIT, Stark, is_alive, kill, queue, wait_for, wait_for_value};

/// Notes each job, in what it was given to run in.
const JOBS: &str = r#"<?php
function run($worker, $data) {
    $in = [getenv('WHO'), getenv('COMMON'), ini_get('memory_limit'), getenv('LOOPS')];
    file_put_contents('jobs', "$data " . json_encode($in) . "\n", FILE_APPEND);
}
"#;

/// Called again and again; notes its first call.
const LOOP: &str = r#"<?php
function init($worker) { touch('loops'); }
function run($worker, $data) {
    static $calls = 0;
    $in = [getenv('WHO'), getenv('COMMON'), ini_get('memory_limit'), getenv('LOOPS'), $data];
    if (!$calls++) file_put_contents('loops', json_encode($in) . "\n", FILE_APPEND);
    return false;
}
"#;

/// A default pool with the queue, and two pools without: a script's and a builtin's.
fn three_pools(redis: &Redis) -> Stark {
    let ini = format!(
        "[run]\nscript_file = run.php\nmemory_limit = 128M\n[worker]\njitter = 0%\n{}\
         [env]\nWHO = default\nCOMMON = yes\n\
         [run loop]\nscript_file = loop.php\nmemory_limit = 64M\n\
         [worker loop]\ncount = 2\nmax_run_count = 5\nempty_sleep_seconds = 0.01\n\
         [queue loop]\ntype = none\n[env loop]\nWHO = loop\nLOOPS = 1\n\
         [run tick]\nbuiltin = null\n[worker tick]\naffinity = none\n[queue tick]\ntype = none\n",
        queue(redis, "jobs")
    );
    let stark = Stark::prepare(&ini, JOBS);
    stark.write("loop.php", LOOP);
    stark.start_again();
    stark
}

/// The workers' lines of `INFO` in their order.
fn workers(stark: &Stark) -> Vec<BTreeMap<String, String>> {
    let count = stark.figure("worker_max") as usize;
    (0..count).map(|number| stark.worker(number)).collect()
}

fn pools_of(workers: &[BTreeMap<String, String>]) -> Vec<&str> {
    workers
        .iter()
        .map(|worker| worker["pool"].as_str())
        .collect()
}

#[test]
fn each_pool_runs_its_own_program_in_its_own_settings() {
    let redis = Redis::start();
    let stark = three_pools(&redis);
    let first = workers(&stark);
    assert_eq!(pools_of(&first), ["t", "loop", "loop", "tick"]);
    assert_eq!(stark.figure("worker_alive"), 4);

    assert_eq!(stark.cli(&["push", "a"]).status, 0);
    wait_for(LIMIT, "the job runs", || !stark.read("jobs").is_empty());
    assert_eq!(
        stark.read("jobs"),
        "a [\"default\",\"yes\",\"134217728\",false]\n"
    );

    // Only the pool with the limit is recycled.
    for number in [1, 2] {
        wait_for(LIMIT, "the third generation", || {
            stark.worker(number)["generation"].parse::<u64>().unwrap() >= 3
        });
    }
    let notes = stark.read("loops");
    assert!(notes.lines().count() >= 4, "{notes}");
    for note in notes.lines() {
        assert_eq!(note, r#"["loop","yes","67108864","1",null]"#);
    }
    let now = workers(&stark);
    for number in [0, 3] {
        for field in ["pool", "pid", "generation"] {
            assert_eq!(now[number][field], first[number][field], "worker{number}");
        }
    }
    stark.stop();
}

#[test]
fn workers_are_numbered_on_across_pools_and_so_are_their_cores() {
    let redis = Redis::start();
    let stark = three_pools(&redis);
    let workers = workers(&stark);
    let cores: Vec<&str> = workers
        .iter()
        .map(|worker| worker["core"].as_str())
        .collect();
    let usable = core_affinity::get_core_ids().map_or(0, |cores| cores.len());
    for number in 0..2 {
        // Round robin: the next worker has the next core, whatever its pool.
        assert_eq!(cores[number] == cores[number + 1], usable == 1, "{cores:?}");
    }
    assert_eq!(cores[3], "-1");
    // The logger may write these a moment after the start has returned.
    for pool in ["t", "loop", "tick"] {
        stark.wait_for_log(&format!("worker ready pool={pool} "));
    }
    stark.stop();
}

#[test]
fn a_killed_worker_is_replaced_in_its_pool_and_the_others_go_on() {
    let redis = Redis::start();
    let ini = format!(
        "[run]\nscript_file = run.php\n{}[worker]\ncount = 2\n\
         [run idle]\nbuiltin = null\n[worker idle]\ncount = 1\n[queue idle]\ntype = none\n",
        queue(&redis, "jobs")
    );
    let script = "<?php function run($w, $data) {\
                  file_put_contents('jobs', \"$data\\n\", FILE_APPEND);\
                  if ($data == 'long' && !file_exists('go')) { touch('in-hand'); sleep(60); } }";
    let stark = Stark::start(&ini, script);
    let before = workers(&stark);
    assert_eq!(stark.cli(&["push", "long"]).status, 0);
    wait_for(LIMIT, "the job begins", || stark.path("in-hand").exists());
    stark.write("go", "");
    let busy = workers(&stark)
        .iter()
        .position(|worker| worker["state"] == "busy" && worker["pool"] == "t");
    let busy = busy.expect("one has the job in hand");
    let pid: i32 = before[busy]["pid"].parse().unwrap();
    kill(pid, Signal::SIGKILL);
    wait_for_value(LIMIT, "runs of the job", "long\nlong\n".to_owned(), || {
        stark.read("jobs")
    });
    wait_for(LIMIT, "all live", || stark.figure("worker_alive") == 3);
    let after = workers(&stark);
    assert_eq!(pools_of(&after), ["t", "t", "idle"]);
    for (number, (before, after)) in before.iter().zip(&after).enumerate() {
        let is_same = before["pid"] == after["pid"];
        assert_eq!(is_same, number != busy, "worker{number}");
    }
    assert!(!is_alive(pid));
    stark.stop();
}

#[test]
fn a_daemon_may_have_named_pools_alone_and_variables_and_arguments_reach_them() {
    let redis = Redis::start();
    let ini = format!(
        "[worker]\ncount = 3\n[run low-mail]\nscript_file = run.php\n{}[worker low-mail]\ncount = 1\n",
        queue(&redis, "mails").replace("[queue]", "[queue low-mail]")
    );
    let stark = Stark::prepare(&ini, JOBS);
    let mut command = stark.program();
    command
        .env("STARK_WORKER_LOW_MAIL__COUNT", "2")
        .env("STARK_ENV_LOW_MAIL__WHO", "variable")
        .args(["--set", "env low-mail.COMMON=argument"]);
    let ended = support::stark::run(command, b"");
    assert_eq!(ended.status, 0, "{ended:?}");
    assert_eq!(pools_of(&workers(&stark)), ["low-mail", "low-mail"]);
    assert_eq!(stark.cli(&["push", "a"]).stdout, "1 pushed\n");
    wait_for(LIMIT, "the job runs", || !stark.read("jobs").is_empty());
    assert_eq!(
        stark.read("jobs"),
        "a [\"variable\",\"argument\",\"1073741824\",false]\n"
    );
    stark.stop();
}

#[test]
fn a_pool_whose_script_cannot_load_refuses_the_start_by_its_name() {
    let ini = "[run]\nbuiltin = null\n[run mail]\nscript_file = run.php\n";
    let stark = Stark::prepare(ini, "<?php throw new Exception('no template');");
    let ended = stark.start_refused();
    assert_eq!(ended.status, 69, "{ended:?}");
    assert!(ended.stderr.contains("pool=mail slot=0"), "{ended:?}");
    assert!(ended.stderr.contains("no template"), "{ended:?}");
    stark.assert_nothing_left();
}

#[test]
fn a_check_looks_at_the_script_of_every_pool() {
    let ini = "[run]\nbuiltin = null\n[run mail]\nscript_file = run.php\n[run sms]\nscript_file = sms.php\n";
    let stark = Stark::prepare(ini, "<?php function (");
    stark.write("sms.php", "<?php }");
    let ended = stark.cli(&["--check"]);
    assert_eq!(ended.status, 69, "{ended:?}");
    for script in ["run.php", "sms.php"] {
        assert!(ended.stderr.contains(script), "{script}: {ended:?}");
    }
}

#[test]
fn printed_settings_start_the_same_pools() {
    let ini = "[run]\nbuiltin = null\n[worker]\ncount = 2\n[run b.c]\nscript_file = run.php\n\
               [env b.c]\nWHO = \"b c\"\n[run a]\nbuiltin = null\n[worker a]\ncount = 1\n";
    let stark = Stark::prepare(ini, LOOP);
    let printed = stark.cli(&["--print-config"]).stdout;
    stark.write("t.ini", &printed);
    assert_eq!(stark.cli(&["--print-config"]).stdout, printed);
    stark.start_again();
    assert_eq!(pools_of(&workers(&stark)), ["t", "t", "b.c", "b.c", "a"]);
    stark.stop();
}
/// Two pools, each with a script and a list of its own, on servers of their own.
fn two_queues(mine: &Redis, other: &Redis) -> Stark {
    let note = |file: &str| {
        format!(
            "<?php function run($w, $data) {{ file_put_contents('{file}', \"$data\\n\", FILE_APPEND); }}"
        )
    };
    let ini = format!(
        "[run]\nscript_file = run.php\n[worker]\ncount = 2\n{}[run mail]\nscript_file = mail.php\n\
         [worker mail]\ncount = 1\n{}",
        queue(mine, "jobs"),
        queue(other, "mails").replace("[queue]", "[queue mail]")
    );
    let stark = Stark::prepare(&ini, &note("jobs"));
    stark.write("mail.php", &note("mails"));
    stark.start_again();
    stark
}

fn push_to(redis: &Redis, key: &str, payload: &str) {
    let mut command = redis::cmd("RPUSH");
    command.arg(key).arg(payload);
    command.exec(&mut redis.connect()).expect("redis takes it");
}

#[track_caller]
fn wait_for_notes(stark: &Stark, file: &str, notes: &str) {
    wait_for_value(LIMIT, file, notes.to_owned(), || stark.read(file));
}

#[test]
fn an_idle_pool_wakes_for_its_own_queue_and_takes_from_no_other() {
    let (mine, other) = (Redis::start(), Redis::start());
    let stark = two_queues(&mine, &other);
    wait_for(LIMIT, "all are idle", || {
        workers(&stark)
            .iter()
            .all(|worker| worker["state"] == "idle")
    });
    // The second pool first: nothing but its own keeper's ring wakes it.
    push_to(&other, "mails", "m1");
    wait_for_notes(&stark, "mails", "m1\n");
    push_to(&mine, "jobs", "j1");
    wait_for_notes(&stark, "jobs", "j1\n");
    // A list of the same name on the other pool's server is nobody's.
    push_to(&other, "jobs", "j2");
    push_to(&other, "mails", "m2");
    wait_for_notes(&stark, "mails", "m1\nm2\n");
    assert_eq!(stark.read("jobs"), "j1\n");

    let info = stark.info();
    assert!(info["queue0"].starts_with("key=jobs,"), "{info:?}");
    assert!(info["queue1"].starts_with("key=mails,"), "{info:?}");
    stark.stop();
}

#[test]
fn an_outage_of_one_pools_server_is_nothing_to_the_other_pool() {
    let (mine, mut other) = (Redis::start(), Redis::start());
    let stark = two_queues(&mine, &other);
    other.stop();
    stark.wait_for_log("redis unavailable");
    push_to(&mine, "jobs", "j1");
    wait_for_notes(&stark, "jobs", "j1\n");
    other.restart();
    push_to(&other, "mails", "m1");
    wait_for_notes(&stark, "mails", "m1\n");
    stark.stop();
}

#[test]
fn what_killed_workers_of_any_pool_held_is_back_in_its_own_list_after_a_stop() {
    let (mine, other) = (Redis::start(), Redis::start());
    let hang = "<?php function run($w, $data) { touch(\"begun-$data\"); sleep(600); }";
    let ini = format!(
        "[run]\nscript_file = run.php\n{}[run mail]\nscript_file = run.php\n{}",
        queue(&mine, "jobs"),
        queue(&other, "mails").replace("[queue]", "[queue mail]")
    );
    let stark = Stark::start(&ini, hang);
    push_to(&mine, "jobs", "j");
    push_to(&other, "mails", "m");
    for file in ["begun-j", "begun-m"] {
        wait_for(LIMIT, file, || stark.path(file).exists());
    }
    assert_eq!(stark.cli(&["shutdown", "now"]).status, 0);
    stark.assert_nothing_left();
    stark.write(
        "run.php",
        "<?php function run($w, $data) { file_put_contents('ran', \"$data\\n\", FILE_APPEND); }",
    );
    stark.start_again();
    wait_for(LIMIT, "both run again", || {
        let ran = stark.read("ran");
        let mut ran: Vec<&str> = ran.lines().collect();
        ran.sort_unstable();
        ran == ["j", "m"]
    });
    stark.stop();
}

#[test]
fn an_idle_worker_wakes_for_each_of_its_keys_and_takes_the_first_first() {
    let redis = Redis::start();
    let ini = format!(
        "[run]\nscript_file = run.php\n{}",
        queue(&redis, "high low")
    );
    let script =
        "<?php function run($w, $data) { file_put_contents('ran', \"$data\\n\", FILE_APPEND); }";
    let stark = Stark::start(&ini, script);
    wait_for(LIMIT, "idle", || stark.worker(0)["state"] == "idle");
    push_to(&redis, "low", "l1");
    wait_for_notes(&stark, "ran", "l1\n");
    wait_for(LIMIT, "idle", || stark.worker(0)["state"] == "idle");
    push_to(&redis, "high", "h1");
    wait_for_notes(&stark, "ran", "l1\nh1\n");
    stark.stop();
    push_to(&redis, "low", "l2");
    push_to(&redis, "high", "h2");
    stark.start_again();
    wait_for_notes(&stark, "ran", "l1\nh1\nh2\nl2\n");
    stark.stop();
}

#[test]
fn a_killed_worker_runs_its_job_again_only_in_the_pool_that_promises_it() {
    let redis = Redis::start();
    let ini = format!(
        "[run]\nscript_file = run.php\n{}[queue once]\nkey = once\ndelivery = at-most-once\n",
        queue(&redis, "again")
    );
    let script = "<?php function run($w, $data) {\
                  file_put_contents('ran', \"$data\\n\", FILE_APPEND);\
                  if (!file_exists('go') && $data[0] == 'h') sleep(600); }";
    let stark = Stark::start(&ini, script);
    push_to(&redis, "again", "h-again");
    push_to(&redis, "once", "h-once");
    wait_for(LIMIT, "both are in hand", || {
        stark.read("ran").lines().count() == 2
    });
    stark.write("go", "");
    for pid in stark.worker_pids() {
        kill(pid, Signal::SIGKILL);
    }
    // What comes after them shows that both pools work on.
    push_to(&redis, "again", "last-again");
    push_to(&redis, "once", "last-once");
    let mut expected = ["h-again", "h-again", "h-once", "last-again", "last-once"];
    expected.sort_unstable();
    wait_for_value(LIMIT, "what ran", expected.join(" "), || {
        let ran = stark.read("ran");
        let mut ran: Vec<&str> = ran.lines().collect();
        ran.sort_unstable();
        ran.join(" ")
    });
    stark.stop();
}

#[test]
fn a_key_that_moved_to_another_pool_brings_what_a_killed_worker_held_of_it() {
    let redis = Redis::start();
    let mail = |own: &str, mail: &str| {
        let queue = queue(&redis, own);
        format!(
            "[run]\nscript_file = run.php\n{queue}prefetch = 10\n[run mail]\n[queue mail]\nkey = {mail}\n"
        )
    };
    let script = "<?php function run($w, $data) {\
                  file_put_contents('jobs', \"$data\\n\", FILE_APPEND);\
                  if ($data == 'long' && !file_exists('go')) { touch('in-hand'); sleep(60); } }";
    let stark = Stark::prepare(&mail("own", "moves"), script);
    // The first reservation is one job, the second has both of the next.
    let mut jobs = ["alone", "ended", "long"].map(String::from).to_vec();
    jobs.extend((0..18).map(|number| number.to_string()));
    let _: usize = redis.connect().rpush("moves", &jobs).expect("an answer");
    stark.start_again();
    wait_for(LIMIT, "the job begins", || stark.path("in-hand").exists());
    stark.kill_tree();

    stark.write("go", "");
    stark.write("t.ini", &mail("own moves", "other"));
    stark.start_again();
    jobs.push("long".into());
    jobs.sort();
    wait_for_value(LIMIT, "jobs that ran", jobs, || {
        let ran = stark.read("jobs");
        let mut ran: Vec<String> = ran.lines().map(String::from).collect();
        ran.sort();
        ran
    });
    stark.stop();
    let registered: usize = redis
        .connect()
        .scard("{moves}:stark:reserved")
        .expect("an answer");
    assert_eq!(registered, 0, "reserved lists of the key");
}
