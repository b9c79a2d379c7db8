//! A private redis-server on a Unix socket in a directory of its own. It keeps what it acknowledged over a restart,
//! and dies with the test.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stark::config;
use tempfile::TempDir;

/// A running (or stopped) server.
pub struct Redis {
    directory: TempDir,
    options: Vec<String>,
    child: Option<Child>,
}

impl Redis {
    /// Starts one with an empty database.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with more options, e.g. `["--requirepass", "secret"]`.
    pub fn start_with(options: &[&str]) -> Self {
        let mut redis = Self {
            directory: TempDir::new().expect("a temporary directory"),
            options: options.iter().map(|option| option.to_string()).collect(),
            child: None,
        };
        redis.restart();
        redis
    }

    /// The socket it listens at.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// Settings for a queue with this key.
    pub fn settings(&self, key: &str) -> config::Queue {
        config::Queue {
            address: config::Address::Unix(self.socket()),
            db: 0,
            username: None,
            password: None,
            timeout: Duration::from_secs(10),
            keys: vec![key.to_string()],
            delivery: config::Delivery::AtLeastOnce,
            prefetch: config::Prefetch::Auto,
            retry: config::Retry::default(),
        }
    }

    /// A connection of the test's own.
    pub fn connect(&self) -> redis::Connection {
        self.try_connect().expect("redis-server answers")
    }

    /// Appends jobs to a list, in their order.
    pub fn push(&self, key: &str, payloads: &[impl AsRef<[u8]>]) {
        let mut command = redis::cmd("RPUSH");
        command.arg(key);
        for payload in payloads {
            command.arg(payload.as_ref());
        }
        command.exec(&mut self.connect()).expect("it takes them");
    }

    /// The elements of a list, in their order.
    pub fn list(&self, key: &str) -> Vec<Vec<u8>> {
        let mut command = redis::cmd("LRANGE");
        let command = command.arg(key).arg(0).arg(-1);
        command.query(&mut self.connect()).expect("it answers")
    }

    /// Has it run a command that must succeed.
    pub fn command(&self, words: &[&str]) {
        run(&mut self.connect(), words);
    }

    /// Kills it; what it had acknowledged is on its disk.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Kills it if it runs, and starts it with the same data.
    pub fn restart(&mut self) {
        self.stop();
        // setpriv: the server must not outlive a test that is killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "redis-server"])
            .args(["--port", "0", "--unixsocket"])
            .arg(self.socket())
            .arg("--dir")
            .arg(self.directory.path())
            .args(["--save", "", "--appendonly", "yes", "--appendfsync", "no"])
            .args(["--logfile", "redis.log"])
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("cannot start redis-server by setpriv: both must be installed");
        self.child = Some(child);
        self.wait_until_ready();
    }

    /// Stops it from running, as an overloaded machine does; its sockets stay open.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it run on.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill(Pid::from_raw(child.id() as i32), signal).expect("it is ours");
    }

    fn try_connect(&self) -> redis::RedisResult<redis::Connection> {
        redis::Client::open(format!("redis+unix://{}", self.socket().display()))?.get_connection()
    }

    fn wait_until_ready(&mut self) {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = std::os::unix::net::UnixStream::connect(self.socket())
                .map_err(redis::RedisError::from)
                .and_then(|_| redis::cmd("PING").query::<String>(&mut self.try_connect()?));
            match answer {
                Err(err) if err.code() == Some("NOAUTH") => return,
                Ok(_) => return,
                Err(err) => assert!(
                    Instant::now() < limit,
                    "redis-server: {err}\n{}",
                    self.log()
                ),
            }
            let exited = self.child.as_mut().and_then(|child| child.try_wait().ok()?);
            assert!(exited.is_none(), "redis-server exited\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("redis.log")).unwrap_or_default()
    }
}

/// Runs a command that must succeed, on a connection that was there before the server began to refuse new ones.
pub fn run(connection: &mut redis::Connection, words: &[&str]) {
    let mut command = redis::cmd(words[0]);
    let answer = command.arg(&words[1..]).exec(connection);
    answer.unwrap_or_else(|err| panic!("{words:?}: {err}"));
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}
