//! The commands of `stark -f worker.ini`: what they print, what they change, and their exit statuses.

mod support;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use support::redis::Redis;
use support::stark::{Stark, queue, run};

const SCRIPT: &str = "[run]\nscript_file = run.php\n";
const NULL: &str = "[run]\nbuiltin = null\n";
const RUNS: &str = "<?php\nfunction run($worker, $data) {}\n";

fn payloads(redis: &Redis, key: &str) -> Vec<Vec<u8>> {
    let mut connection = redis.connect();
    redis::cmd("LRANGE")
        .arg(key)
        .arg(0)
        .arg(-1)
        .query(&mut connection)
        .expect("redis answers")
}

#[test]
fn check_finds_nothing_wrong_and_starts_nothing() {
    let redis = Redis::start();
    let script = "<?php touch('loaded');\nfunction run($worker, $data) {}\n";
    let stark = Stark::prepare(&format!("{SCRIPT}{}", queue(&redis, "jobs")), script);
    for option in ["--check", "-t"] {
        let ended = stark.cli(&[option]);
        assert_eq!((ended.status, &*ended.stderr), (0, ""), "{ended:?}");
        assert!(ended.stdout.contains("key jobs"), "{ended:?}");
        assert!(ended.stdout.ends_with("t.ini: ok\n"), "{ended:?}");
    }
    assert!(!stark.path("work").exists());
    assert!(!stark.path("loaded").exists(), "no user code was run");
    assert!(payloads(&redis, "jobs").is_empty());
}

#[test]
fn check_tells_of_script_and_queue_at_once() {
    let redis = Redis::start();
    redis::cmd("SET")
        .arg("jobs")
        .arg("text")
        .exec(&mut redis.connect())
        .unwrap();
    let ini = format!("{SCRIPT}{}", queue(&redis, "jobs"));
    let stark = Stark::prepare(
        &ini,
        "<?php\nfunction run($worker, $data) {\n  return 1 +;\n}\n",
    );
    let ended = stark.cli(&["--check"]);
    assert_eq!(ended.status, 69, "{ended:?}");
    for word in [
        "unexpected token \";\"",
        "run.php",
        "line 3",
        "it is a string, not a list",
    ] {
        assert!(
            ended.stderr.contains(word),
            "{word:?} is missing: {ended:?}"
        );
    }
    assert!(!stark.path("work").exists());
}

#[test]
fn check_warns_of_a_redis_that_is_away_and_refuses_bad_settings() {
    let mut redis = Redis::start();
    redis.stop();
    let stark = Stark::prepare(&format!("{SCRIPT}{}", queue(&redis, "jobs")), RUNS);
    let ended = stark.cli(&["--check"]);
    assert_eq!(ended.status, 0, "{ended:?}");
    assert!(
        ended.stderr.contains("workers would wait for it"),
        "{ended:?}"
    );

    stark.write("t.ini", "[run]\nbuiltin = null\n[worker]\ncount = 0\n");
    let ended = stark.cli(&["--check"]);
    assert_eq!(ended.status, 78, "{ended:?}");
    assert!(ended.stderr.contains("t.ini:4: worker.count"), "{ended:?}");
}

#[test]
fn what_print_config_prints_can_be_fed_back() {
    let ini = "[main]\nlog_level = debug\nheartbeat_seconds = 250ms\n[run]\nscript_file = run.php\nmemory_limit = 64M\n[worker]\ncount = 3\nmax_idle_seconds = 5m\n[queue]\nhost = localhost\npassword = \"s3 cret;\"\nkey = a:b\n[env]\nMixedCase = \"x; y\"\n";
    let stark = Stark::prepare(ini, RUNS);
    // A password that every user can read would be warned of.
    fs::set_permissions(stark.path("t.ini"), Permissions::from_mode(0o600)).expect("it is ours");
    let first = stark.cli(&["--print-config"]);
    assert_eq!((first.status, &*first.stderr), (0, ""), "{first:?}");
    assert!(!first.stdout.contains("s3 cret"), "{first:?}");
    for line in ["count = 3", "key = \"a:b\"", "port = 6379"] {
        assert!(first.stdout.contains(line), "{line}: {first:?}");
    }
    stark.write("t.ini", &first.stdout);
    let second = stark.cli(&["--print-config"]);
    // A comment stands where a secret would.
    let settings = |text: &str| {
        let lines = text.lines().filter(|line| !line.starts_with(';'));
        lines.map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(settings(&second.stdout), settings(&first.stdout));
}

#[test]
fn without_a_daemon_status_is_3_and_what_needs_one_is_1_with_the_address() {
    let stark = Stark::prepare(NULL, "");
    let free = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let port = format!("main.port={free}");
    let cli = |words: &[&str]| stark.cli(&[&["--set", port.as_str()], words].concat());
    let ended = cli(&["status"]);
    assert_eq!((ended.status, &*ended.stdout), (3, "t: not running\n"));
    for words in [&["info"][..], &["ping"], &["shutdown"]] {
        let ended = cli(words);
        assert_eq!(ended.status, 1, "{words:?}: {ended:?}");
        let address = format!("stark: cannot reach the daemon at 127.0.0.1:{free}: ");
        assert!(ended.stderr.starts_with(&address), "{words:?}: {ended:?}");
    }
    assert_eq!(cli(&["stop"]).status, 0, "what does not run is stopped");
    assert!(!stark.path("work/run").exists());
}

#[test]
fn with_a_daemon_the_commands_print_what_it_answers() {
    let stark = Stark::start("[run]\nbuiltin = null\n[worker]\ncount = 2\n", "");
    assert_eq!(stark.cli(&["ping"]).stdout, "PONG\n");
    let info = stark.cli(&["info"]).stdout;
    assert!(
        info.contains("# Worker\r\n") && info.contains("# Stats\r\n"),
        "{info}"
    );
    let info = stark.cli(&["info", "worker"]).stdout;
    assert!(
        info.contains("worker_max:2\r\n") && !info.contains("# Stats"),
        "{info}"
    );
    let status = stark.cli(&["status"]);
    assert_eq!(status.status, 0);
    for word in [
        "t: running for",
        &format!("pid {}", stark.pid()),
        "2 of 2 workers alive",
    ] {
        assert!(status.stdout.contains(word), "{word}: {status:?}");
    }
    assert_eq!(status.stdout.lines().count(), 1);
    stark.stop();
}

/// What a command with `--json` says, and its exit status.
fn json(stark: &Stark, words: &[&str]) -> (i32, serde_json::Value) {
    let ended = stark.cli(&[&["--json"], words].concat());
    assert_eq!(ended.stderr, "", "{words:?}");
    assert_eq!(ended.stdout.lines().count(), 1, "{words:?}: {ended:?}");
    let told = serde_json::from_str(&ended.stdout);
    let told = told.unwrap_or_else(|err| panic!("{words:?}: {err}: {ended:?}"));
    (ended.status, told)
}

#[test]
fn json_has_the_names_of_info_and_numbers_as_numbers() {
    let redis = Redis::start();
    let ini = format!("{NULL}[worker]\ncount = 2\n{}", queue(&redis, "a,b%c"));
    let stark = Stark::start(&ini, "");
    for words in [&["status"][..], &["info"]] {
        let (status, told) = json(&stark, words);
        assert_eq!(status, 0, "{words:?}");
        assert_eq!(told["name"], "t");
        assert_eq!(told["state"], "running");
        assert_eq!(told["pid"], stark.pid());
        assert_eq!(told["worker_max"], 2);
        assert!(told["run_qps"].is_number(), "{told}");
        assert!(told["version"].is_string(), "{told}");
        let workers = told["workers"].as_array().expect("an array");
        let pids: Vec<i32> = workers
            .iter()
            .map(|w| w["pid"].as_i64().expect("a number") as i32)
            .collect();
        assert_eq!(pids, stark.worker_pids());
        assert_eq!(workers[1]["pool"], "t");
        assert_eq!(told["queues"][0]["key"], "a,b%c");
        assert!(told.get("worker0").is_none(), "{told}");
    }
    let (_, told) = json(&stark, &["info", "cpu"]);
    assert!(
        told["used_cpu_sys"].is_number() && told.get("pid").is_none(),
        "{told}"
    );
    assert_eq!(
        json(&stark, &["ping"]),
        (0, serde_json::json!({ "reply": "PONG" }))
    );
    let pushed = serde_json::json!({ "pushed": 2, "key": "a,b%c" });
    assert_eq!(json(&stark, &["push", "x", "y"]), (0, pushed));
    let pid = stark.pid();
    let stopped = serde_json::json!({ "name": "t", "state": "stopped", "pid": pid });
    assert_eq!(json(&stark, &["stop"]), (0, stopped));
    stark.assert_nothing_left();
}

#[test]
fn json_tells_errors_on_stdout_with_the_same_exit_status() {
    let stark = Stark::prepare(NULL, "");
    let error = |words: &[&str]| {
        let (status, told) = json(&stark, words);
        let object = told.as_object().expect("an object");
        assert_eq!(object.len(), 1, "{told}");
        (
            status,
            object["error"].as_str().expect("a text").to_string(),
        )
    };
    let (status, words) = error(&["ping"]);
    assert!(
        status == 1 && words.starts_with("cannot reach the daemon"),
        "{words}"
    );
    let (status, words) = error(&["push", "x"]);
    assert!(status == 1 && words.contains("no queue"), "{words}");
    let (status, words) = error(&["--set", "worker.count=0", "--set", "main.port=x", "status"]);
    assert!(status == 78 && words.lines().count() == 2, "{words}");
    let (status, words) = error(&["--check"]);
    assert!(status == 2 && words.contains("needs a command"), "{words}");
    let none = serde_json::json!({ "name": "t", "state": "stopped" });
    assert_eq!(json(&stark, &["status"]), (3, none));
    let none = serde_json::json!({ "name": "t", "state": "stopped", "pid": null });
    assert_eq!(json(&stark, &["stop"]), (0, none));
}

#[test]
fn json_stands_before_or_behind_the_command() {
    let stark = Stark::start(NULL, "");
    let told = "{\"reply\":\"OK\"}\n";
    assert_eq!(stark.cli(&["shutdown", "--json"]).stdout, told);
    stark.assert_nothing_left();
}

#[test]
fn output_that_nobody_reads_or_no_disk_takes_is_no_panic() {
    let stark = Stark::start(NULL, "");
    let to = |arguments: &[&str], stdout: Stdio| {
        let mut program = stark.program();
        let output = program.args(arguments).stdout(stdout).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), stderr)
    };
    for arguments in [["status"], ["info"], ["--print-config"], ["--check"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let unread = to(&arguments, writer.into());
        assert_eq!(unread, (Some(0), String::new()), "{arguments:?}");
        let full = File::options().write(true).open("/dev/full").unwrap();
        let (status, stderr) = to(&arguments, full.into());
        assert_eq!(status, Some(1), "{arguments:?}");
        assert!(stderr.starts_with("stark: cannot print"), "{stderr}");
    }
    stark.stop();
}

#[test]
fn a_wrong_command_line_is_2() {
    let stark = Stark::prepare(NULL, "");
    for words in [
        &["dance"][..],
        &["--loud"],
        &["push"],
        &["shutdown", "later"],
        &["-F", "ping"],
    ] {
        assert_eq!(stark.cli(words).status, 2, "{words:?}");
    }
    let ended = run(Command::new(env!("CARGO_BIN_EXE_stark")), b"");
    assert_eq!(ended.status, 2, "{ended:?}");
}

#[test]
fn help_fits_a_screen_and_version_is_the_packages() {
    let stark = Stark::prepare(NULL, "");
    let help = stark.cli(&["--help"]);
    assert_eq!(help.status, 0);
    assert!(help.stdout.lines().count() <= 50, "{}", help.stdout);
    assert!(help.stdout.contains("Examples:"), "{}", help.stdout);
    let version = format!("stark {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(stark.cli(&["--version"]).stdout, version);
}

#[test]
fn settings_come_from_the_command_line_before_the_environment_before_the_file() {
    let stark = Stark::prepare("[run]\nbuiltin = null\n[worker]\ncount = 2\n", "");
    let mut program = stark.program();
    program
        .env("STARK_WORKER__COUNT", "3")
        .arg("--print-config");
    let printed = run(program, b"").stdout;
    assert!(printed.contains("count = 3"), "{printed}");
    let mut program = stark.program();
    program.env("STARK_WORKER__COUNT", "3");
    program.args(["--print-config", "--set", "worker.count=4"]);
    let printed = run(program, b"").stdout;
    assert!(printed.contains("count = 4"), "{printed}");
    assert!(!stark.path("work").exists());
}

/// The address and the password are in the settings, so nobody has to type them.
#[test]
fn commands_find_the_daemon_by_its_socket_and_log_in() {
    let ini = "[main]\nunixsocket = t.sock\npassword = s3cret\n[run]\nbuiltin = null\n";
    let stark = Stark::start(ini, "");
    assert_eq!(stark.cli(&["ping"]).stdout, "PONG\n");
    // By TCP as well, and with the read-only password only what looks.
    let port = stark.port().to_string();
    let without = |line: &str| stark.write("t.ini", &ini.replace(line, ""));
    without("unixsocket = t.sock\n");
    assert_eq!(stark.cli(&["ping"]).stdout, "PONG\n");
    without("password = s3cret\n");
    let refused = stark.cli(&["info"]);
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(refused.stderr.contains("main.password"), "{refused:?}");
    stark.write("t.ini", &ini.replace("s3cret", "other"));
    let refused = stark.cli(&["info"]);
    assert_eq!(refused.status, 1, "{refused:?}");
    for text in [&refused.stderr, &refused.stdout, &stark.log()] {
        assert!(
            !text.contains("s3cret") && !text.contains("other"),
            "{text}"
        );
    }
    stark.write("t.ini", ini);
    assert_eq!(
        stark.port().to_string(),
        port,
        "it is still the same daemon"
    );
    stark.stop();
    assert!(!stark.path("t.sock").exists());
}
