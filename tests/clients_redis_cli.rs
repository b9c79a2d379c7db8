//! The admin port spoken to by redis-cli in all its modes: at a prompt, in a pipe, as a monitor, with passwords.

mod support;

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use support::stark::{Ended, LIMIT, Stark, run, wait_for};

const LOCKED: &str = "[main]\nunixsocket = admin.sock\npassword = steer\nreadonly_password = look\n[run]\nbuiltin = null\n\
                      [worker]\ncount = 2\n";
const OPEN: &str = "[run]\nbuiltin = null\n[worker]\ncount = 2\n";

/// Runs redis-cli to its end.
fn redis_cli(arguments: &[&str], stdin: &str) -> Ended {
    let mut command = Command::new("redis-cli");
    command
        .args(arguments)
        .env("REDISCLI_HISTFILE", "/dev/null");
    run(command, stdin.as_bytes())
}

/// The same for a daemon's port; it has to end well.
fn ask(stark: &Stark, arguments: &[&str], stdin: &str) -> String {
    let port = stark.port().to_string();
    let ended = redis_cli(&[&["-p", port.as_str()], arguments].concat(), stdin);
    assert_eq!(ended.status, 0, "redis-cli must be installed: {ended:?}");
    ended.stdout
}

/// A program at a terminal of its own.
struct Terminal {
    program: Child,
    shown: Arc<Mutex<String>>,
}

impl Terminal {
    /// Starts redis-cli for a daemon's port.
    fn start(stark: &Stark, arguments: &str) -> Self {
        let port = stark.port();
        // Without a width redis-cli would ask the terminal for it, and nobody would answer.
        let line = format!("stty cols 200 rows 50; exec redis-cli -p {port} {arguments}");
        let mut program = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .env("REDISCLI_HISTFILE", "/dev/null")
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script is missing: apt-get install bsdutils");
        let shown = Arc::new(Mutex::new(String::new()));
        let mut output = program.stdout.take().expect("it is piped");
        let screen = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..count]);
                screen.lock().unwrap().push_str(&text);
            }
        });
        Self { program, shown }
    }

    /// Waits until this is shown, behind what was waited for before.
    fn wait_for(&self, text: &str) {
        wait_for(LIMIT, &format!("{text:?} on the terminal"), || {
            let mut shown = self.shown.lock().unwrap();
            let place = shown.find(text);
            if let Some(place) = place {
                shown.drain(..place + text.len());
            }
            place.is_some()
        });
    }

    fn type_line(&mut self, line: &str) {
        let keyboard = self.program.stdin.as_mut().expect("it is piped");
        keyboard.write_all(format!("{line}\r").as_bytes()).unwrap();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

#[test]
fn a_prompt_is_served_with_hints_help_and_answers() {
    let stark = Stark::start(OPEN, "");
    let mut terminal = Terminal::start(&stark, "");
    let prompt = format!("127.0.0.1:{}> ", stark.port());
    terminal.wait_for(&prompt);
    terminal.type_line("ping");
    terminal.wait_for("PONG");
    terminal.wait_for(&prompt);
    terminal.type_line("help client setname");
    // There are colours between them.
    for shown in [
        "CLIENT SETNAME",
        "connection-name",
        "Give this connection a name",
    ] {
        terminal.wait_for(shown);
    }
    terminal.wait_for(&prompt);
    // The hint for what is not typed yet.
    terminal.type_line("info cl");
    terminal.wait_for("[section [section ...]]");
    terminal.wait_for(&prompt);
    terminal.type_line("info clients");
    terminal.wait_for("connected_clients:1");
    terminal.wait_for(&prompt);
    terminal.type_line("hello 3");
    terminal.wait_for("\"proto\" => (integer) 3");
    terminal.wait_for(&prompt);
    terminal.type_line("client list");
    terminal.wait_for("cmd=client|list");
    terminal.wait_for(&prompt);
    terminal.type_line("quit");
    wait_for(LIMIT, "redis-cli ends", || {
        terminal.program.try_wait().unwrap().is_some()
    });
    stark.stop();
}

#[test]
fn its_monitors_run_on() {
    let stark = Stark::start(OPEN, "");
    let stat = Terminal::start(&stark, "--stat -i 0.1");
    stat.wait_for("keys       mem      clients blocked requests            connections");
    for _ in 0..3 {
        stat.wait_for("(+1)");
    }
    let latency = Terminal::start(&stark, "--latency");
    latency.wait_for("samples)");
    let history = Terminal::start(&stark, "--latency-history -i 0.1");
    history.wait_for("seconds range");
    let distribution = Terminal::start(&stark, "--latency-dist -i 0.1");
    distribution.wait_for("------");
    // Not at a terminal it is one line of numbers.
    let numbers = ask(&stark, &["--latency", "-i", "0.2"], "");
    let count = numbers
        .split_whitespace()
        .filter(|number| number.parse::<f64>().is_ok());
    assert_eq!(count.count(), 4, "{numbers}");
    drop((stat, latency, history, distribution));
    stark.stop();
}

#[test]
fn scripts_are_answered_line_by_line() {
    let stark = Stark::start(OPEN, "");
    assert_eq!(
        ask(
            &stark,
            &[],
            "ping\necho \"a b\"\nselect 0\nclient setname bob\nclient getname\n"
        ),
        "PONG\na b\nOK\nOK\nbob\n"
    );
    assert_eq!(ask(&stark, &["-r", "3", "ping"], ""), "PONG\nPONG\nPONG\n");
    assert_eq!(ask(&stark, &["-x", "echo"], "from stdin"), "from stdin\n");
    assert_eq!(ask(&stark, &["-n", "0", "ping"], ""), "PONG\n");
    assert_eq!(
        ask(&stark, &["--no-raw", "client", "getname"], ""),
        "(nil)\n"
    );
    assert_eq!(ask(&stark, &["--csv", "time"], "").matches('"').count(), 4);
    let piped = "*1\r\n$4\r\nPING\r\n".repeat(1000);
    let told = ask(&stark, &["--pipe"], &piped);
    assert!(told.contains("errors: 0, replies: 1000"), "{told}");
    stark.stop();
}

#[test]
fn resp3_shows_maps_and_texts() {
    let stark = Stark::start(OPEN, "");
    let hello = ask(&stark, &["-3", "--no-raw", "hello"], "");
    assert!(hello.contains("1# \"server\" => \"stark\""), "{hello}");
    let info = ask(&stark, &["-3", "--no-raw", "info", "clients"], "");
    assert!(
        info.starts_with("# Clients\r\nconnected_clients:1\r\n"),
        "{info}"
    );
    let list = ask(&stark, &["-3", "client", "list"], "");
    assert!(list.contains(" resp=3 "), "{list}");
    let docs = ask(&stark, &["-3", "--no-raw", "command", "docs", "client"], "");
    assert!(docs.contains("\"subcommands\" =>"), "{docs}");
    stark.stop();
}

#[test]
fn what_is_not_there_fails_cleanly() {
    let stark = Stark::start(OPEN, "");
    let port = stark.port().to_string();
    for mode in [
        "--bigkeys",
        "--memkeys",
        "--hotkeys",
        "--scan",
        "--functions-rdb",
        "--replica",
    ] {
        let mut arguments = vec!["-p", &port, mode];
        if mode == "--functions-rdb" {
            arguments.push("/dev/null");
        }
        let Ended { status, stderr, .. } = redis_cli(&arguments, "");
        assert_ne!(status, 0, "{mode}");
        assert!(stderr.to_lowercase().contains("err"), "{mode}: {stderr}");
    }
    let other = redis_cli(&["-p", &port, "-n", "1", "ping"], "");
    assert!(
        other.stderr.contains("DB index is out of range"),
        "{other:?}"
    );
    assert_eq!(ask(&stark, &["ping"], ""), "PONG\n");
    stark.stop();
}

#[test]
fn passwords_are_given_in_every_way_it_knows() {
    let stark = Stark::start(LOCKED, "");
    let port = stark.port().to_string();
    let socket = stark.path("admin.sock").display().to_string();
    let ping = |arguments: &[&str]| {
        let ended = redis_cli(&[arguments, &["ping"]].concat(), "");
        format!("{}{}", ended.stdout.trim_end(), ended.stderr)
    };
    let uri = |login: &str| format!("redis://{login}@127.0.0.1:{port}/0");
    for arguments in [
        vec!["-p", &port, "-a", "steer"],
        vec!["-p", &port, "-a", "look", "-3"],
        vec!["-p", &port, "--user", "default", "--pass", "steer"],
        vec!["-p", &port, "--user", "default", "--pass", "look", "-3"],
        vec!["-u", &uri("default:steer")],
        vec!["-s", &socket, "-a", "steer"],
        vec!["-s", &socket, "-a", "look", "-3"],
    ] {
        let quiet = [&arguments[..], &["--no-auth-warning"]].concat();
        assert_eq!(ping(&quiet), "PONG", "{arguments:?}");
    }
    assert!(ping(&["-p", &port]).starts_with("NOAUTH "));
    let wrong = ping(&["-p", &port, "-a", "no", "--no-auth-warning"]);
    assert!(
        wrong.contains("WRONGPASS") && !wrong.contains("PONG"),
        "{wrong}"
    );
    let told = ask(&stark, &[], "auth steer\nclient info\nreset\nclient info\n");
    assert!(
        told.contains("user=default") && told.contains("NOAUTH"),
        "{told}"
    );
    let steering = ["-a", "look", "--no-auth-warning", "shutdown"];
    assert!(ask(&stark, &steering, "").starts_with("NOPERM "));
    redis_cli(&["-s", &socket, "-a", "steer", "shutdown"], "");
    stark.assert_nothing_left();
}
