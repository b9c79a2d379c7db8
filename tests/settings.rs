//! What users rely on in settings: that the seed's and the shipped ini work as they stand, which value wins, that every
//! mistake is told with its place, and that `--print-config` means the same when it is read again.

#[path = "settings/access.rs"]
mod access;
#[path = "settings/place.rs"]
mod place;
#[path = "settings/pools.rs"]
mod pools;
#[path = "settings/printed.rs"]
mod printed;

use std::fs;
use std::path::Path;
use std::time::Duration;

use stark::config::{self, Address, Affinity, Builtin, LogTarget, Prefetch, Program, Surroundings};

use place::{Place, config, mistakes};

const SEED: &str = include_str!("support/seed.ini");

#[test]
fn the_seed_ini_works_as_it_stands() {
    let place = Place::new();
    let config = place.config(SEED);
    assert_eq!(config.file, place.path("worker.ini"));
    assert_eq!(config.main.name, "config");
    assert_eq!(config.main.port, 9008);
    assert_eq!(config.main.pid_file, Path::new("/tmp/run/config.pid"));
    assert_eq!(
        config.main.log,
        LogTarget::Daily {
            directory: "/tmp/logs".into(),
            name: "config".into()
        }
    );
    let [pool] = &config.pools[..] else {
        panic!("one pool")
    };
    assert_eq!(pool.name, "config");
    assert_eq!(
        pool.run.program,
        Program::Script {
            file: place.path("run.php"),
            interpreter: vec!["php".into()]
        }
    );
    assert_eq!(pool.run.directory, place.directory.path());
    assert_eq!(pool.run.memory_limit_bytes, 1 << 30);
    assert_eq!(pool.worker.count, 4);
    assert_eq!(pool.worker.max_run_count, Some(10_000));
    assert_eq!(pool.worker.max_run_time, Some(Duration::from_secs(3600)));
    assert_eq!(pool.worker.max_idle_time, Some(Duration::from_secs(60)));
    let queue = pool.queue.as_ref().expect("has a queue");
    assert_eq!(queue.address, Address::Tcp("127.0.0.1".into(), 6380));
    assert_eq!(queue.keys, ["test:redis"]);
    assert_eq!(queue.timeout, Duration::from_secs(2));
}

#[test]
fn the_shipped_ini_names_every_key_and_its_defaults_are_those_in_force() {
    let place = Place::new();
    let shipped = include_str!("../conf/worker.ini");
    let as_it_is = place.config(shipped);
    let minimal = place.config("[run]\nscript_file = run.php\n[queue]\n");
    assert_eq!(as_it_is, minimal);

    let is_default = |line: &str| {
        let key = line
            .strip_prefix(';')
            .and_then(|line| line.split_once(" ="));
        key.is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
    };
    let (mut live, mut keys) = (String::new(), Vec::new());
    for line in shipped.lines() {
        let setting = line.strip_prefix(';').filter(|_| is_default(line));
        let setting = setting.unwrap_or(line);
        if is_default(&format!(";{setting}")) {
            keys.push(setting.split(" =").next().unwrap());
        }
        let is_later = setting.ends_with("; not supported yet");
        live += if is_later { line } else { setting };
        live += "\n";
    }
    assert_eq!(place.config(&live), minimal, "{live}");
    // Every key that `config` knows, told by its answer to one that it does not.
    for section in ["main", "run", "worker", "queue", "retry"] {
        let answer = mistakes(&format!("[{section}]\nzzz = 1"));
        let (_, known) = answer.split_once(" has ").expect("lists the known keys");
        for key in known.split(", ") {
            assert!(keys.contains(&key), "conf/worker.ini lacks {section}.{key}");
        }
    }
}

#[test]
fn the_command_line_wins_over_the_environment_and_that_over_the_file() {
    let ini = "[main]\nport = 1\nname = file\n[worker]\ncount = 2\nnice = 1\n[run]\nbuiltin=null\n";
    let config = Place::new()
        .variable("STARK_WORKER__COUNT", "3")
        .variable("STARK_MAIN__PORT", "2")
        .variable("STARK_MAIN__NAME", "")
        .variable("STARK_HOME", "/opt/stark")
        .variable("STARK_QUEUE__QUEUEKEY", "jobs")
        .set("main.port=3")
        .set("Main.Port=4")
        .set("env.App.Mode=a=b")
        .config(ini);
    assert_eq!(config.main.port, 4);
    assert_eq!(config.main.name, "file");
    let pool = &config.pools[0];
    assert_eq!((pool.worker.count, pool.worker.nice), (3, 1));
    assert_eq!(pool.queue.as_ref().unwrap().keys, ["jobs"]);
    assert_eq!(pool.env["App.Mode"], "a=b");
}

#[test]
fn every_mistake_is_told_at_once_in_the_order_of_its_place() {
    let place = Place::new()
        .variable("STARK_MAIN__PROT", "1")
        .set("worker.nice=99")
        .set("main.zzz");
    let ini = "[main]\nport = 70000\n[worker]\ncuont = 4\ncount = four\n[wroker]\n[run]\ncount = 1\n\
               memory_limit = 128\n[shop]\nx = 1\n[worker mail]\ncount = 2\n";
    assert_eq!(
        place.load(ini).unwrap_err(),
        "worker.ini:2: main.port: \"70000\" is not a port from 0 to 65535\n\
         worker.ini:4: worker.cuont: unknown key; did you mean worker.count?\n\
         worker.ini:5: worker.count: \"four\" is not a number from 1 to 4096, or auto\n\
         worker.ini:6: [wroker]: unknown section; did you mean [worker]?\n\
         worker.ini:8: run.count: unknown key; did you mean worker.count?\n\
         worker.ini:9: run.memory_limit: \"128\" is not a size of at least 1M, such as 512M or 1G, or -1 for no limit\n\
         worker.ini:12: pool mail: nothing to run; set script_file or builtin in [run mail]\n\
         STARK_MAIN__PROT: main.prot: unknown key; did you mean main.port?\n\
         --set: main.zzz: is not section.key=value\n\
         --set: worker.nice: \"99\" is not a number from -20 to 19"
    );
}

#[test]
fn values_out_of_range_are_refused_and_those_at_its_ends_are_not() {
    for (section, key, good, bad) in [
        (
            "worker",
            "count",
            &["1", "4096", "auto", "AUTO"][..],
            &["0", "4097", "-1", "", "1.5"][..],
        ),
        (
            "worker",
            "jitter",
            &["0", "0%", "100%"],
            &["0.1", "10", "101%"],
        ),
        ("worker", "nice", &["-20", "19"], &["-21", "20"]),
        (
            "worker",
            "affinity",
            &["auto", "none", "0-1,5", "4"],
            &["0-2", "9", "a", ""],
        ),
        (
            "worker",
            "max_run_count",
            &["0", "18446744073709551615"],
            &["-1", "1k"],
        ),
        (
            "worker",
            "max_idle_seconds",
            &["0", "0.5", "5m"],
            &["-1", "soon", ""],
        ),
        ("worker", "start_seconds", &["0.1", "1h"], &["0", "99ms"]),
        (
            "main",
            "port",
            &["0", "65535"],
            &["65536", "-1", "http", ""],
        ),
        ("main", "name", &["a.b_c-D1", ""], &["a b", "a/b", "ü"]),
        ("main", "unixsocket", &["", "a.sock"], &["worker.ini"]),
        (
            "main",
            "host",
            &["::1", "localhost", "127.9.9.9"],
            &["0.0.0.0", "::", "example.com", ""],
        ),
        ("main", "log_level", &["error", "Trace"], &["off", "loud"]),
        ("main", "heartbeat_seconds", &["0.1", "1h"], &["0", "-1"]),
        ("main", "max_clients", &["1", "65536"], &["0", "65537"]),
        (
            "run",
            "memory_limit",
            &["1M", "1.5G", "-1", "0"],
            &["128", "-2", "lots"],
        ),
        ("queue", "port", &["1", "\"6380\""], &["0", "65536"]),
        (
            "retry",
            "max_attempts",
            &["0", "1", "1000000"],
            &["1000001", "-1", ""],
        ),
        ("retry", "max_crashes", &["0", "1000000"], &["-1", "many"]),
        (
            "retry",
            "backoff_seconds",
            &["0", "0.5", "3600", "1h"],
            &["-1", "soon", "3601"],
        ),
        (
            "retry",
            "backoff_max_seconds",
            &["5", "2h", "30d"],
            &["-1", "4.9"],
        ),
        (
            "retry",
            "dead_max",
            &["1", "1000000000"],
            &["0", "1000000001"],
        ),
        ("retry", "dead_seconds", &["0", "180d"], &["-1", "3651d"]),
        ("queue", "db", &["0", "15"], &["-1", "one"]),
        ("queue", "prefetch", &["1", "1000", "auto"], &["0", "1001"]),
        ("queue", "timeout", &["0", "2.0", "500ms"], &["-1", "never"]),
        ("queue", "type", &["redis", "none", ""], &["kafka"]),
        (
            "queue",
            "delivery",
            &["at-least-once", "At-Most-Once", ""],
            &["exactly-once"],
        ),
        (
            "queue",
            "key",
            &["a", "' a '", "high low"],
            &["", "' '", "a b a"],
        ),
        (
            "queue",
            "host",
            &["redis.local", "/run/redis.sock"],
            &["", "'a b'", "tls://a"],
        ),
    ] {
        for value in good {
            assert_eq!(
                mistakes(&format!("[{section}]\n{key} = {value}")),
                "",
                "{key} = {value}"
            );
        }
        for value in bad {
            let mistakes = mistakes(&format!("[{section}]\n{key} = {value}"));
            let start = format!("worker.ini:2: {section}.{key}: ");
            assert!(mistakes.starts_with(&start), "{key} = {value}: {mistakes}");
            assert_eq!(mistakes.lines().count(), 1, "{mistakes}");
        }
    }
}

#[test]
fn retries_have_defaults_and_every_limit_can_be_lifted() {
    let retry = |ini: &str| {
        let pool = config(&format!("[queue]\n{ini}")).pools.remove(0);
        pool.queue.unwrap().retry
    };
    let usual = retry("");
    assert_eq!(usual, config::Retry::default());
    let count = |limit: Option<std::num::NonZeroU32>| limit.map(|limit| limit.get());
    assert_eq!(count(usual.max_attempts), Some(3));
    assert_eq!(usual.backoff, Duration::from_secs(5));
    assert_eq!(usual.backoff_max, Duration::from_secs(3600));
    assert_eq!(count(usual.max_crashes), Some(3));
    assert_eq!(usual.dead_max, 10_000);
    assert_eq!(usual.dead_for, Some(Duration::from_secs(180 * 86400)));
    let none = retry("[retry]\nmax_attempts = 0\nmax_crashes = 0\ndead_seconds = 0\n");
    let limits = (none.max_attempts, none.max_crashes, none.dead_for);
    assert_eq!(limits, (None, None, None));
    assert_eq!(
        mistakes("[retry]\nbackoff_max_seconds = 10\nbackoff_seconds = 1m"),
        "worker.ini:2: retry.backoff_max_seconds: 10 s is less than retry.backoff_seconds, 60 s"
    );
    assert_eq!(
        mistakes("[retry]\nbackoff_seconds = 2h"),
        "worker.ini:2: retry.backoff_seconds: 7200 s is more than retry.backoff_max_seconds, 3600 s"
    );
}

#[test]
fn what_a_later_version_does_is_refused_until_then_unless_it_is_off() {
    for (section, key, off, on) in [
        ("main", "slow_job_ms", "0", "1000"),
        ("queue", "type", "redis", "embedded"),
        ("queue", "sync", "normal", "full"),
        ("queue", "lease_seconds", "", "30"),
    ] {
        assert_eq!(mistakes(&format!("[{section}]\n{key} = {off}")), "");
        assert_eq!(
            mistakes(&format!("[{section}]\n{key} = {on}")),
            format!("worker.ini:2: {section}.{key}: not supported yet")
        );
    }
    let place = Place::new();
    place.write("run.py", "");
    assert_eq!(
        place.load("[run]\nscript_file = run.py").unwrap_err(),
        "worker.ini:2: run.script_file: \"run.py\": scripts other than .php are not supported yet"
    );
    assert_eq!(
        place.load("[run]\ncommand = true").unwrap_err(),
        "worker.ini:2: run.command: not supported yet"
    );
}

#[test]
fn settings_that_contradict_each_other_are_refused_with_both_places() {
    for (ini, mistake) in [
        (
            "[run]\nscript_file = run.php",
            "worker.ini:4: run.builtin: contradicts run.script_file (worker.ini:2)",
        ),
        (
            "[queue]\nkey = a\nqueueKey = a",
            "worker.ini:3: queue.queueKey: given twice, first on line 2",
        ),
        (
            "[queue]\nport = 1\nurl = redis://h",
            "worker.ini:3: queue.url: contradicts queue.port (worker.ini:2)",
        ),
        (
            "[main]\ngroup = www",
            "worker.ini:2: main.group: needs main.user",
        ),
    ] {
        assert_eq!(mistakes(ini), mistake);
    }
    let place = Place::new().set("run.builtin=null");
    assert_eq!(
        place.load(SEED).unwrap_err(),
        "--set: run.builtin: contradicts run.script_file (worker.ini:8)"
    );
    let place = place.set("run.script_file=");
    let pool = &place.config(SEED).pools[0];
    assert_eq!(pool.run.program, Program::Builtin(Builtin::Null));
}

#[test]
fn sections_of_others_are_warned_of_and_left_alone() {
    let place = Place::new();
    let loaded = place
        .load("[mail]\nhost = a\nhost2\n[run]\nbuiltin = echo")
        .unwrap_err();
    assert_eq!(
        loaded,
        "worker.ini:3: neither [section] nor key = value nor a comment"
    );
    let loaded = place
        .load("[mail]\nhost = a\n[run]\nbuiltin = echo\n[mail]\n")
        .unwrap();
    assert_eq!(
        loaded.warnings,
        ["worker.ini:1: [mail]: unknown section, ignored"]
    );
    for section in ["workers", "runn", "mian", "Que ue", "envs", "main x"] {
        let told = mistakes(&format!("[{section}]"));
        assert!(told.starts_with("worker.ini:1: ["), "{section}: {told}");
    }
}

#[test]
fn a_script_is_found_in_the_current_directory_first_then_beside_the_ini() {
    let mut place = Place::new();
    place.write("etc/worker.ini", "[run]\nscript_file = run.php\n[queue]");
    place.write("etc/run.php", "");
    let file_of = |place: &Place| match place.load_file("etc/worker.ini") {
        Ok(loaded) => match &loaded.config.pools[0].run.program {
            Program::Script { file, .. } => {
                Ok((file.clone(), loaded.config.pools[0].run.directory.clone()))
            }
            Program::Builtin(_) => panic!("is a script"),
        },
        Err(mistakes) => Err(mistakes),
    };
    let etc = place.path("etc");
    assert_eq!(file_of(&place), Ok((place.path("run.php"), etc.clone())));
    fs::remove_file(place.path("run.php")).unwrap();
    assert_eq!(file_of(&place), Ok((place.path("etc/run.php"), etc)));
    fs::remove_file(place.path("etc/run.php")).unwrap();
    let (here, beside) = (place.path("run.php"), place.path("etc/run.php"));
    assert_eq!(
        file_of(&place).unwrap_err(),
        format!(
            "etc/worker.ini:2: run.script_file: cannot find \"run.php\": no such file: {}, {}",
            here.display(),
            beside.display()
        )
    );
    place.here.directory = place.path("etc");
    assert_eq!(
        place.load_file("./worker.ini").unwrap_err(),
        format!(
            "./worker.ini:2: run.script_file: cannot find \"run.php\": no such file: {}",
            beside.display()
        )
    );
}

#[test]
fn an_interpreter_is_split_as_a_shell_would() {
    let place = Place::new();
    let ini = "[run]\nscript_file = run.php\ninterpreter = /usr/bin/php8.2 -d 'a b=1' \"-n\"\n";
    let Program::Script { interpreter, .. } = &place.config(ini).pools[0].run.program else {
        panic!("is a script")
    };
    assert_eq!(interpreter, &["/usr/bin/php8.2", "-d", "a b=1", "-n"]);
    let told = place.load("[run]\nscript_file = run.php\ninterpreter = php 'a\n");
    assert_eq!(
        told.unwrap_err(),
        "worker.ini:3: run.interpreter: \"php 'a\" is not a program with arguments (check the quotes)"
    );
}

#[test]
fn a_queue_is_named_by_url_by_parts_or_by_its_socket() {
    let queue = |ini: &str| {
        config(&format!("[queue]\n{ini}"))
            .pools
            .remove(0)
            .queue
            .unwrap()
    };
    let by_url = queue("url = redis://me:p%40ss@db.local:7000/3\ntimeout = 0.5\nprefetch = 10");
    assert_eq!(by_url.address, Address::Tcp("db.local".into(), 7000));
    assert_eq!(by_url.db, 3);
    assert_eq!(by_url.username.as_deref(), Some("me"));
    assert_eq!(by_url.password, Some(stark::config::Secret("p@ss".into())));
    assert_eq!(by_url.timeout, Duration::from_millis(500));
    assert_eq!(by_url.prefetch, Prefetch::Fixed(10));
    assert!(!format!("{by_url:?}").contains("p@ss"));
    let parts = queue(
        "host = db.local\nport = 7000\ndb = 3\nusername = me\npassword = p@ss\ntimeout = 0.5\nprefetch = 10",
    );
    assert_eq!(parts, by_url);
    let socket = queue("url = redis+unix:///run/redis.sock?db=2");
    assert_eq!(socket.address, Address::Unix("/run/redis.sock".into()));
    assert_eq!(socket.db, 2);
    assert_eq!(queue("host = /run/redis.sock\ndb = 2"), socket);
    assert_eq!(queue("").keys, ["stark_queue"]);
    assert!(config("").pools[0].queue.is_none());
    assert!(
        config("[queue]\ntype = none\nport = 1").pools[0]
            .queue
            .is_none()
    );
}

#[test]
fn secrets_are_not_repeated_in_mistakes() {
    for ini in [
        "[queue]\nurl = redis://me:hunter2@h:99999/0",
        "[queue]\nurl = rediss://me:hunter2@h",
        "[queue]\nurl = http://me:hunter2@h",
        "[queue]\nhost = redis://me:hunter2@h",
        "[queue]\npassword = \"hunter2",
        "[queue]\npasswrod = hunter2",
        "[queue]\npassword hunter2",
        "[main]\npassword = hunter2\nreadonly_password = hunter2",
        "[main]\nreadonly_password = hunter2",
        "[main]\npassword = hunter2\npassword_file = run.php",
        "[main]\npassword = 'hunter2' b",
        "[queue mail]\nurl = redis://me:hunter2@h\nhost = h",
        "[run mail]\npassword = hunter2",
    ] {
        let told = mistakes(ini);
        assert!(!told.is_empty() && !told.contains("hunter2"), "{told}");
    }
    let place = Place::new().set("queue.password:hunter2");
    let told = place.load("[run]\nbuiltin = null").unwrap_err();
    assert!(!told.contains("hunter2"), "{told}");
}

#[test]
fn counts_and_limits_adapt_to_what_is_run_and_where() {
    assert_eq!(config("[worker]\ncount = auto").pools[0].worker.count, 3);
    assert_eq!(config("").pools[0].worker.max_run_count, None);
    assert_eq!(
        config("[worker]\nmax_run_count = 5").pools[0]
            .worker
            .max_run_count,
        Some(5)
    );
    let unlimited = config("[run]\nmemory_limit = -1");
    assert_eq!(unlimited.pools[0].run.memory_limit_bytes, u64::MAX);
    let told = mistakes("[worker]\naffinity = 0-2");
    assert_eq!(
        told,
        "worker.ini:2: worker.affinity: \"0-2\" has core 2, which is not usable; usable are 0-1,4-5"
    );
    let mut place = Place::new();
    place.here.cores.clear();
    let config = place.config("[run]\nbuiltin = null\n[worker]\naffinity = 7");
    assert_eq!(config.pools[0].worker.affinity, Affinity::Cores(vec![7]));
}

#[test]
fn paths_start_at_the_directory_of_the_ini() {
    let place = Place::new();
    place.write(
        "etc/worker.ini",
        "[main]\nworking_dir = var\nlog_file = a.log\n[run]\nbuiltin = null",
    );
    let main = place.load_file("etc/worker.ini").unwrap().config.main;
    assert_eq!(main.name, "worker");
    assert_eq!(main.working_dir, place.path("etc/var"));
    assert_eq!(main.pid_file, place.path("etc/var/run/worker.pid"));
    assert_eq!(main.log, LogTarget::File(place.path("etc/a.log")));
    assert_eq!(config("[main]\nlog_file = -").main.log, LogTarget::Stderr);
}

#[test]
fn a_name_must_suit_files_even_when_it_is_the_files_own() {
    let place = Place::new();
    place.write("my worker.ini", "[run]\nbuiltin = null");
    assert_eq!(
        place.load_file("my worker.ini").unwrap_err(),
        "my worker.ini: main.name: \"my worker\", the file's own name, is not 1 to 64 letters, digits, \
         '.', '_' and '-'; set main.name"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_one_mistake() {
    let place = Place::new();
    assert_eq!(
        place.load_file("none.ini").unwrap_err(),
        "none.ini: cannot read the settings: No such file or directory (os error 2)"
    );
    fs::create_dir(place.path("dir.ini")).unwrap();
    assert!(place.load_file("dir.ini").is_err());
    place.write("big.ini", &";".repeat((1 << 20) + 1));
    assert_eq!(
        place.load_file("big.ini").unwrap_err(),
        "big.ini: cannot read the settings: longer than 1 MiB"
    );
}

#[test]
fn the_surroundings_of_a_process_are_its_own() {
    let place = Place::new();
    place.write(
        "worker.ini",
        "[run]\nbuiltin = null\n[worker]\ncount = auto\n",
    );
    let loaded = config::load(&place.path("worker.ini"), &["main.port=0".into()]);
    let config = loaded
        .unwrap_or_else(|mistakes| panic!("{mistakes}"))
        .config;
    let cores = Surroundings::of_this_process().cores;
    let count = config.pools[0].worker.count;
    assert!(count >= 1 && count <= cores.len(), "{count} of {cores:?}");
    assert_eq!(config.main.port, 0);
}
