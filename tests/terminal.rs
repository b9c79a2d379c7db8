//! What is shown on a terminal and nowhere else: the table of `status`, its colours, and the progress of a push.

mod support;

use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;

use nix::pty::openpty;
use support::redis::Redis;
use support::stark::{Stark, queue};

const NULL: &str = "[run]\nbuiltin = null\n";

/// Runs a command with stdout or stderr, as `attach` has it, on a terminal; what the terminal was told.
fn on_terminal(mut command: Command, attach: impl FnOnce(&mut Command, Stdio)) -> String {
    let pty = openpty(None, None).expect("the kernel has terminals");
    command.env("TERM", "xterm").env_remove("NO_COLOR");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    attach(&mut command, Stdio::from(pty.slave));
    let reader = thread::spawn(move || {
        let mut told = Vec::new();
        // The kernel ends a terminal that nobody has open any more with EIO.
        let _ = File::from(pty.master).read_to_end(&mut told);
        String::from_utf8(told).expect("UTF-8")
    });
    assert!(command.status().expect("it runs").success());
    // It holds the terminal open until here.
    drop(command);
    reader.join().expect("no panic")
}

fn status(stark: &Stark, variable: (&str, &str)) -> String {
    let mut program = stark.program();
    program.arg("status");
    on_terminal(program, |command, terminal| {
        command.stdout(terminal).env(variable.0, variable.1);
    })
}

#[test]
fn status_is_a_table_in_colour_unless_the_user_wants_none() {
    let redis = Redis::start();
    let stark = Stark::start(&format!("{NULL}{}", queue(&redis, "jobs")), "");
    let coloured = status(&stark, ("LANG", "C"));
    assert!(coloured.contains("\x1b["), "{coloured:?}");
    for (name, value) in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let plain = status(&stark, (name, value));
        assert!(!plain.contains('\x1b'), "{name}: {plain:?}");
        let lines: Vec<&str> = plain.lines().collect();
        assert!(lines[0].starts_with("t: running for "), "{plain}");
        assert!(
            lines.iter().any(|line| line.starts_with("QUEUE  STATE")),
            "{plain}"
        );
        let worker = lines.last().expect("lines");
        let cells: Vec<&str> = worker.split_whitespace().collect();
        let pid = stark.worker_pids()[0].to_string();
        assert_eq!(cells[..3], ["t", "0", &*pid], "{plain}");
    }
    assert!(
        status(&stark, ("NO_COLOR", "")).contains("\x1b["),
        "an empty one means nothing"
    );
    stark.stop();
}

#[test]
fn a_push_from_a_file_shows_how_far_it_is_and_one_from_arguments_nothing() {
    let redis = Redis::start();
    let stark = Stark::prepare(&format!("{NULL}{}", queue(&redis, "jobs")), "");
    let lines: String = (0..5000).map(|number| format!("{number}\n")).collect();
    stark.write("jobs", &lines);
    let mut program = stark.program();
    program.args(["push", "-"]);
    let told = on_terminal(program, |command, terminal| {
        let file = File::open(stark.path("jobs")).expect("written above");
        command.stdin(file).stderr(terminal);
    });
    for word in [" jobs", "/s", "%", "left"] {
        assert!(told.contains(word), "{word}: {told:?}");
    }
    assert!(
        told.ends_with("\x1b[2K") || told.ends_with("\x1b[1G"),
        "cleared: {told:?}"
    );

    let mut program = stark.program();
    program.args(["push", "x"]);
    let told = on_terminal(program, |command, terminal| {
        command.stderr(terminal);
    });
    assert_eq!(told, "");
}

#[test]
fn a_push_from_a_pipe_has_no_end_to_count_towards() {
    let redis = Redis::start();
    let stark = Stark::prepare(&format!("{NULL}{}", queue(&redis, "jobs")), "");
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    thread::spawn(move || {
        use std::io::Write;
        let _ = writer.write_all("job\n".repeat(3000).as_bytes());
    });
    let mut program = stark.program();
    program.args(["push", "-"]);
    let told = on_terminal(program, |command, terminal| {
        command.stdin(reader).stderr(terminal);
    });
    assert!(told.contains(" jobs  "), "{told:?}");
    assert!(!told.contains('%') && !told.contains("left"), "{told:?}");
}
