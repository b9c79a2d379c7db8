//! The admin port spoken to by the libraries that people have: redis-py, phpredis, ioredis and redis-rs, each with
//! passwords, over TCP and over the Unix socket. Their scripts are in tests/clients/; each ends the daemon at last.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use redis::InfoDict;
use support::stark::{Ended, Stark, run};

const LOCKED: &str = "[main]\nunixsocket = admin.sock\npassword = steer\nreadonly_password = look\n[run]\nbuiltin = null\n\
                      [worker]\ncount = 2\n";

/// Lets the program speak with a daemon, which it has to end.
fn speaks(mut program: Command, script: &str) {
    let stark = Stark::start(LOCKED, "");
    let socket = stark.path("admin.sock");
    program
        .arg(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/clients")
                .join(script),
        )
        .args(["127.0.0.1", &stark.port().to_string()])
        .arg(&socket);
    let ended = run(program, b"");
    assert!(ended.status == 0 && ended.stdout == "ok\n", "{ended:?}");
    stark.assert_nothing_left();
    assert!(!socket.exists(), "the Unix socket is gone, too");
}

/// The first of these programs that does what the client needs.
fn program(candidates: &[&str], probe: &[&str], missing: &str) -> Command {
    let works = |name: &&&str| {
        let found = Command::new(name).args(probe).output();
        found.is_ok_and(|output| output.status.success())
    };
    let name = candidates.iter().find(works);
    Command::new(name.unwrap_or_else(|| panic!("{missing}")))
}

#[test]
fn redis_py_speaks_with_it() {
    // A python of one's own does not see the library of the system's.
    let python = program(
        &["python3", "/usr/bin/python3"],
        &["-c", "import redis"],
        "redis-py is missing: apt-get install python3-redis",
    );
    speaks(python, "client.py");
}

#[test]
fn phpredis_speaks_with_it() {
    let php = program(
        &["php"],
        &["-r", "exit(extension_loaded('redis') ? 0 : 1);"],
        "phpredis is missing: apt-get install php-cli php-redis",
    );
    speaks(php, "client.php");
}

#[test]
fn ioredis_speaks_with_it() {
    let modules = node_modules();
    assert!(
        modules.join("ioredis").is_dir(),
        "ioredis is missing: run scripts/clients.sh"
    );
    let missing = "node is missing: apt-get install nodejs";
    let mut node = program(&["node", "nodejs"], &["--version"], missing);
    node.env("NODE_PATH", modules);
    speaks(node, "client.cjs");
}

/// Where scripts/clients.sh puts them: beside what cargo makes.
fn node_modules() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
    target
        .expect("it is below the target directory")
        .join("clients/node_modules")
}

#[test]
fn redis_rs_speaks_with_it_in_both_versions() {
    let stark = Stark::start(LOCKED, "");
    let socket = stark.path("admin.sock");
    let (port, path) = (stark.port(), socket.display());
    let connect = |url: &str| redis::Client::open(url).unwrap().get_connection();
    for url in [
        format!("redis://:steer@127.0.0.1:{port}/0"),
        format!("redis://default:look@127.0.0.1:{port}/0?protocol=resp3"),
        format!("redis+unix://{path}?pass=steer"),
        format!("redis+unix://{path}?pass=look&protocol=resp3"),
    ] {
        let mut connection = connect(&url).unwrap_or_else(|err| panic!("{url}: {err}"));
        let pong: String = redis::cmd("PING").query(&mut connection).unwrap();
        assert_eq!(pong, "PONG");
        let info: InfoDict = redis::cmd("INFO").query(&mut connection).unwrap();
        assert_eq!(info.get::<String>("name").as_deref(), Some("t"), "{url}");
        let list: String = redis::cmd("CLIENT")
            .arg("LIST")
            .query(&mut connection)
            .unwrap();
        assert!(list.contains(" lib-name=redis-rs "), "{url}: {list}");
        let many = (0..1000).fold(redis::pipe(), |mut pipe, number: u32| {
            pipe.cmd("ECHO").arg(number);
            pipe
        });
        let answers: Vec<u32> = many.query(&mut connection).unwrap();
        assert!(answers.into_iter().eq(0..1000), "{url}");
        let unknown = redis::cmd("GET").arg("key").exec(&mut connection);
        assert_eq!(unknown.unwrap_err().code(), Some("ERR"));
        let steering = redis::cmd("SHUTDOWN").arg("NONSENSE").exec(&mut connection);
        let code = if url.contains("look") {
            "NOPERM"
        } else {
            "ERR"
        };
        assert_eq!(steering.unwrap_err().code(), Some(code), "{url}");
    }
    for wrong in ["redis://:no@127.0.0.1", "redis://root:steer@127.0.0.1"] {
        assert!(connect(&format!("{wrong}:{port}")).is_err());
    }
    let mut connection = connect(&format!("redis://:steer@127.0.0.1:{port}")).unwrap();
    redis::cmd("SHUTDOWN").exec(&mut connection).unwrap();
    stark.assert_nothing_left();
    assert!(!socket.exists(), "the Unix socket is gone, too");
}

#[test]
fn passwords_are_in_no_log_and_failed_ones_do_not_fill_it() {
    let ini = LOCKED
        .replace("steer", "secret-1")
        .replace("look", "secret-2")
        .replace("[run]", "log_level = trace\n[run]");
    let stark = Stark::start(&ini, "");
    let url = |password: &str| format!("redis://:{password}@127.0.0.1:{}", stark.port());
    let connect = |url: &str| redis::Client::open(url).unwrap().get_connection();
    for number in 0..50 {
        assert!(connect(&url(&format!("secret-of-{number}"))).is_err());
    }
    let mut connection = connect(&url("secret-1")).unwrap();
    connect(&url("secret-2")).unwrap();
    redis::cmd("SHUTDOWN").exec(&mut connection).unwrap();
    stark.assert_nothing_left();
    let refused = stark.log_lines("admin password refused");
    assert!((1..10).contains(&refused.len()), "{refused:?}");
    assert!(refused[0].contains("addr=127.0.0.1:"), "{refused:?}");
    let log = stark.log();
    assert!(!log.contains("secret"), "{log}");
}

#[test]
fn a_second_daemon_does_not_take_the_unix_socket_and_a_dead_ones_is_replaced() {
    let stark = Stark::start(LOCKED, "");
    let socket = stark.path("admin.sock");
    let other = Stark::prepare(LOCKED, "");
    let mut program = other.program();
    program.env("STARK_MAIN__UNIXSOCKET", &socket);
    let Ended { status, stderr, .. } = run(program, b"");
    assert_eq!(status, 69, "{stderr}");
    let what = format!("cannot listen on unix:{}: ", socket.display());
    assert!(stderr.contains(&what), "{stderr}");
    other.assert_nothing_left();
    stark.kill_tree();
    assert!(socket.exists(), "nobody could remove it");
    stark.start_again();
    let url = format!("redis+unix://{}?pass=steer", socket.display());
    let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
    redis::cmd("SHUTDOWN").exec(&mut connection).unwrap();
    stark.assert_nothing_left();
    assert!(!socket.exists());
}
