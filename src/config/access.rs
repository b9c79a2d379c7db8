//! Who reaches the admin port: its host, its Unix socket, its passwords. Whoever reaches it may stop the daemon, so
//! nobody else's machine may without a password. No mistake repeats one.

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use super::check::{Check, given, quoted, text};
use super::layers::{RawMain, Setting};
use super::raw::Layer;
use super::sections::split;
use super::{Address, Config, LogTarget, Program, Secret};

/// `sun_path` has 108 bytes, the last of them a zero.
const MAX_SOCKET_PATH: usize = 107;

/// A password's file longer than this, in bytes, is none.
const MAX_PASSWORD_FILE: u64 = 4096;

/// The permission of others to read.
const READABLE_BY_OTHERS: u32 = 0o004;

/// The passwords of the admin port.
pub struct Passwords {
    /// For all commands.
    pub full: Option<Secret>,
    /// For looking.
    pub readonly: Option<Secret>,
}

impl Check<'_> {
    pub(super) fn admin_host(&mut self, main: &RawMain) -> String {
        let host = main
            .host
            .as_ref()
            .map_or("127.0.0.1", |setting| &setting.text);
        let is_loopback = match host.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().is_loopback(),
            Err(_) => host.eq_ignore_ascii_case("localhost"),
        };
        let has_password = [&main.password, &main.password_file]
            .into_iter()
            .any(|setting| given(setting).is_some());
        if let Some(setting) = &main.host {
            if host.is_empty() || host.contains(char::is_whitespace) {
                self.refuse_value(setting, "a host or an address");
            } else if !is_loopback && !has_password {
                let why = format!(
                    "{} is not a loopback address, so it needs main.password or main.password_file; \
                     without one use 127.0.0.1, ::1 or localhost",
                    quoted(host)
                );
                self.refuse(setting, why);
            }
        }
        host.to_owned()
    }

    pub(super) fn passwords(&mut self, main: &RawMain) -> Passwords {
        self.exclusive(&main.password, &main.password_file);
        let full = match given(&main.password_file) {
            Some(setting) => self.password_file(setting),
            None => text(&main.password).map(str::to_owned),
        };
        let readonly = text(&main.readonly_password).map(str::to_owned);
        if let (Some(setting), Some(password)) = (&main.readonly_password, &readonly) {
            if full.as_ref() == Some(password) {
                self.refuse(setting, "is the same as main.password");
            } else if full.is_none() && given(&main.password_file).is_none() {
                let why =
                    "needs main.password, too: without one, whoever gives none may do everything";
                self.refuse(setting, why);
            }
        }
        Passwords {
            full: full.map(Secret),
            readonly: readonly.map(Secret),
        }
    }

    /// The first line.
    fn password_file(&mut self, setting: &Setting) -> Option<String> {
        let path = self.directory.join(&setting.text);
        let shown = path.display();
        let (mode, text) = match read_short(&path) {
            Ok(read) => read,
            Err(err) => {
                self.refuse(setting, format!("cannot read {shown}: {err}"));
                return None;
            }
        };
        let line = text.lines().next().unwrap_or_default();
        if line.is_empty() {
            let why = format!("cannot take a password from {shown}: its first line is empty");
            self.refuse(setting, why);
            return None;
        }
        self.warn_if_readable(&shown.to_string(), mode);
        Some(line.to_owned())
    }

    /// A word on a file with a password that every user can read.
    pub(super) fn warn_if_readable(&mut self, file: &str, mode: u32) {
        if mode & READABLE_BY_OTHERS != 0 {
            let mode = mode & 0o7777;
            self.warnings.push(format!(
                "{file}: holds a password, and every user can read it (mode {mode:04o}); chmod o-r it"
            ));
        }
    }

    /// Refuses a socket where another file of the daemon's is, which it would have to remove or could not be made.
    pub(super) fn unixsocket(&mut self, main: &RawMain, config: &Config) {
        let (Some(setting), Some(socket)) = (given(&main.unixsocket), &config.main.unixsocket)
        else {
            return;
        };
        let length = socket.as_os_str().len();
        if length > MAX_SOCKET_PATH {
            let why = format!(
                "the path {} has {length} bytes, and a socket's at most {MAX_SOCKET_PATH}",
                socket.display()
            );
            self.refuse(setting, why);
        }
        let socket = plain(socket);
        let taken = self
            .files_of(config, main)
            .into_iter()
            .find(|(_, file)| plain(file) == socket);
        if let Some((what, file)) = taken {
            let why = format!("{} is {what}; choose another path", file.display());
            self.refuse(setting, why);
        }
    }

    /// Every path of the daemon's own that a socket must not take, and what it is.
    fn files_of(&self, config: &Config, main: &RawMain) -> Vec<(&'static str, PathBuf)> {
        let (name, dir) = (&config.main.name, &config.main.working_dir);
        let mut files = vec![
            ("the settings file", config.file.clone()),
            ("the pidfile", config.main.pid_file.clone()),
            ("the working directory", dir.clone()),
            ("the pidfile", dir.join(format!("run/{name}.pid"))),
            (
                "the admin port's file",
                dir.join(format!("run/{name}.port")),
            ),
            ("the queue's socket", dir.join(format!("run/{name}.store"))),
        ];
        files.extend(["run", "logs", "data"].map(|part| ("a directory of ours", dir.join(part))));
        files.extend(
            ["board", "node", "progress", "queue", "crashes"]
                .map(|part| ("a file of ours", dir.join(format!("data/{name}.{part}")))),
        );
        if let LogTarget::File(file) = &config.main.log {
            files.push(("the log", file.clone()));
        }
        if let Some(file) = text(&main.password_file) {
            files.push(("the password's file", self.directory.join(file)));
        }
        for pool in &config.pools {
            if let Program::Script { file, .. } = &pool.run.program {
                files.push(("a script", file.clone()));
            }
            if let Some(Address::Unix(path)) = pool.queue.as_ref().map(|queue| &queue.address) {
                files.push(("the queue's socket", path.clone()));
            }
        }
        files
    }
}

/// Whether the ini holds passwords of ours, not only the names of variables that do.
pub fn holds_password(file: &Layer) -> bool {
    file.entries.iter().any(|entry| {
        let is_url = entry.key == "url" && entry.text.contains('@');
        let is_password = ["password", "readonly_password"].contains(&entry.key.as_str());
        ["main", "queue"].contains(&split(&entry.section).0)
            && (is_password || is_url)
            && entry.is_literal
            && !entry.text.is_empty()
    })
}

/// Mode and text of a file that is short, and of the kind whose opening does not wait for anybody.
fn read_short(path: &Path) -> std::io::Result<(u32, String)> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    let file = File::open(path)?;
    let mode = file.metadata()?.permissions().mode();
    let mut bytes = Vec::new();
    file.take(MAX_PASSWORD_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_PASSWORD_FILE {
        return Err(std::io::Error::other("longer than 4096 bytes"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok((mode, text)),
        Err(_) => Err(std::io::Error::other("not UTF-8")),
    }
}

/// Without `.` and with `..` taken off, as far as that can be told without asking the disk.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            _ => plain.push(part),
        }
    }
    plain
}
