//! Starting: what is there when the starting command returns, and every reason for which a daemon refuses to start,
//! with its exit status and its message. A refused start leaves nothing.

mod support;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::process::Command;

use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use support::redis::Redis;
use support::stark::{Ended, LIMIT, Stark, is_alive, kill, queue, run, status, title, wait_for};

/// The ini with which the project began.
const SEED: &str = include_str!("support/seed.ini");

const PRINTS: &str = r#"<?php function run($worker, $data) { echo "got $data\n"; }"#;
const NULL: &str = "[run]\nbuiltin = null\n";
const SCRIPT: &str = "[run]\nscript_file = run.php\n";

/// An account without rights that every system has.
const NOBODY: u32 = 65534;

/// The start ends with this status and all these words, and nothing is left.
#[track_caller]
fn assert_refused(stark: &Stark, expected: i32, words: &[&str]) {
    let ended = stark.start_refused();
    assert_says(&ended, expected, words);
    stark.assert_nothing_left();
}

#[track_caller]
fn assert_says(ended: &Ended, expected: i32, words: &[&str]) {
    assert_eq!(ended.status, expected, "{ended:?}");
    for word in words {
        assert!(
            ended.stderr.contains(word),
            "{word:?} is missing: {ended:?}"
        );
    }
    // In the foreground the log comes first.
    let last = ended.stderr.lines().last();
    assert!(
        last.is_some_and(|line| line.starts_with("stark: ")),
        "{ended:?}"
    );
}

#[test]
fn the_seed_starts_works_answers_and_leaves_nothing() {
    let redis = Redis::start();
    let socket = format!("\"{}\"", redis.socket().display());
    let (main, queue) = SEED.split_once("[queue]").expect("it has a queue");
    let queue = queue.replace("\"127.0.0.1\"", &socket);
    let stark = Stark::start(&format!("{main}[queue]{queue}"), PRINTS);

    assert_eq!(stark.wait_for_log_times("worker ready", 4).len(), 4);
    let info = stark.info();
    assert_eq!(info["name"], "config");
    assert_eq!((&*info["worker_alive"], &*info["worker_max"]), ("4", "4"));
    assert_eq!(title(stark.pid()), "stark: config master");

    redis.push("test:redis", &["hello"]);
    stark.wait_for_log("got hello");
    stark.wait_for_figure("run_count", 1);

    assert_eq!(stark.cli(&["shutdown"]).stdout, "OK\n");
    stark.assert_nothing_left();
    assert!(stark.log_lines(" ERROR ").is_empty());
}

#[test]
fn the_starting_command_returns_when_all_workers_are_ready() {
    let script = "<?php function init($worker) { usleep(300000); } function run($worker, $data) {}";
    let redis = Redis::start();
    let ini = format!("{SCRIPT}[worker]\ncount = 3\n{}", queue(&redis, "jobs"));
    let stark = Stark::start(&ini, script);
    assert_eq!(stark.log_lines("worker ready").len(), 3);
    assert_eq!(stark.figure("worker_alive"), 3);
    stark.stop();
}

#[test]
fn the_daemon_is_free_of_the_terminal_and_directory_that_it_was_started_from() {
    let stark = Stark::start(NULL, "");
    let master = stark.pid();
    let directory = fs::read_link(format!("/proc/{master}/cwd")).unwrap();
    assert_eq!(directory.to_str(), Some("/"));
    let session = nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(master))).unwrap();
    assert_ne!(
        session.as_raw(),
        master,
        "a session's leader could get a terminal"
    );
    assert_ne!(Ok(session), nix::unistd::getsid(None));
    for descriptor in 0..3 {
        let target = fs::read_link(format!("/proc/{master}/fd/{descriptor}")).unwrap();
        assert_eq!(target.to_str(), Some("/dev/null"));
    }
    stark.stop();
}

/// `stark -f t.ini` as another program starts it.
fn started_by(starter: &[&str], stark: &Stark) -> Command {
    let program = stark.program();
    let mut command = Command::new(starter[0]);
    command
        .args(&starter[1..])
        .arg(program.get_program())
        .args(program.get_args());
    for (name, value) in program.get_envs() {
        command.env(name, value.expect("it is set"));
    }
    command
}

#[test]
fn what_the_starting_command_had_open_is_not_held_by_the_daemon() {
    let stark = Stark::prepare(NULL, "");
    let lock = stark.path("lock");
    let shell = [
        "sh",
        "-c",
        "exec 7>\"$0\"; exec \"$@\"",
        lock.to_str().unwrap(),
    ];
    assert_eq!(run(started_by(&shell, &stark), b"").status, 0);
    let descriptors = fs::read_dir(format!("/proc/{}/fd", stark.pid())).unwrap();
    let held = descriptors
        .flatten()
        .filter_map(|fd| fs::read_link(fd.path()).ok());
    assert!(held.into_iter().all(|target| target != lock));
    stark.stop();
}

#[test]
fn in_the_foreground_it_stays_and_logs_to_stderr() {
    let mut stark = Stark::start_in_foreground(NULL, "");
    assert!(stark.read("stderr.log").contains("worker ready"));
    assert!(!stark.path("work/logs").exists());
    kill(stark.pid(), Signal::SIGTERM);
    assert_eq!(stark.wait_for_exit(), 0);
    stark.assert_nothing_left();
}

#[test]
fn in_the_foreground_a_refused_start_has_the_same_status_and_words() {
    let stark = Stark::prepare(SCRIPT, "<?php function run( {");
    assert_says(&stark.cli(&["-F"]), 69, &["run.php:1"]);
    stark.assert_nothing_left();
}

#[test]
fn of_ten_starts_at_once_exactly_one_wins_and_the_others_name_it() {
    let stark = Stark::prepare("[run]\nbuiltin = null\n[worker]\ncount = 2\n", "");
    let ended: Vec<Ended> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..10).map(|_| scope.spawn(|| stark.cli(&[]))).collect();
        let joined = starts.into_iter().map(|start| start.join());
        joined.map(|ended| ended.expect("no panic")).collect()
    });
    let winners = ended.iter().filter(|ended| ended.status == 0).count();
    assert_eq!(winners, 1, "{ended:?}");
    let winner = format!("already running, pid {}\n", stark.pid());
    for ended in ended.iter().filter(|ended| ended.status != 0) {
        assert_says(ended, 75, &[&winner]);
    }
    assert_eq!(
        stark.figure("worker_alive"),
        2,
        "the losers disturbed nothing"
    );
    stark.stop();
}

#[test]
fn a_port_in_use_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let stark = Stark::prepare(NULL, "");
    let ended = stark.cli(&["--set", &format!("main.port={port}")]);
    assert_says(
        &ended,
        69,
        &[&format!("cannot listen on 127.0.0.1:{port}: ")],
    );
    stark.assert_nothing_left();
}

#[test]
fn a_working_directory_that_cannot_be_written_is_refused() {
    let stark = Stark::prepare(NULL, "");
    let work = stark.path("work");
    fs::create_dir(&work).unwrap();
    fs::set_permissions(&work, fs::Permissions::from_mode(0o555)).unwrap();
    let ended = run(as_ordinary_user(&stark), b"");
    assert_says(
        &ended,
        73,
        &["cannot write to directory", &work.to_string_lossy()],
    );
    stark.assert_nothing_left();
}

/// `stark -f t.ini` as somebody for whom permissions count: for root, as nobody and with a copy of the program, since
/// nobody may not look where it was built.
fn as_ordinary_user(stark: &Stark) -> Command {
    let program = stark.program();
    if !geteuid().is_root() {
        return program;
    }
    let copy = stark.path("stark");
    fs::copy(program.get_program(), &copy).unwrap();
    let public = fs::Permissions::from_mode(0o755);
    fs::set_permissions(stark.path("."), public).unwrap();
    let mut command = Command::new("setpriv");
    command
        .args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")])
        .arg("--clear-groups")
        .arg(copy)
        .args(program.get_args());
    for (name, value) in program.get_envs() {
        command.env(name, value.expect("it is set"));
    }
    command
}

#[test]
fn a_limit_too_low_for_all_workers_is_told_and_not_waited_out() {
    let stark = Stark::prepare("[run]\nbuiltin = null\n[worker]\ncount = 60\n", "");
    assert_says(
        &run(started_by(&["prlimit", "--nofile=40"], &stark), b""),
        69,
        &["cannot start worker pool=t slot=", "Too many open files"],
    );
    stark.assert_nothing_left();
}

#[test]
fn a_directory_in_which_others_could_plant_files_is_refused() {
    let stark = Stark::prepare(NULL, "");
    let work = stark.path("work");
    fs::create_dir(&work).unwrap();
    fs::set_permissions(&work, fs::Permissions::from_mode(0o777)).unwrap();
    assert_refused(
        &stark,
        77,
        &[&work.to_string_lossy(), "others may write to it"],
    );
    // As /tmp is: others may write, but not replace what is ours.
    fs::set_permissions(&work, fs::Permissions::from_mode(0o1777)).unwrap();
    stark.start_again();
    stark.stop();
}

#[test]
fn a_directory_of_another_user_or_behind_a_link_is_refused() {
    let stark = Stark::prepare(NULL, "");
    fs::create_dir_all(stark.path("work/run")).unwrap();
    if geteuid().is_root() {
        chown(stark.path("work/run"), Some(NOBODY), None).unwrap();
        assert_refused(&stark, 77, &["work/run", "belongs to user 65534"]);
    } else {
        // Only root can give a directory away: this one refuses us because it is a link, which may lead anywhere.
        fs::remove_dir(stark.path("work/run")).unwrap();
        symlink("/tmp", stark.path("work/run")).unwrap();
        assert_says(
            &stark.start_refused(),
            77,
            &["work/run", "it is no directory"],
        );
    }
}

#[test]
fn a_script_with_a_syntax_error_is_refused_with_phps_words() {
    let redis = Redis::start();
    let ini = format!("{SCRIPT}[worker]\ncount = 4\n{}", queue(&redis, "jobs"));
    let stark = Stark::prepare(
        &ini,
        "<?php\nfunction run($worker, $data) {\n  return 1 +;\n}\n",
    );
    assert_refused(&stark, 69, &["unexpected token \";\"", "run.php:3"]);
}

#[test]
fn a_script_whose_init_throws_is_refused_with_its_words() {
    let script = "<?php\nfunction run($worker, $data) {}\nfunction init($worker) {\n  throw new RuntimeException('no database');\n}\n";
    let stark = Stark::prepare(&format!("{SCRIPT}[worker]\ncount = 4\n"), script);
    assert_refused(&stark, 69, &["no database", "run.php:4"]);
}

#[test]
fn a_script_without_run_is_refused() {
    let stark = Stark::prepare(SCRIPT, "<?php function walk($worker, $data) {}");
    assert_refused(&stark, 69, &["run"]);
}

#[test]
fn a_script_that_is_not_there_is_a_mistake_of_the_settings() {
    let stark = Stark::prepare(SCRIPT, "");
    assert_refused(&stark, 78, &["t.ini:2: ", "run.script_file", "run.php"]);
}

#[test]
fn all_mistakes_of_the_settings_are_told_at_once_with_their_lines() {
    let stark = Stark::prepare(
        "[run]\nbuiltin = nul\n[worker]\ncuont = 4\ncount = many\n[mian]\n",
        "",
    );
    assert_refused(
        &stark,
        78,
        &[
            "t.ini:2: run.builtin",
            "t.ini:4: worker.cuont: unknown key; did you mean worker.count?",
            "t.ini:5: worker.count",
            "t.ini:6: ",
        ],
    );
    assert!(!stark.path("work").exists(), "settings come before files");
}

#[test]
fn a_stale_pidfile_is_no_obstacle_even_if_its_pid_lives() {
    let stark = Stark::prepare(NULL, "");
    let run = stark.path("work/run");
    fs::create_dir_all(&run).unwrap();
    fs::write(run.join("t.pid"), format!("{}\n", std::process::id())).unwrap();
    assert_eq!(
        stark.cli(&["status"]).status,
        3,
        "a foreign pid is not believed"
    );
    stark.start_again();
    assert_ne!(stark.pid(), std::process::id() as i32);
    stark.stop();
    assert!(is_alive(std::process::id() as i32));
}

#[test]
fn a_pidfile_that_cannot_be_written_is_not_left_behind() {
    let stark = Stark::prepare(NULL, "");
    // Every write to a file fails, as on a full disk.
    let shell = ["sh", "-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\""];
    let ended = run(started_by(&shell, &stark), b"");
    assert_says(&ended, 73, &["cannot lock pidfile", "File too large"]);
    stark.assert_nothing_left();
}

#[test]
fn a_pidfile_that_is_a_link_is_refused_and_its_target_left_alone() {
    let stark = Stark::prepare(NULL, "");
    let pidfile = stark.path("work/run/t.pid");
    fs::create_dir_all(stark.path("work/run")).unwrap();
    stark.write("precious", "do not touch\n");
    symlink(stark.path("precious"), &pidfile).unwrap();
    assert_says(
        &stark.start_refused(),
        73,
        &["cannot lock pidfile", "t.pid"],
    );
    assert_eq!(stark.read("precious"), "do not touch\n");
    assert!(pidfile.is_symlink());
}

#[test]
fn files_of_a_newer_version_are_refused_and_left_alone() {
    let stark = Stark::start(NULL, "");
    stark.stop();
    let board = stark.path("work/data/t.board");
    let good = fs::read(&board).unwrap();
    let mut newer = good.clone();
    newer[8] = 99;
    fs::write(&board, &newer).unwrap();
    assert_refused(
        &stark,
        73,
        &["t.board", "version 99", "run the stark that wrote it"],
    );
    assert!(fs::read(&board).unwrap() == newer);

    fs::write(&board, &good).unwrap();
    fs::write(stark.path("work/data/t.node"), "stark-node/2\nnode=abc\n").unwrap();
    assert_refused(&stark, 73, &["t.node", "run the stark that wrote it"]);
}

#[test]
fn a_worker_that_cannot_take_its_slot_says_why() {
    let stark = Stark::prepare(NULL, "");
    stark.start_again();
    stark.stop();
    fs::remove_dir_all(stark.path("work/data/t.progress")).unwrap();
    fs::write(stark.path("work/data/t.progress"), "").unwrap();
    assert_refused(&stark, 69, &["cannot take slot: ", "data/t.progress"]);
}

#[test]
fn a_file_that_is_no_scoreboard_is_refused_and_left_alone() {
    let stark = Stark::prepare(NULL, "");
    fs::create_dir_all(stark.path("work/data")).unwrap();
    stark.write("work/data/t.board", "something of somebody's");
    assert_refused(&stark, 73, &["t.board", "not a scoreboard"]);
    assert_eq!(stark.read("work/data/t.board"), "something of somebody's");
}

#[test]
fn a_log_on_a_full_disk_stops_nobody() {
    let redis = Redis::start();
    let script =
        "<?php function run($worker, $data) { file_put_contents('ran', $data); echo $data; }";
    let ini = format!(
        "[main]\nlog_file = /dev/full\n{SCRIPT}{}",
        queue(&redis, "jobs")
    );
    let stark = Stark::start(&ini, script);
    redis.push("jobs", &["hello"]);
    stark.wait_for_figure("run_count", 1);
    assert_eq!(stark.read("ran"), "hello");
    stark.stop();
}

#[test]
fn without_redis_it_starts_warns_waits_and_works_when_redis_comes() {
    let mut redis = Redis::start();
    redis.stop();
    let ini = format!("{SCRIPT}[worker]\ncount = 2\n{}", queue(&redis, "jobs"));
    let stark = Stark::start(&ini, PRINTS);
    let line = stark.wait_for_log("redis unavailable");
    assert!(line.contains(" WARN "), "{line}");
    assert_eq!(stark.figure("worker_alive"), 2);
    redis.restart();
    redis.push("jobs", &["hello"]);
    stark.wait_for_log("got hello");
    stark.wait_for_log("redis back");
    stark.stop();
}

#[test]
fn a_key_that_is_no_list_is_refused() {
    let redis = Redis::start();
    redis::cmd("SET")
        .arg("jobs")
        .arg("text")
        .exec(&mut redis.connect())
        .unwrap();
    let stark = Stark::prepare(&format!("{NULL}{}", queue(&redis, "jobs")), "");
    assert_refused(&stark, 69, &["cannot use key jobs", "WRONGTYPE"]);
}

#[test]
fn a_key_that_becomes_something_else_is_an_outage_of_two_lines() {
    let redis = Redis::start();
    let mut connection = redis.connect();
    let stark = Stark::start(&format!("{SCRIPT}{}", queue(&redis, "jobs")), PRINTS);
    // The keeper looks when somebody is idle.
    stark.wait_for_figure("worker_idle", 1);
    redis::cmd("SET")
        .arg("jobs")
        .arg("text")
        .exec(&mut connection)
        .unwrap();
    stark.wait_for_log(" ERROR ");
    // The keeper and the worker have come back several times by then.
    let met = connections(&mut connection);
    wait_for(LIMIT, "new connections", || {
        connections(&mut connection) >= met + 6
    });
    redis::cmd("DEL").arg("jobs").exec(&mut connection).unwrap();
    redis.push("jobs", &["hello"]);
    stark.wait_for_log("got hello");
    stark.wait_for_log("redis back");
    let said = stark.log_lines(" ERROR ");
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(stark.log_lines("redis back").len(), 1);
    stark.stop();
}

/// Clients that the server has met.
fn connections(connection: &mut redis::Connection) -> u64 {
    let info: redis::InfoDict = redis::cmd("INFO").query(connection).unwrap();
    info.get("total_connections_received").unwrap()
}

#[test]
fn started_as_root_it_becomes_the_user_and_anybody_else_is_refused() {
    if !geteuid().is_root() {
        let stark = Stark::prepare(&format!("[main]\nuser = root\n{NULL}"), "");
        return assert_refused(&stark, 77, &["cannot become user \"root\""]);
    }
    let user = nix::unistd::User::from_uid(NOBODY.into()).unwrap();
    let user = user.expect("65534 has a name").name;
    let stark = Stark::prepare(&format!("[main]\nuser = {user}\n{NULL}"), "");
    fs::set_permissions(stark.path("."), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(stark.path("work")).unwrap();
    chown(stark.path("work"), Some(NOBODY), Some(NOBODY)).unwrap();
    stark.start_again();
    let ids = format!("{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}");
    let everybody = stark.processes();
    assert_eq!(everybody.len(), 3, "master, logger and worker");
    for pid in everybody {
        assert_eq!(
            (status(pid, "Uid"), status(pid, "Gid")),
            (ids.clone(), ids.clone())
        );
    }
    let files = [
        "work/run/t.pid",
        "work/run/t.port",
        "work/data/t.board",
        "work/data/t.node",
    ];
    for file in files {
        let meta = fs::metadata(stark.path(file)).unwrap();
        assert_eq!(
            (meta.uid(), meta.mode() & 0o7777),
            (NOBODY, 0o640),
            "{file}"
        );
    }
    stark.stop();
}

#[test]
fn what_it_creates_is_closed_to_others() {
    let stark = Stark::start(NULL, "");
    wait_for(LIMIT, "a log", || !stark.log().is_empty());
    let mut directories = vec![stark.path("work")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            let mode = entry.metadata().unwrap().mode() & 0o7777;
            let path = entry.path();
            if path.is_dir() {
                assert_eq!(mode, 0o750, "{path:?}");
                directories.push(path);
            } else {
                assert_eq!(mode & 0o027, 0, "{path:?} {mode:o}");
            }
        }
    }
    stark.stop();
}

#[test]
fn signals_for_a_running_daemon_do_not_kill_one_that_starts() {
    for _ in 0..5 {
        let stark = Stark::prepare("[run]\nbuiltin = null\n", "");
        let stderr = std::fs::File::create(stark.path("stderr.log")).expect("a file");
        let mut daemon = stark
            .program()
            .arg("-F")
            .stdin(std::process::Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("stark runs");
        let pid = format!("{}\n", daemon.id());
        wait_for(LIMIT, "ready", || {
            if stark.read("work/run/t.pid") == pid {
                kill(daemon.id() as i32, Signal::SIGUSR1);
                kill(daemon.id() as i32, Signal::SIGHUP);
            }
            assert_eq!(daemon.try_wait().expect("our child"), None, "it goes on");
            stark.read("stderr.log").contains("master ready")
        });
        assert_eq!(stark.cli(&["stop"]).status, 0);
        assert!(daemon.wait().expect("our child").success());
    }
}
