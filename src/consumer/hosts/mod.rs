//! Which program runs a script: the interpreter with the host of its language, or the script itself. Knows the
//! command line, the environment and the introduction; starting and feeding it is the script module's affair.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::WorkerInfo;
use crate::sys::spawn::FIRST_HANDED;

const PHP_HOST: &str = include_str!("host.php");

/// What to start.
#[derive(Clone, Debug)]
pub struct ScriptSpec {
    /// Absolute. `.php` is run in the PHP host; anything else speaks the script protocol itself.
    pub file: PathBuf,
    /// Program and arguments that go before the file; empty when the file is a program.
    pub interpreter: Vec<String>,
    /// Where it runs.
    pub directory: PathBuf,
    /// Added to the environment.
    pub env: BTreeMap<String, String>,
    /// Handed to PHP as its `memory_limit`.
    pub memory_limit_bytes: u64,
    /// For whom it runs.
    pub worker: WorkerInfo,
}

/// What the script learns of its worker.
pub fn introduction(worker: &WorkerInfo) -> String {
    serde_json::json!({
        "name": worker.name,
        "index": worker.index,
        "pid": std::process::id(),
        "pool": worker.pool,
        "version": worker.version,
        "generation": worker.generation,
    })
    .to_string()
}

/// The host that this script needs, to be handed over as the third descriptor: a file without a name, so that nothing
/// of it lies about on the disk.
///
/// # Errors
/// No descriptor or memory to be had.
pub fn open(script: &Path) -> io::Result<Option<OwnedFd>> {
    if !is_php(script) {
        return Ok(None);
    }
    let mut file = File::from(memfd_create("stark-host.php", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(PHP_HOST.as_bytes())?;
    Ok(Some(file.into()))
}

fn is_php(script: &Path) -> bool {
    script
        .extension()
        .is_some_and(|extension| extension == "php")
}

/// How the script is called, with its host if it needs one.
pub fn command(spec: &ScriptSpec) -> Command {
    let mut words: Vec<&OsStr> = spec.interpreter.iter().map(OsStr::new).collect();
    let settings = php_settings(spec.memory_limit_bytes);
    let host = format!("/proc/self/fd/{}", FIRST_HANDED + 2);
    if is_php(&spec.file) {
        words.extend(settings.iter().map(OsStr::new));
        words.push(OsStr::new(&host));
    }
    words.push(spec.file.as_os_str());
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .current_dir(&spec.directory)
        .envs(&spec.env)
        .env("STARK_FD", FIRST_HANDED.to_string())
        .env("STARK_PROGRESS_FD", (FIRST_HANDED + 1).to_string());
    command
}

/// Errors go to stderr once, in plain text: that is where we read them.
fn php_settings(memory_limit_bytes: u64) -> Vec<String> {
    let memory_limit = i64::try_from(memory_limit_bytes).unwrap_or(-1);
    let mut settings = Vec::new();
    for setting in [
        format!("memory_limit={memory_limit}"),
        "display_errors=stderr".into(),
        "html_errors=0".into(),
        "log_errors=0".into(),
    ] {
        settings.extend(["-d".into(), setting]);
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(file: &str, interpreter: &[&str]) -> ScriptSpec {
        ScriptSpec {
            file: file.into(),
            interpreter: interpreter.iter().map(ToString::to_string).collect(),
            directory: "/srv".into(),
            env: BTreeMap::new(),
            memory_limit_bytes: 1 << 30,
            worker: WorkerInfo {
                name: "shop".into(),
                pool: "mail".into(),
                index: 3,
                generation: 7,
                version: "0.1.0".into(),
            },
        }
    }

    fn words(spec: &ScriptSpec) -> String {
        let command = command(spec);
        let words: Vec<_> = [command.get_program()]
            .into_iter()
            .chain(command.get_args())
            .map(|word| word.to_str().unwrap())
            .collect();
        words.join(" ")
    }

    #[test]
    fn php_gets_its_settings_and_the_host_before_the_script() {
        assert_eq!(
            words(&spec("/srv/run.php", &["nice", "php", "-n"])),
            "nice php -n -d memory_limit=1073741824 -d display_errors=stderr -d html_errors=0 -d log_errors=0 \
             /proc/self/fd/5 /srv/run.php"
        );
        assert!(open(Path::new("/srv/run.php")).unwrap().is_some());
    }

    #[test]
    fn other_scripts_speak_the_protocol_themselves() {
        assert_eq!(words(&spec("/srv/run", &[])), "/srv/run");
        assert_eq!(words(&spec("/srv/run.lua", &["lua"])), "lua /srv/run.lua");
        assert!(open(Path::new("/srv/run")).unwrap().is_none());
    }

    #[test]
    fn a_script_learns_for_whom_it_runs() {
        let facts = introduction(&spec("/srv/run", &[]).worker);
        let facts: serde_json::Value = serde_json::from_str(&facts).unwrap();
        assert_eq!(facts["pid"], std::process::id());
        assert_eq!(
            (facts["index"].as_u64(), facts["generation"].as_u64()),
            (Some(3), Some(7))
        );
        assert_eq!(
            (facts["name"].as_str(), facts["pool"].as_str()),
            (Some("shop"), Some("mail"))
        );
    }
}
