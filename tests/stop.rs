//! What `stark stop` promises a script: when it returns, the daemon is no more.

use std::fs;
use std::process::Command;

/// The state in `/proc/PID/stat`; none when there is no such process.
fn state_of(pid: &str) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[test]
fn when_stop_returns_the_process_has_ended_and_its_files_are_gone() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let ini = directory.path().join("t.ini");
    let text = format!(
        "[main]\nport = 0\nworking_dir = {}\n[run]\nbuiltin = null\n",
        directory.path().display()
    );
    fs::write(&ini, text).expect("a settings file");
    let stark = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stark"));
        let status = command.arg("-f").arg(&ini).args(arguments).status();
        assert!(status.expect("stark runs").success(), "{arguments:?}");
    };
    let run = directory.path().join("run");
    // The end is a matter of microseconds: one round could be lucky.
    for _ in 0..10 {
        stark(&[]);
        let pid = fs::read_to_string(run.join("t.pid")).expect("a pidfile");
        stark(&["stop"]);
        // An ended process stays a zombie until init has looked at it.
        assert!(matches!(state_of(pid.trim()), None | Some('Z')));
        assert_eq!(fs::read_dir(&run).expect("run/").count(), 0);
    }
}
