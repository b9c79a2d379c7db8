//! Nothing blocks the master: while the log's disk stalls, clients do not read and a worker is stopped, it answers
//! everybody else, and makes no system call that could wait but that of its loop. strace tells which it makes.

mod support;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal::{SIGCONT, SIGINT, SIGKILL, SIGSTOP, SIGUSR1};
use nix::sys::stat::Mode;

use support::stark::{LIMIT, Stark, ask, children, is_alive, kill, status, title, wait_for};

/// More lines than the queue to the logger has room for.
const LINES: usize = 3000;

/// Calls that never wait, whatever they are about.
const NEVER_WAIT: &[&str] = &[
    "accept4",
    "brk",
    "clock_gettime",
    "clone",
    "clone3",
    "close",
    "epoll_ctl",
    "eventfd2",
    "exit_group",
    "fstat",
    "getdents64",
    "getpid",
    "getppid",
    "getrandom",
    "getrusage",
    "getsockname",
    "getsockopt",
    "gettid",
    "ioctl",
    "kill",
    "lseek",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "newfstatat",
    "pidfd_open",
    "prctl",
    "readlink",
    "restart_syscall",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_getaffinity",
    "setsockopt",
    "shutdown",
    "sigaltstack",
    "socketpair",
    "statx",
];

/// A log whose disk takes nothing any more.
struct Stalled(File);

impl Stalled {
    fn of(stark: &Stark) -> Self {
        let path = stark.path("stalled");
        nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).expect("the directory is ours");
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK);
        Self(options.open(path).expect("it is there"))
    }

    fn stall(&mut self) {
        for size in [4096, 1] {
            while self.0.write(&vec![b'.'; size]).is_ok() {}
        }
    }

    /// What was written since the last time.
    fn drain(&mut self) -> String {
        let mut text = Vec::new();
        let _ = self.0.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// strace on one process, until it is told to let go.
struct Traced {
    strace: Child,
    output: std::path::PathBuf,
}

impl Traced {
    fn attach(stark: &Stark) -> Self {
        let output = stark.path("trace");
        let mut command = Command::new("strace");
        command
            .args(["-y", "-s", "16", "-o"])
            .arg(&output)
            .args(["-p", &stark.pid().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let strace = command
            .spawn()
            .expect("strace is installed (apt-get install strace)");
        wait_for(LIMIT, "strace is attached, which needs ptrace", || {
            status(stark.pid(), "TracerPid") != "0"
        });
        Self { strace, output }
    }

    fn calls(mut self) -> Vec<String> {
        kill(self.strace.id() as i32, SIGINT);
        self.strace.wait().expect("it is our child");
        let text = fs::read_to_string(&self.output).expect("a trace");
        text.lines().map(String::from).collect()
    }
}

/// What the trace tells of numbers in its calls.
struct Known {
    /// Descriptors of clients, accepted not to block.
    clients: BTreeSet<String>,
    /// Children of which the kernel has said that they have ended.
    ended: BTreeSet<String>,
}

impl Known {
    fn of(calls: &[String]) -> Self {
        let all = |name: &str, flag: &str| -> Vec<&String> {
            let is_it = |call: &&String| call.starts_with(name) && call.contains(flag);
            calls.iter().filter(is_it).collect()
        };
        let between = |call: &String, before: &str, after: char| {
            let rest = call.rsplit_once(before)?.1;
            Some(rest.split_once(after)?.0.to_owned())
        };
        let clients = all("accept4", "SOCK_NONBLOCK").into_iter();
        let ended = all("waitid", "WNOHANG").into_iter();
        Self {
            clients: clients
                .filter_map(|call| between(call, "= ", '<'))
                .collect(),
            ended: ended
                .filter_map(|call| between(call, "si_pid=", ','))
                .collect(),
        }
    }
}

/// Why a call may wait; none if it does not.
fn may_wait(call: &str, known: &Known) -> Option<&'static str> {
    let Some((name, rest)) = call.split_once('(') else {
        // A signal, or the end of a call that began before.
        return None;
    };
    let on_memory = |rest: &str| {
        [
            "<socket:",
            "<TCP",
            "<UNIX",
            "<pipe:",
            "<anon_inode:",
            "</proc/",
            "</sys/",
        ]
        .iter()
        .any(|kind| rest.contains(kind))
    };
    let is_client = rest
        .split_once('<')
        .is_some_and(|(number, _)| known.clients.contains(number));
    match name {
        "epoll_wait" | "epoll_pwait" => None,
        name if NEVER_WAIT.contains(&name) => None,
        "sendto" | "sendmsg" if is_client || rest.contains("MSG_DONTWAIT") => None,
        "recvfrom" | "recvmsg" if is_client || rest.contains("MSG_DONTWAIT") => None,
        "read" | "pread64" | "write" | "writev" if on_memory(rest) => None,
        "read" | "pread64" | "write" | "writev" => Some("a file"),
        "open" | "openat" if rest.contains("\"/proc") || rest.contains("\"/sys") => None,
        "open" | "openat" => Some("a file"),
        "waitid" | "wait4" if rest.contains("WNOHANG") => None,
        "wait4"
            if rest
                .split_once(',')
                .is_some_and(|(pid, _)| known.ended.contains(pid)) =>
        {
            None
        }
        "fcntl" if !rest.contains("F_SETLKW") => None,
        "futex" if rest.contains("FUTEX_WAKE") => None,
        _ => Some("not known never to wait"),
    }
}

fn logger(stark: &Stark) -> i32 {
    let children = children(stark.pid()).into_iter();
    let mut loggers = children.filter(|pid| title(*pid).ends_with("logger"));
    loggers.next().expect("a logger")
}

#[test]
fn with_a_stalled_log_deaf_clients_and_a_stopped_worker_the_master_answers_and_never_waits() {
    let stark = Stark::prepare(
        "[main]\nlog_file = stalled\nlog_level = debug\nheartbeat_seconds = 0.3\nmax_clients = 64\n\
         [run]\nbuiltin = null\n[worker]\ncount = 3\nempty_sleep_seconds = 1h\n",
        "",
    );
    let mut log = Stalled::of(&stark);
    stark.start_again();
    let traced = Traced::attach(&stark);
    log.stall();
    let port = stark.port();

    // Each connection is a line, and so is its end.
    for _ in 0..LINES / 2 {
        ask(port, &["PING"]);
    }
    let deaf: Vec<TcpStream> = (0..3)
        .map(|_| {
            let mut client = TcpStream::connect(("127.0.0.1", port)).expect("a place");
            client.set_nonblocking(true).expect("it is a socket");
            // Until neither the daemon nor the kernel takes more.
            while client.write(&b"INFO\r\n".repeat(500)).is_ok() {}
            client
        })
        .collect();
    let [stopped, killed, _] = stark.worker_pids()[..] else {
        panic!("three workers");
    };
    kill(stopped, SIGSTOP);
    kill(killed, SIGKILL);
    kill(stark.pid(), SIGUSR1);
    stark.wait_for_figure("worker_total", 5);
    stark.wait_for_figure("worker_alive", 3);

    let calls = traced.calls();
    assert!(
        calls.iter().any(|call| call.starts_with("epoll_wait")),
        "{calls:?}"
    );
    let known = Known::of(&calls);
    let waits: Vec<_> = calls
        .iter()
        .filter_map(|call| may_wait(call, &known).map(|why| format!("{why}: {call}")))
        .collect();
    assert!(waits.is_empty(), "{waits:#?}");
    drop(deaf);

    // The disk is back: what was handed over is written, and it is said how much was not.
    let mut text = String::new();
    wait_for(LIMIT, "the log goes on", || {
        text += &log.drain();
        ask(port, &["PING"]);
        text.contains("log lines dropped")
    });
    let stop = std::thread::scope(|scope| {
        let stopping = scope.spawn(|| stark.stop());
        wait_for(LIMIT, "the last line", || {
            text += &log.drain();
            stopping.is_finished() && text.contains("master exit status=0")
        });
        stopping.join()
    });
    stop.expect("it stops");
}

#[test]
fn a_daemon_whose_log_stalls_for_good_stops_all_the_same() {
    let stark = Stark::prepare(
        "[main]\nlog_file = stalled\n[run]\nbuiltin = null\n[worker]\nempty_sleep_seconds = 1h\n",
        "",
    );
    let mut log = Stalled::of(&stark);
    stark.start_again();
    log.stall();
    stark.stop();
}

#[test]
fn a_logger_that_is_killed_or_stopped_costs_no_more_than_lines() {
    let stark = Stark::start(
        "[run]\nbuiltin = null\n[worker]\nempty_sleep_seconds = 1h\n",
        "",
    );
    let first = logger(&stark);
    kill(first, SIGKILL);
    // A line that it had taken and not written is lost; none that comes after it is.
    wait_for(LIMIT, "it is dead", || !is_alive(first));
    // What is said in between is not lost.
    kill(stark.worker_pids()[0], SIGKILL);
    stark.wait_for_log("logger exited");
    stark.wait_for_log("worker exited");
    let second = logger(&stark);
    assert_ne!(first, second);
    kill(second, SIGSTOP);
    kill(stark.worker_pids()[0], SIGKILL);
    stark.wait_for_figure("worker_total", 3);
    assert_eq!(stark.log_lines("worker exited").len(), 1);
    kill(second, SIGCONT);
    stark.wait_for_log_times("worker exited", 2);
    stark.stop();
    assert_eq!(stark.log_lines("master exit status=0").len(), 1);
}

#[test]
fn the_lines_of_a_killed_master_are_written_and_the_logger_leaves_with_the_last_process() {
    let stark = Stark::start(
        "[run]\nbuiltin = null\n[worker]\nempty_sleep_seconds = 1h\n",
        "",
    );
    let logger = logger(&stark);
    kill(logger, SIGSTOP);
    kill(stark.worker_pids()[0], SIGKILL);
    stark.wait_for_figure("worker_total", 2);
    kill(stark.pid(), SIGKILL);
    kill(logger, SIGCONT);
    stark.wait_for_log("worker exited");
    wait_for(LIMIT, "all leave", || stark.processes().is_empty());
}
