//! Which program runs a script: the interpreter with the host of its language, or the script itself. Knows the
//! command line, the environment and the introduction; starting and feeding it is the script module's affair.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::WorkerInfo;

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

/// What a script is handed. It has these descriptors under the numbers that they have here.
#[derive(Clone, Copy)]
pub struct Handed<'a> {
    /// Its end of the script protocol.
    pub socket: BorrowedFd<'a>,
    /// Where it notes its finished runs.
    pub progress: BorrowedFd<'a>,
    /// The host of its language, if that has one.
    pub host: Option<BorrowedFd<'a>>,
}

impl<'a> Handed<'a> {
    /// All that is there.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'a>> {
        let mut all = vec![self.socket, self.progress];
        all.extend(self.host);
        all
    }
}

/// The host that this script needs: a file without a name, so that nothing of it lies about on the disk.
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
pub fn command(spec: &ScriptSpec, handed: Handed<'_>) -> Command {
    let mut words: Vec<OsString> = spec.interpreter.iter().map(OsString::from).collect();
    if let Some(host) = handed.host {
        words.extend(php_settings(spec.memory_limit_bytes));
        words.push(format!("/proc/self/fd/{}", host.as_raw_fd()).into());
    }
    words.push(spec.file.clone().into());
    let mut command = Command::new(&words[0]);
    // Who runs jobs need not be able to steer the daemon, nor need all that a script starts.
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_of_admin_port(name)) {
        command.env_remove(name);
    }
    command
        .args(&words[1..])
        .current_dir(&spec.directory)
        .envs(&spec.env)
        .env("STARK_FD", handed.socket.as_raw_fd().to_string())
        .env("STARK_PROGRESS_FD", handed.progress.as_raw_fd().to_string());
    command
}

/// Whether a variable is a setting with a password of the admin port.
fn is_of_admin_port(name: &OsStr) -> bool {
    let setting = name.to_str().and_then(|name| name.strip_prefix("STARK_"));
    let setting = setting.map(str::to_ascii_lowercase).unwrap_or_default();
    setting.starts_with("main__") && setting.contains("password")
}

/// Errors go to stderr once, in plain text: that is where we read them.
fn php_settings(memory_limit_bytes: u64) -> Vec<OsString> {
    let memory_limit = i64::try_from(memory_limit_bytes).unwrap_or(-1);
    let settings = [
        format!("memory_limit={memory_limit}"),
        "display_errors=stderr".into(),
        "html_errors=0".into(),
        "log_errors=0".into(),
    ];
    let pairs = settings.map(|setting| ["-d".into(), setting.into()]);
    pairs.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

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

    /// How it is called, with the number of its host as N.
    fn words(spec: &ScriptSpec) -> String {
        let (socket, progress) = std::io::pipe().unwrap();
        let host = open(&spec.file).unwrap();
        let handed = Handed {
            socket: socket.as_fd(),
            progress: progress.as_fd(),
            host: host.as_ref().map(AsFd::as_fd),
        };
        let command = command(spec, handed);
        let words: Vec<_> = [command.get_program()]
            .into_iter()
            .chain(command.get_args())
            .map(|word| word.to_str().unwrap())
            .collect();
        let words = words.join(" ");
        match host {
            Some(host) => words.replace(&format!("fd/{} ", host.as_raw_fd()), "fd/N "),
            None => words,
        }
    }

    #[test]
    fn php_gets_its_settings_and_the_host_before_the_script() {
        assert_eq!(
            words(&spec("/srv/run.php", &["nice", "php", "-n"])),
            "nice php -n -d memory_limit=1073741824 -d display_errors=stderr -d html_errors=0 -d log_errors=0 \
             /proc/self/fd/N /srv/run.php"
        );
    }

    #[test]
    fn other_scripts_speak_the_protocol_themselves() {
        assert_eq!(words(&spec("/srv/run", &[])), "/srv/run");
        assert_eq!(words(&spec("/srv/run.lua", &["lua"])), "lua /srv/run.lua");
    }

    #[test]
    fn passwords_of_the_admin_port_are_known_by_the_names_of_their_settings() {
        for (name, is_one) in [
            ("STARK_MAIN__PASSWORD", true),
            ("STARK_main__password_file", true),
            ("STARK_MAIN__READONLY_PASSWORD", true),
            ("STARK_MAIN__PORT", false),
            ("STARK_QUEUE__PASSWORD", false),
            ("PASSWORD", false),
        ] {
            assert_eq!(is_of_admin_port(OsStr::new(name)), is_one, "{name}");
        }
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
