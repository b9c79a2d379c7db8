//! From texts with places to a [`Config`]: what each value means, which range it has, and what contradicts what.
//! Mistakes are noted and a default stands in, so that one run finds them all. `[run]` and `[queue]` have files of
//! their own, which use [`Check`].

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::layers::{RawConfig, RawMain, RawRetry, RawWorker, Setting};
use super::mistakes::{Mistakes, Place};
use super::{
    Affinity, Builtin, Config, LogTarget, Main, Pool, Program, Surroundings, Worker, units,
};

/// Most slots of a pool: the room in the scoreboard.
const MAX_WORKERS: usize = 4096;

/// Longest daemon name: it becomes part of socket paths, which end at 108 bytes.
const MAX_NAME: usize = 64;

/// Values are cut here in mistakes, in characters.
const MAX_SHOWN: usize = 60;

/// Checks settings; the result counts only if no mistakes were added.
pub fn check(
    given: RawConfig,
    file: &Path,
    shown: &str,
    here: &Surroundings,
    mistakes: &mut Mistakes,
) -> Config {
    let mut check = Check {
        directory: file.parent().unwrap_or(Path::new("/")),
        file: Place::in_file(shown, 0),
        here,
        mistakes,
    };
    let main = check.main(&given.main, file);
    let run = check.run(&given.run);
    let is_builtin = matches!(run.program, Program::Builtin(_));
    let pool = Pool {
        name: main.name.clone(),
        worker: check.worker(&given.worker, if is_builtin { 0 } else { 10_000 }),
        queue: given.queue.as_ref().and_then(|queue| check.queue(queue)),
        run,
        env: given
            .env
            .into_iter()
            .map(|(name, setting)| (name, setting.text))
            .collect(),
    };
    check.retry(&given.retry);
    Config {
        file: file.to_owned(),
        main,
        pools: vec![pool],
    }
}

/// The mistakes so far, and what values are relative to.
pub struct Check<'a> {
    /// The ini's directory, absolute.
    pub directory: &'a Path,
    /// The file as a whole, for what is wrong with no single line.
    pub file: Place,
    /// What the settings are read in.
    pub here: &'a Surroundings,
    mistakes: &'a mut Mistakes,
}

/// The text of a setting; an empty one counts as not given.
pub fn text(setting: &Option<Setting>) -> Option<&str> {
    given(setting).map(|setting| setting.text.as_str())
}

/// The setting, unless its text is empty.
pub fn given(setting: &Option<Setting>) -> Option<&Setting> {
    setting.as_ref().filter(|setting| !setting.text.is_empty())
}

/// A value in quotes, cut if it is long.
fn quoted(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((cut, _)) => format!("{:?}...", &text[..cut]),
        None => format!("{text:?}"),
    }
}

impl Check<'_> {
    /// Notes that a setting cannot stand.
    pub fn refuse(&mut self, setting: &Setting, why: impl AsRef<str>) {
        let what = format!("{}: {}", setting.name, why.as_ref());
        self.mistakes.add(&setting.place, what);
    }

    /// Notes what is wrong with the file as a whole.
    pub fn refuse_file(&mut self, what: &str) {
        self.mistakes.add(&self.file, what);
    }

    /// Notes that a value is not what is allowed.
    pub fn refuse_value(&mut self, setting: &Setting, allowed: &str) {
        let value = quoted(&setting.text);
        self.refuse(setting, format!("{value} is not {allowed}"));
    }

    /// The value, or its default if it is absent or not `allowed`.
    pub fn value<T>(
        &mut self,
        setting: &Option<Setting>,
        default: T,
        allowed: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> T {
        let Some(setting) = setting else {
            return default;
        };
        parse(&setting.text).unwrap_or_else(|| {
            self.refuse_value(setting, allowed);
            default
        })
    }

    /// A duration of at least `least`.
    pub fn duration(
        &mut self,
        setting: &Option<Setting>,
        default: Duration,
        least: Duration,
    ) -> Duration {
        let allowed = match least.is_zero() {
            true => "a duration (seconds, or such as 250ms, 5m, 1h)".to_owned(),
            false => format!(
                "a duration of at least {} s (seconds, or such as 250ms, 5m, 1h)",
                units::format_duration(least)
            ),
        };
        self.value(setting, default, &allowed, |text| {
            units::parse_duration(text).filter(|duration| *duration >= least)
        })
    }

    /// A limit in time; 0 is none.
    fn limit(&mut self, setting: &Option<Setting>, default_seconds: u64) -> Option<Duration> {
        let default = Duration::from_secs(default_seconds);
        let limit = self.duration(setting, default, Duration::ZERO);
        (!limit.is_zero()).then_some(limit)
    }

    /// Refuses what only a later version does, unless it is empty or says `off`.
    pub fn not_yet(&mut self, setting: &Option<Setting>, off: &str) {
        if let Some(setting) = given(setting).filter(|setting| setting.text != off) {
            self.refuse(setting, "not supported yet");
        }
    }

    /// Refuses the later of two settings that cannot both stand.
    pub fn exclusive(&mut self, one: &Option<Setting>, other: &Option<Setting>) {
        let (Some(one), Some(other)) = (given(one), given(other)) else {
            return;
        };
        let (first, second) = match one.place <= other.place {
            true => (one, other),
            false => (other, one),
        };
        let why = format!("contradicts {} ({})", first.name, first.place);
        self.refuse(second, why);
    }

    /// A path; relative ones start at the ini's directory.
    fn path(&self, setting: &Option<Setting>) -> Option<PathBuf> {
        text(setting).map(|path| self.directory.join(path))
    }

    fn main(&mut self, main: &RawMain, file: &Path) -> Main {
        for (setting, off) in [
            (&main.unixsocket, ""),
            (&main.password, ""),
            (&main.password_file, ""),
            (&main.readonly_password, ""),
            (&main.slow_job_ms, "0"),
        ] {
            self.not_yet(setting, off);
        }
        let name = self.name(&main.name, file);
        let working_dir = self
            .path(&main.working_dir)
            .unwrap_or_else(|| PathBuf::from("/tmp"));
        if let (Some(group), None) = (given(&main.group), text(&main.user)) {
            self.refuse(group, "needs main.user");
        }
        Main {
            host: self.admin_host(&main.host),
            port: self.value(&main.port, 9003, "a port from 0 to 65535", |text| {
                text.parse().ok()
            }),
            pid_file: self
                .path(&main.pid_file)
                .unwrap_or_else(|| working_dir.join(format!("run/{name}.pid"))),
            log: match text(&main.log_file) {
                Some("-") => LogTarget::Stderr,
                Some(path) => LogTarget::File(self.directory.join(path)),
                None => LogTarget::Daily {
                    directory: working_dir.join("logs"),
                    name: name.clone(),
                },
            },
            log_level: self.value(
                &main.log_level,
                log::LevelFilter::Info,
                "error, warn, info, debug or trace",
                |text| Some(text.parse::<log::Level>().ok()?.to_level_filter()),
            ),
            user: text(&main.user).map(str::to_owned),
            group: text(&main.group).map(str::to_owned),
            heartbeat_interval: self.duration(
                &main.heartbeat_seconds,
                Duration::from_secs(2),
                Duration::from_millis(100),
            ),
            shutdown_timeout: self.duration(
                &main.shutdown_timeout,
                Duration::from_secs(30),
                Duration::ZERO,
            ),
            max_clients: self.value(
                &main.max_clients,
                NonZeroUsize::new(128).expect("is not zero"),
                "a number from 1 to 65536",
                |text| {
                    text.parse()
                        .ok()
                        .filter(|max: &NonZeroUsize| max.get() <= 65536)
                },
            ),
            unixsocket: None,
            password: None,
            readonly_password: None,
            name,
            working_dir,
        }
    }

    fn name(&mut self, setting: &Option<Setting>, file: &Path) -> String {
        let allowed = format!("1 to {MAX_NAME} letters, digits, '.', '_' and '-'");
        let is_name = |name: &str| {
            (1..=MAX_NAME).contains(&name.len())
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        let name = text(setting).unwrap_or(&stem);
        match given(setting) {
            _ if is_name(name) => {}
            Some(setting) => self.refuse_value(setting, &allowed),
            None => {
                let stem = quoted(&stem);
                self.refuse_file(&format!(
                    "main.name: {stem}, the file's own name, is not {allowed}; set main.name"
                ));
            }
        }
        name.to_owned()
    }

    /// Whoever reaches the admin port may stop the daemon: without a password nobody else's machine may.
    fn admin_host(&mut self, setting: &Option<Setting>) -> String {
        let host = setting
            .as_ref()
            .map_or("127.0.0.1", |setting| &setting.text);
        let is_loopback = match host.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().is_loopback(),
            Err(_) => host.eq_ignore_ascii_case("localhost"),
        };
        if let (Some(setting), false) = (setting, is_loopback) {
            let host = quoted(host);
            let why = format!(
                "{host} is not a loopback address, so it needs main.password, which is not supported yet; \
                 use 127.0.0.1, ::1 or localhost"
            );
            self.refuse(setting, why);
        }
        host.to_owned()
    }

    fn worker(&mut self, worker: &RawWorker, max_run_count: u64) -> Worker {
        let max_run_count = self.value(
            &worker.max_run_count,
            max_run_count,
            "a number of runs, 0 for no limit",
            |text| text.parse().ok(),
        );
        let auto = self.here.parallelism.clamp(1, MAX_WORKERS);
        Worker {
            count: self.value(
                &worker.count,
                1,
                "a number from 1 to 4096, or auto",
                |text| match text.eq_ignore_ascii_case("auto") {
                    true => Some(auto),
                    false => text.parse().ok().filter(|n| (1..=MAX_WORKERS).contains(n)),
                },
            ),
            max_run_count: (max_run_count > 0).then_some(max_run_count),
            max_run_time: self.limit(&worker.max_run_seconds, 3600),
            max_idle_time: self.limit(&worker.max_idle_seconds, 0),
            jitter: self.value(
                &worker.jitter,
                0.1,
                "a percentage from 0% to 100%",
                units::parse_share,
            ),
            empty_sleep: self.duration(
                &worker.empty_sleep_seconds,
                Duration::from_millis(100),
                Duration::ZERO,
            ),
            start_timeout: self.duration(
                &worker.start_seconds,
                Duration::from_secs(60),
                Duration::from_millis(100),
            ),
            affinity: self.affinity(&worker.affinity),
            nice: self.value(&worker.nice, 0, "a number from -20 to 19", |text| {
                text.parse().ok().filter(|nice| (-20..=19).contains(nice))
            }),
        }
    }

    fn affinity(&mut self, setting: &Option<Setting>) -> Affinity {
        let affinity = self.value(
            setting,
            Affinity::Auto,
            "auto, none, or a list of cores such as 2-7,9",
            |text| match text.to_ascii_lowercase().as_str() {
                "auto" => Some(Affinity::Auto),
                "none" => Some(Affinity::None),
                list => units::parse_cpu_list(list).map(Affinity::Cores),
            },
        );
        let usable = &self.here.cores;
        if let (Some(setting), Affinity::Cores(cores)) = (setting, &affinity)
            && let Some(core) = cores.iter().find(|core| !usable.contains(core))
            && !usable.is_empty()
        {
            let usable = units::format_cpu_list(usable);
            let value = quoted(&setting.text);
            let why = format!("{value} has core {core}, which is not usable; usable are {usable}");
            self.refuse(setting, why);
        }
        affinity
    }

    fn retry(&mut self, retry: &RawRetry) {
        for setting in [
            &retry.max_attempts,
            &retry.backoff_seconds,
            &retry.backoff_max_seconds,
            &retry.max_crashes,
            &retry.dead_max,
            &retry.dead_seconds,
        ] {
            self.not_yet(setting, "");
        }
    }
}

impl Program {
    /// Stands in where what to run is mistaken.
    pub(super) const STAND_IN: Program = Program::Builtin(Builtin::Null);
}
