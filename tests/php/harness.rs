//! A directory with one script, its progress page, and orders that a test can give.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{PipeReader, PipeWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use stark::consumer::script::{BatchEnd, Orders, Script, ScriptSpec, StartError, Told};
use stark::consumer::{Outcome, WorkerInfo};
use stark::queue::Job;
use tempfile::TempDir;

pub struct Bench {
    pub spec: ScriptSpec,
    directory: TempDir,
    progress: File,
    stop: Arc<AtomicBool>,
    stop_wanted: Box<dyn Fn() -> bool + Sync>,
    wake: PipeReader,
    ring: PipeWriter,
}

impl Bench {
    /// The text becomes run.php.
    pub fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("run.php");
        fs::write(&file, text).unwrap();
        let progress = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(directory.path().join("progress"))
            .unwrap();
        progress.write_all_at(&[0; 8], 0).unwrap();
        let (wake, ring) = std::io::pipe().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let stop_wanted = Box::new(move || asked.load(Ordering::SeqCst));
        let spec = ScriptSpec {
            file,
            interpreter: vec!["php".into()],
            directory: directory.path().into(),
            env: [("GREETING".into(), "hello".into())].into(),
            memory_limit_bytes: 64 << 20,
            worker: WorkerInfo {
                name: "shop".into(),
                // Unique, so that log lines can be told apart.
                pool: directory
                    .path()
                    .file_name()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .into(),
                index: 3,
                generation: 1,
                version: "0.1.0".into(),
            },
        };
        Self {
            spec,
            directory,
            progress,
            stop,
            stop_wanted,
            wake,
            ring,
        }
    }

    /// The script becomes a program that speaks the protocol itself.
    pub fn make_program(&mut self, name: &str, text: &str) {
        let file = self.directory.path().join(name);
        fs::write(&file, text).unwrap();
        self.spec.file = file;
    }

    pub fn start(&self) -> Result<Script, StartError> {
        Script::start(&self.spec, self.progress.as_fd(), &self.orders(), &|_| {})
    }

    pub fn run_with<P: AsRef<[u8]>>(
        &self,
        script: &mut Script,
        payloads: &[P],
        ended: &mut dyn FnMut(usize, Outcome),
    ) -> BatchEnd {
        let jobs: Vec<Job> = payloads
            .iter()
            .map(|payload| Job::by_hand("test:redis", payload.as_ref().to_vec()))
            .collect();
        // As a worker does for whom nobody takes what it gave back behind a long job: it gets it again.
        let mut begin = 0;
        loop {
            let mut given_back = 0;
            let mut told = Told {
                ended: &mut |place, outcome| ended(begin + place, outcome),
                unsent: &mut |unsent| given_back = unsent,
                full: &mut |_| {},
            };
            let end = script.run(&jobs[begin..], &self.orders(), &mut told);
            match end {
                BatchEnd::All if given_back > 0 => begin = jobs.len() - given_back,
                BatchEnd::All => return BatchEnd::All,
                BatchEnd::Stopped { ended } => {
                    return BatchEnd::Stopped {
                        ended: begin + ended,
                    };
                }
                BatchEnd::Died { ended, death } => {
                    return BatchEnd::Died {
                        ended: begin + ended,
                        death,
                    };
                }
            }
        }
    }

    pub fn run<P: AsRef<[u8]>>(
        &self,
        script: &mut Script,
        payloads: &[P],
    ) -> (BatchEnd, Vec<Outcome>) {
        let outcomes = RefCell::new(Vec::new());
        let end = self.run_with(script, payloads, &mut |index, outcome| {
            assert_eq!(index, outcomes.borrow().len(), "in order");
            outcomes.borrow_mut().push(outcome);
        });
        (end, outcomes.into_inner())
    }

    pub fn run_all<P: AsRef<[u8]>>(&self, script: &mut Script, payloads: &[P]) -> Vec<Outcome> {
        let (end, outcomes) = self.run(script, payloads);
        assert_eq!(end, BatchEnd::All);
        outcomes
    }

    pub fn complete(&self, script: Script) -> Result<(), String> {
        script.complete(Duration::from_secs(30), &self.orders())
    }

    /// Orders that do what the test says.
    pub fn orders(&self) -> Orders<'_> {
        Orders {
            stop: &*self.stop_wanted,
            wake: self.wake.as_fd(),
        }
    }

    pub fn order_stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        (&self.ring).write_all(b"!").unwrap();
    }

    pub fn orders_again(&self) {
        use std::io::Read;
        (&self.wake).read_exact(&mut [0]).unwrap();
        self.stop.store(false, Ordering::SeqCst);
    }

    pub fn noted(&self) -> u64 {
        let mut bytes = [0; 8];
        self.progress.read_exact_at(&mut bytes, 0).unwrap();
        u64::from_le_bytes(bytes)
    }

    pub fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().into()
    }

    pub fn exists(&self, name: &str) -> bool {
        self.directory.path().join(name).exists()
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Whether the process whose pid stands in the file runs no more.
    pub fn is_gone(&self, name: &str) -> bool {
        match fs::read_to_string(format!("/proc/{}/stat", self.read(name).trim())) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        }
    }

    pub fn is_zombie(&self, pid: Pid) -> bool {
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
    }

    /// By another program than the one under test.
    pub fn md5(&self, bytes: &[u8]) -> String {
        let mut child = Command::new("md5sum")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        let output = child.wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap()[..32].into()
    }
}

/// Waits until the condition holds; fails after half a minute.
pub fn wait_for(condition: impl Fn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < limit, "it never came to be");
        std::thread::sleep(Duration::from_millis(1));
    }
}

static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());
static INSTALLED: Once = Once::new();

struct Recorder;

impl log::Log for Recorder {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }
    fn log(&self, record: &log::Record) {
        let line = format!("{} {}", record.level(), record.args());
        SEEN.lock().unwrap().push(line);
    }
    fn flush(&self) {}
}

/// What the script of one bench has said, as "LEVEL line".
pub struct Lines {
    origin: String,
}

impl Lines {
    pub fn of(bench: &Bench) -> Self {
        INSTALLED.call_once(|| {
            log::set_logger(&Recorder).unwrap();
            log::set_max_level(log::LevelFilter::Trace);
        });
        let origin = format!("script says pool={} slot=3 line=", bench.spec.worker.pool);
        Self { origin }
    }

    pub fn all(&self) -> Vec<String> {
        let seen = SEEN.lock().unwrap();
        seen.iter()
            .filter(|line| line.contains(&self.origin))
            .map(|line| line.replace(&self.origin, ""))
            .collect()
    }

    pub fn has(&self, line: &str) -> bool {
        self.count(line) > 0
    }

    pub fn count(&self, line: &str) -> usize {
        self.all().iter().filter(|seen| *seen == line).count()
    }
}
