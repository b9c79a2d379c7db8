//! The server answers, and refuses us: what an operator has to mend. At the start that is an end with status 69 and the
//! server's words; later it is one error in the log, and work goes on by itself when it is mended.

use crate::support::redis::run;
use crate::*;

/// A start that must fail, and its words.
fn assert_start_refused(ini: &str, words: &[&str]) {
    let ended = Stark::prepare(ini, "").start_refused();
    assert_eq!(ended.status, 69, "{ended:?}");
    for word in words {
        assert!(ended.stderr.contains(word), "{word}: {ended:?}");
    }
}

fn server(redis: &Redis) -> String {
    support::stark::queue(redis, KEY)
}

#[test]
fn a_wrong_password_at_the_start_is_named() {
    let redis = Redis::start_with(&["--requirepass", "secret"]);
    let proxy = Proxy::start(&redis.socket());
    let wrong = ini(&through(&proxy), 3, "password = wrong");
    assert_start_refused(&wrong, &["cannot use key q of redis", "WRONGPASS"]);
    assert_start_refused(&ini(&server(&redis), 3, ""), &["NOAUTH"]);
}

#[test]
fn a_user_without_rights_to_the_keys_is_told_what_is_missing() {
    let redis = Redis::start();
    let user = ["ACL", "SETUSER", "w", "on", ">pw", "~other", "+@all"];
    redis.command(&user);
    let proxy = Proxy::start(&redis.socket());
    let ini = ini(&through(&proxy), 2, "username = w\npassword = pw");
    assert_start_refused(&ini, &["NOPERM", "~q ~{q}:stark:*"]);
}

#[test]
fn a_server_that_is_too_old_is_refused_with_its_version() {
    let redis = Redis::start();
    let proxy = Proxy::start(&redis.socket());
    proxy.answer(
        "HELLO",
        "*4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n6.0.16\r\n",
    );
    let ini = ini(&through(&proxy), 2, "");
    assert_start_refused(&ini, &["version 6.0.16 is too old, 6.2 is needed"]);
}

#[test]
fn a_password_changed_while_it_runs_is_one_error_until_it_is_changed_back() {
    let rig = rig(Redis::start());
    let mut connection = rig.redis.connect();
    load(&rig, 1500);
    run(&mut connection, &["CONFIG", "SET", "requirepass", "new"]);
    let all = ["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"];
    run(&mut connection, &all);
    wait_until_away(&rig, WORKERS);
    let line = rig.stark.wait_for_log(" ERROR ");
    assert!(line.contains("NOAUTH"), "{line}");
    run(&mut connection, &["CONFIG", "SET", "requirepass", ""]);
    assert_each_ran_once(&rig, 1500);
    assert_eq!(rig.stark.log_lines(" ERROR ").len(), 1);
    assert_eq!(told(&rig.stark), (0, 1));
}

#[test]
fn a_right_taken_away_from_workers_alone_is_one_error_until_it_is_given_back() {
    let redis = Redis::start();
    redis.command(&["ACL", "SETUSER", "w", "on", ">pw", "~*", "+@all"]);
    let proxy = Proxy::start(&redis.socket());
    let rig = rig_with(&proxy, redis, WORKERS, "username = w\npassword = pw");
    load(&rig, 1500);
    rig.redis.command(&["ACL", "SETUSER", "w", "-evalsha"]);
    wait_until_away(&rig, WORKERS);
    let line = rig.stark.wait_for_log(" ERROR ");
    assert!(
        line.contains("NOPERM") && line.contains("+evalsha"),
        "{line}"
    );
    rig.redis.command(&["ACL", "SETUSER", "w", "+evalsha"]);
    assert_each_ran_once(&rig, 1500);
    assert_eq!(rig.stark.log_lines(" ERROR ").len(), 1);
    assert_eq!(told(&rig.stark), (0, 1));
}

#[test]
fn a_key_that_became_a_string_under_load_is_one_error_until_it_is_mended() {
    for (keys, broken) in [("q", "q"), ("high q", "high"), ("q low", "low")] {
        let redis = Redis::start();
        let server = server(&redis).replace("key = q\n", &format!("key = {keys}\n"));
        let stark = Stark::start(&ini(&server, WORKERS, ""), "");
        let rig = Rig { redis, stark };
        let mut connection = rig.redis.connect();
        load(&rig, 300);
        // All but those in hand, when it is the queue itself.
        run(&mut connection, &["SET", broken, "text"]);
        let line = rig.stark.wait_for_log(" ERROR ");
        assert!(line.contains("WRONGTYPE"), "{keys}: {line}");
        wait_until_away(&rig, WORKERS);
        if broken == "low" {
            // Jobs of a higher key do not mind.
            rig.push_numbers(300..600);
            wait_for(LIMIT, "the other key's jobs", || rig.runs().contains(&599));
            wait_until_away(&rig, WORKERS);
        }
        assert_eq!(rig.stark.log_lines(" ERROR ").len(), 1, "{keys}");
        run(&mut connection, &["DEL", broken]);
        rig.stark.wait_for_log("redis back addr=");
        rig.push_numbers(1000..1100);
        wait_for(LIMIT, "new jobs", || rig.runs().contains(&1099));
        let runs = rig.runs();
        assert_eq!(support::ledger::repeated(&runs), Vec::<usize>::new());
        assert_eq!(rig.stark.log_lines(" ERROR ").len(), 1, "{keys}");
        assert_eq!(told(&rig.stark), (0, 1), "{keys}");
        rig.stark.stop();
    }
}

#[test]
fn a_key_that_is_no_list_at_the_start_is_refused_whichever_it_is() {
    let redis = Redis::start();
    redis.command(&["SET", "low", "text"]);
    let server = server(&redis).replace("key = q\n", "key = q low\n");
    assert_start_refused(&ini(&server, 2, ""), &["WRONGTYPE", "q, low"]);
}

#[test]
fn a_server_that_may_evict_jobs_is_warned_of_once_in_the_log_and_on_the_terminal() {
    let redis = Redis::start_with(&["--maxmemory-policy", "allkeys-lru"]);
    let again = server(&redis).replace("[queue]", "[queue mail]");
    let pools = format!(
        "{}[run mail]\nbuiltin = null\n{again}",
        ini(&server(&redis), 2, "")
    );
    let stark = Stark::prepare(&pools, "");
    let ended = stark.cli(&[]);
    assert_eq!(ended.status, 0, "{ended:?}");
    assert!(ended.stderr.contains("may evict jobs"), "{ended:?}");
    let line = stark.wait_for_log("may evict jobs");
    assert!(
        line.contains(" WARN ") && line.contains("allkeys-lru"),
        "{line}"
    );
    // A new connection is no new warning.
    redis.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    stark.stop();
    assert_eq!(stark.log_lines("may evict jobs").len(), 1);
}

/// Idle workers are woken all the same, and the operator is told once.
fn assert_polls(rig: &Rig) {
    let idle = |number| rig.stark.worker(number)["state"] == "idle";
    for round in 0..5 {
        wait_for(LIMIT, "all are idle", || (0..WORKERS).all(idle));
        rig.push_numbers(round * 10..round * 10 + 10);
        wait_for(LIMIT, "jobs", || rig.runs().len() == 10 * (round + 1));
        // The keeper connects anew, and is refused again.
        let kill = ["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"];
        rig.redis.command(&kill);
    }
    let lines = rig.stark.log_lines("redis refuses to tell of changes");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains(" WARN "), "{lines:?}");
    rig.stark.stop();
}

#[test]
fn a_server_without_tracking_is_polled() {
    let redis = Redis::start();
    let proxy = Proxy::start(&redis.socket());
    proxy.answer("TRACKING", "-ERR unknown subcommand 'TRACKING'\r\n");
    assert_polls(&rig_behind(&proxy, redis, WORKERS));
}

#[test]
fn a_user_without_tracking_is_polled_for() {
    let redis = Redis::start();
    let user = [
        "ACL",
        "SETUSER",
        "w",
        "on",
        ">pw",
        "~*",
        "+@all",
        "-client|tracking",
    ];
    redis.command(&user);
    let proxy = Proxy::start(&redis.socket());
    let login = "username = w\npassword = pw";
    assert_polls(&rig_with(&proxy, redis, WORKERS, login));
}
