//! From texts with places to a [`Config`]: what each value means, which range it has, and what contradicts what.
//! Mistakes are noted and a default stands in, so that one run finds them all. `[run]`, `[queue]`, the pools and who
//! may reach the admin port have files of their own, which use [`Check`].

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::layers::{RawConfig, RawMain, RawWorker, Setting};
use super::mistakes::{Mistakes, Place};
use super::sections::{allowed_names, is_name};
use super::{Affinity, Builtin, Config, LogTarget, Main, Program, Surroundings, Worker, units};

/// Most slots of all pools: the room in the scoreboard.
pub const MAX_WORKERS: usize = 4096;

/// Values are cut here in mistakes, in characters.
const MAX_SHOWN: usize = 60;

/// The mistakes so far, and what values are relative to.
pub struct Check<'a> {
    /// The ini's directory, absolute.
    pub directory: &'a Path,
    /// The file as a whole, for what is wrong with no single line.
    pub file: Place,
    /// What the settings are read in.
    pub here: &'a Surroundings,
    /// What is wrong.
    pub mistakes: &'a mut Mistakes,
    /// What deserves a word.
    pub warnings: &'a mut Vec<String>,
}

impl<'a> Check<'a> {
    /// For the settings in `file`, an absolute path that mistakes show as `shown`.
    pub fn new(
        file: &'a Path,
        shown: &str,
        here: &'a Surroundings,
        mistakes: &'a mut Mistakes,
        warnings: &'a mut Vec<String>,
    ) -> Self {
        Self {
            directory: file.parent().unwrap_or(Path::new("/")),
            file: Place::in_file(shown, 0),
            here,
            mistakes,
            warnings,
        }
    }

    /// Checks settings; the result counts only if no mistakes were added.
    pub fn config(&mut self, raw: &RawConfig, file: &Path) -> Config {
        let main = self.main(&raw.main, file);
        let config = Config {
            file: file.to_owned(),
            pools: self.pools(raw, &main.name),
            main,
        };
        self.unixsocket(&raw.main, &config);
        config
    }
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
pub fn quoted(text: &str) -> String {
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

    /// Notes what deserves a word about the file, but stops nothing.
    pub fn warn(&mut self, what: String) {
        self.warnings.push(format!("{}: {what}", self.file));
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
        self.not_yet(&main.slow_job_ms, "0");
        let name = self.name(&main.name, file);
        let working_dir = self
            .path(&main.working_dir)
            .unwrap_or_else(|| PathBuf::from("/tmp"));
        if let (Some(group), None) = (given(&main.group), text(&main.user)) {
            self.refuse(group, "needs main.user");
        }
        let passwords = self.passwords(main);
        Main {
            host: self.admin_host(main),
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
            unixsocket: self.path(&main.unixsocket),
            password: passwords.full,
            readonly_password: passwords.readonly,
            name,
            working_dir,
        }
    }

    fn name(&mut self, setting: &Option<Setting>, file: &Path) -> String {
        let allowed = allowed_names();
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

    pub(super) fn worker(&mut self, worker: &RawWorker, max_run_count: u64) -> Worker {
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
}

impl Program {
    /// Stands in where what to run is mistaken.
    pub(super) const STAND_IN: Program = Program::Builtin(Builtin::Null);
}
