//! A daemon of the test's own, the real program: started in the background or in the foreground, in a fresh directory
//! with its ini and its script, on a port that the kernel chooses.
//!
//! Nothing of it outlives the test: on drop every process that has its directory open is killed. When the test failed,
//! the end of the log is printed.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use stark::resp::{self, Reply, ReplyDecoder};
use tempfile::TempDir;

use super::redis::Redis;

/// Within this time happens whatever should; only a failing test waits so long.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Lines of the log that a failing test shows.
const TAIL_LINES: usize = 60;

/// A daemon, running or not.
pub struct Stark {
    directory: TempDir,
    foreground: Option<Child>,
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its exit status; 128 and the signal's number when a signal ended it.
    pub status: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl Stark {
    /// Starts a daemon in the background; it is ready on return.
    pub fn start(ini: &str, script: &str) -> Self {
        let stark = Self::prepare(ini, script);
        stark.start_again();
        stark
    }

    /// Starts a daemon in the foreground, and waits until it is ready.
    pub fn start_in_foreground(ini: &str, script: &str) -> Self {
        let mut stark = Self::prepare(ini, script);
        stark.foreground = Some(stark.spawn_in_foreground());
        stark.wait_for_log("master ready");
        stark
    }

    /// Writes `t.ini` and, if it is not empty, `run.php`; starts nothing. Port and working directory are set by the
    /// environment, so the ini needs no `[main]`.
    pub fn prepare(ini: &str, script: &str) -> Self {
        let stark = Self {
            directory: TempDir::new().expect("a temporary directory"),
            foreground: None,
        };
        stark.write("t.ini", ini);
        if !script.is_empty() {
            stark.write("run.php", script);
        }
        stark
    }

    /// Starts it in the background, the first time or after its end.
    pub fn start_again(&self) {
        let ended = self.cli(&[]);
        assert_eq!(ended.status, 0, "stark starts: {ended:?}");
    }

    /// Starts what must not start.
    pub fn start_refused(&self) -> Ended {
        let ended = self.cli(&[]);
        assert_ne!(ended.status, 0, "stark refuses to start: {ended:?}");
        ended
    }

    /// Runs `stark -f t.ini` with more arguments.
    pub fn cli(&self, arguments: &[&str]) -> Ended {
        self.cli_with_stdin(arguments, b"")
    }

    /// The same, with something to read.
    pub fn cli_with_stdin(&self, arguments: &[&str], stdin: &[u8]) -> Ended {
        let mut command = self.program();
        command.args(arguments);
        run(command, stdin)
    }

    /// `stark -f t.ini`, ready to be given more arguments or another environment.
    pub fn program(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stark"));
        command
            .arg("-f")
            .arg(self.path("t.ini"))
            .env("STARK_MAIN__PORT", "0")
            .env("STARK_MAIN__WORKING_DIR", self.path("work"));
        command
    }

    fn spawn_in_foreground(&self) -> Child {
        let stderr = File::create(self.path("stderr.log")).expect("a log");
        self.program()
            .arg("-F")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("stark runs")
    }

    /// Begins a command and does not wait for its end.
    pub fn begin(&self, arguments: &[&str]) -> Child {
        let mut program = self.program();
        program.args(arguments).stdin(Stdio::null());
        program.spawn().expect("stark runs")
    }

    /// The exit status of a daemon in the foreground, once it has ended.
    pub fn wait_for_exit(&mut self) -> i32 {
        let child = self.foreground.as_mut().expect("it is in the foreground");
        let mut status = None;
        wait_for(LIMIT, "stark ends", || {
            status = child.try_wait().expect("it is our child");
            status.is_some()
        });
        status_of(status.expect("it has ended"))
    }

    /// A file beside the ini.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file beside the ini.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("the directory is ours");
    }

    /// A file beside the ini, e.g. one that the script writes; empty as long as there is none.
    pub fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.path(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The text of the log: of the days' files, or of another `.log` beside the ini.
    pub fn log(&self) -> String {
        let mut files = with_extension(&self.path("work/logs"), "log");
        files.extend(with_extension(self.directory.path(), "log"));
        let texts = files.iter().map(|file| fs::read(file).unwrap_or_default());
        texts
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .collect()
    }

    /// The first line of the log with this text, as soon as there is one.
    pub fn wait_for_log(&self, text: &str) -> String {
        self.wait_for_log_times(text, 1).swap_remove(0)
    }

    /// The lines of the log with this text, as soon as there are so many.
    pub fn wait_for_log_times(&self, text: &str, times: usize) -> Vec<String> {
        let mut lines = Vec::new();
        wait_for(LIMIT, &format!("{times} x {text:?} in the log"), || {
            lines = self.log_lines(text);
            lines.len() >= times
        });
        lines
    }

    /// The lines of the log with this text.
    pub fn log_lines(&self, text: &str) -> Vec<String> {
        let log = self.log();
        let lines = log.lines().filter(|line| line.contains(text));
        lines.map(String::from).collect()
    }

    /// The master's pid, from the pidfile.
    pub fn pid(&self) -> i32 {
        self.number_in_run("pid")
    }

    /// The admin port.
    pub fn port(&self) -> u16 {
        self.number_in_run("port") as u16
    }

    fn number_in_run(&self, extension: &str) -> i32 {
        let files = with_extension(&self.path("work/run"), extension);
        let file = files
            .first()
            .unwrap_or_else(|| panic!("run/ has a .{extension}"));
        let text = fs::read_to_string(file).expect("it can be read");
        text.trim().parse().expect("it holds a number")
    }

    /// Sends a command to the admin port, and returns the reply.
    pub fn command(&self, words: &[&str]) -> Reply {
        ask(self.port(), words)
    }

    /// The fields of `INFO`.
    pub fn info(&self) -> BTreeMap<String, String> {
        let Reply::Bulk(text) = self.command(&["INFO"]) else {
            panic!("INFO is one bulk string");
        };
        let text = String::from_utf8_lossy(&text).into_owned();
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        fields
            .map(|(name, value)| (name.to_string(), value.trim_end().to_string()))
            .collect()
    }

    /// A field of `INFO` that is a whole number.
    pub fn figure(&self, name: &str) -> u64 {
        let info = self.info();
        let value = info
            .get(name)
            .unwrap_or_else(|| panic!("INFO has {name}: {info:?}"));
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is a number: {value}"))
    }

    /// Waits until a field of `INFO` is this number.
    pub fn wait_for_figure(&self, name: &str, value: u64) {
        wait_for_value(LIMIT, &format!("{name} in INFO"), value, || {
            self.figure(name)
        });
    }

    /// Waits until it has begun to stop.
    pub fn wait_for_draining(&self) {
        let state = || self.info().get("state").cloned();
        wait_for_value(LIMIT, "state", Some("draining".into()), state);
    }

    /// The fields of a worker's line in `INFO`, by its number.
    pub fn worker(&self, number: usize) -> BTreeMap<String, String> {
        let info = self.info();
        let line = info
            .get(&format!("worker{number}"))
            .unwrap_or_else(|| panic!("INFO has worker{number}: {info:?}"));
        let fields = line.split(',').filter_map(|field| field.split_once('='));
        fields
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect()
    }

    /// The pids of the workers that live, in the order of their numbers.
    pub fn worker_pids(&self) -> Vec<i32> {
        let info = self.info();
        let count: usize = info["worker_max"].parse().expect("a number");
        let pids = (0..count).filter_map(|number| {
            let line = info.get(&format!("worker{number}"))?;
            let pid = line.split(',').find_map(|field| field.strip_prefix("pid="));
            pid?.parse().ok().filter(|pid| *pid > 0)
        });
        pids.collect()
    }

    /// The living processes of this daemon and its scripts, by the files and the directory that they have open. Those
    /// of a master that was killed are found, too.
    pub fn processes(&self) -> Vec<i32> {
        let directory = self.directory.path();
        all_pids().filter(|pid| has_open(*pid, directory)).collect()
    }

    /// Stops it by `stark stop`; nothing of it is left.
    pub fn stop(&self) {
        let ended = self.cli(&["stop"]);
        assert_eq!(ended.status, 0, "stark stops: {ended:?}");
        self.assert_nothing_left();
    }

    /// No process, no pidfile, no port file, no socket, as soon as the last process has ended.
    pub fn assert_nothing_left(&self) {
        wait_for_value(LIMIT, "processes left", vec![], || self.described());
        let run = self.path("work/run");
        let files: Vec<_> = fs::read_dir(&run).into_iter().flatten().flatten().collect();
        assert!(files.is_empty(), "left in run/: {files:?}");
    }

    fn described(&self) -> Vec<String> {
        let pids = self.processes();
        let describe = |pid: i32| format!("{pid} {}", title(pid));
        pids.into_iter().map(describe).collect()
    }

    /// Kills everything, as a power loss would.
    pub fn kill_tree(&self) {
        wait_for_value(LIMIT, "processes left", vec![], || {
            let pids = self.processes();
            pids.iter().for_each(|pid| kill(*pid, Signal::SIGKILL));
            pids
        });
    }
}

impl Drop for Stark {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
            eprintln!("--- end of stark's log\n{}\n---", tail.join("\n"));
        }
        // Not kill_tree: a panic while the test panics would hide its message.
        let begin = Instant::now();
        while begin.elapsed() < LIMIT {
            let pids = self.processes();
            if pids.is_empty() {
                break;
            }
            pids.iter().for_each(|pid| kill(*pid, Signal::SIGKILL));
            std::thread::sleep(Duration::from_millis(2));
        }
        if let Some(child) = &mut self.foreground {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The `[queue]` section for a private server, with this key.
pub fn queue(redis: &Redis, key: &str) -> String {
    let socket = redis.socket();
    format!(
        "[queue]\nurl = redis+unix://{}\nkey = {key}\n",
        socket.display()
    )
}

/// Sends a command to a daemon's admin port, and returns the reply.
pub fn ask(port: u16, words: &[&str]) -> Reply {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the admin port listens");
    stream.set_read_timeout(Some(LIMIT)).expect("it is no zero");
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let mut command = Vec::new();
    resp::encode_command(&mut command, &words);
    stream.write_all(&command).expect("the daemon reads");
    let mut decoder = ReplyDecoder::new(16 << 20);
    loop {
        if let Some(reply) = decoder.next_reply().expect("a reply") {
            return reply;
        }
        let count = stream.read(decoder.space(64 << 10)).expect("a reply");
        assert!(count > 0, "the daemon closed the connection without reply");
        decoder.filled(count);
    }
}

/// Runs a command to its end, which must come within the limit.
pub fn run(mut command: Command, stdin: &[u8]) -> Ended {
    let (sender, receiver) = mpsc::channel();
    let shown = format!("{command:?}");
    let stdin = stdin.to_vec();
    std::thread::spawn(move || {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        // It need not read all of it.
        let _ = child.stdin.take().expect("piped").write_all(&stdin);
        let _ = sender.send(child.wait_with_output());
    });
    let output = receiver
        .recv_timeout(2 * LIMIT)
        .unwrap_or_else(|_| panic!("{shown} does not end"))
        .expect("its output can be read");
    Ended {
        status: status_of(output.status),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn status_of(status: std::process::ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Waits until the condition holds, and panics with `what` when it does not within the limit.
#[track_caller]
pub fn wait_for(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(
            begin.elapsed() < limit,
            "waited {} s in vain: {what}",
            limit.as_secs()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until `measure` is what is expected, and panics with the last value when it does not become so.
#[track_caller]
pub fn wait_for_value<T: PartialEq + Debug>(
    limit: Duration,
    what: &str,
    expected: T,
    mut measure: impl FnMut() -> T,
) {
    let begin = Instant::now();
    loop {
        let value = measure();
        if value == expected {
            return;
        }
        assert!(
            begin.elapsed() < limit,
            "waited {} s in vain: {what}: expected {expected:?}, it is {value:?}",
            limit.as_secs()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal; a process that has just ended needs none.
pub fn kill(pid: i32, signal: Signal) {
    match nix::sys::signal::kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(err) => panic!("cannot send {signal} to {pid}: {err}"),
    }
}

/// Whether a process exists and has not ended; a zombie has.
pub fn is_alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| state != 'Z' && state != 'X')
}

/// The letter of /proc/PID/stat: `S` sleeping, `T` stopped, `Z` ended and not reaped.
pub fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold spaces and parentheses.
    stat[stat.rfind(')')? + 1..].trim_start().chars().next()
}

/// A line of /proc/PID/status, e.g. `PPid`.
pub fn status(pid: i32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.expect("the kernel has the field").trim().to_string()
}

/// What `ps` shows.
pub fn title(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).replace('\0', " ");
    text.trim_end().to_string()
}

/// All processes of the machine.
pub fn all_pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").expect("Linux").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The children of a process, zombies among them.
pub fn children(pid: i32) -> Vec<i32> {
    let parent_of = |pid: i32| -> Option<i32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let rest = &stat[stat.rfind(')')? + 1..];
        rest.split_whitespace().nth(1)?.parse().ok()
    };
    all_pids()
        .filter(|child| parent_of(*child) == Some(pid))
        .collect()
}

/// Whether a process works in the directory or has one of its files mapped, as everything of a daemon has.
fn has_open(pid: i32, directory: &Path) -> bool {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    fs::read_link(proc.join("cwd")).is_ok_and(|cwd| cwd.starts_with(directory))
        || fs::read_to_string(proc.join("maps"))
            .is_ok_and(|maps| maps.contains(&*directory.to_string_lossy()))
}

fn with_extension(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    files
}
