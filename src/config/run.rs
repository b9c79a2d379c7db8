//! `[run]`: which program stands behind a pool, found and readable, and what memory it may take. Whether the interpreter
//! exists shows when it is started.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use super::check::{Check, given};
use super::layers::{RawRun, Setting};
use super::{Builtin, Program, Run, units};

/// The least memory limit, in bytes. No worker runs in less: whoever writes `128` forgot the `M`.
const MIN_MEMORY: u64 = 1 << 20;

impl Check<'_> {
    /// None if nothing is named to run; the other keys are checked all the same.
    pub(super) fn run(&mut self, run: &RawRun) -> Option<Run> {
        self.not_yet(&run.command, "");
        self.exclusive(&run.script_file, &run.builtin);
        self.exclusive(&run.script_file, &run.command);
        self.exclusive(&run.builtin, &run.command);
        let max_job_time = self.duration(&run.max_job_seconds, Duration::ZERO, Duration::ZERO);
        let memory_limit_bytes = self.value(
            &run.memory_limit,
            1 << 30,
            "a size of at least 1M, such as 512M or 1G, or -1 for no limit",
            memory_limit,
        );
        Some(Run {
            program: self.program(run)?,
            directory: self.directory.to_owned(),
            max_job_time: (!max_job_time.is_zero()).then_some(max_job_time),
            memory_limit_bytes,
        })
    }

    fn program(&mut self, run: &RawRun) -> Option<Program> {
        let interpreter = self.interpreter(&run.interpreter);
        if let Some(script) = given(&run.script_file) {
            return Some(Program::Script {
                file: self.script(script),
                interpreter,
            });
        }
        let Some(builtin) = given(&run.builtin) else {
            return given(&run.command).map(|_| Program::STAND_IN);
        };
        let program = Builtin::from_name(&builtin.text).map(Program::Builtin);
        if program.is_none() {
            self.refuse_value(builtin, "echo, null or probe");
        }
        program.or(Some(Program::STAND_IN))
    }

    fn interpreter(&mut self, setting: &Option<Setting>) -> Vec<String> {
        let Some(setting) = given(setting) else {
            return vec!["php".to_owned()];
        };
        match shlex::split(&setting.text) {
            Some(words) if words.first().is_some_and(|word| !word.is_empty()) => words,
            _ => {
                self.refuse_value(setting, "a program with arguments (check the quotes)");
                Vec::new()
            }
        }
    }

    /// Looks in the current directory first, then beside the ini, as Stark did.
    fn script(&mut self, setting: &Setting) -> PathBuf {
        let extension = setting
            .text
            .rsplit_once('.')
            .map(|(_, extension)| extension);
        if !extension.is_some_and(|extension| extension.eq_ignore_ascii_case("php")) {
            let value = &setting.text;
            let why = format!("{value:?}: scripts other than .php are not supported yet");
            self.refuse(setting, why);
        }
        let mut places = vec![
            self.here.directory.join(&setting.text),
            self.directory.join(&setting.text),
        ];
        places.dedup();
        let Some(file) = places.iter().find(|place| place.is_file()) else {
            let names: Vec<_> = places.iter().map(|p| p.display().to_string()).collect();
            let value = &setting.text;
            let why = format!("cannot find {value:?}: no such file: {}", names.join(", "));
            self.refuse(setting, why);
            return PathBuf::new();
        };
        if let Err(err) = File::open(file) {
            self.refuse(setting, format!("cannot read {}: {err}", file.display()));
        }
        file.clone()
    }
}

/// Bytes; PHP's -1 (and 0) is no limit.
fn memory_limit(text: &str) -> Option<u64> {
    match text {
        "-1" | "0" => Some(u64::MAX),
        _ => units::parse_size(text).filter(|bytes| *bytes >= MIN_MEMORY),
    }
}

impl Builtin {
    /// All of them.
    pub const ALL: [Builtin; 3] = [Self::Null, Self::Echo, Self::Probe];

    /// The word in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Echo => "echo",
            Self::Probe => "probe",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|builtin| builtin.name().eq_ignore_ascii_case(name))
    }
}
