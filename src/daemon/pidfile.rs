//! The pidfile: one daemon at a time, by a lock of the kernel. What the file says is for people and scripts; who runs
//! is known from the lock alone, so a stale file is no obstacle and a foreign pid is never believed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Failure, status};
use crate::sys::locks;

/// The lock, held until drop or the end of the process. A forked child does not inherit it.
#[derive(Debug)]
pub struct Pidfile {
    path: PathBuf,
    file: File,
}

impl Pidfile {
    /// Locks the file and writes this process's pid into it.
    ///
    /// # Errors
    /// 75 when another process holds the lock (its pid is named), 73 when the file cannot be made.
    pub fn lock(path: &Path) -> Result<Self, Failure> {
        let cannot = |err: io::Error| {
            Failure::new(
                status::CANNOT_CREATE,
                format!("cannot lock pidfile {}: {err}", path.display()),
            )
        };
        // The file may be unlinked by a daemon that ends between our open and our lock: then look again.
        loop {
            let file = open(path).map_err(cannot)?;
            if !locks::try_lock(&file, 0, 0).map_err(cannot)? {
                match locks::holder(&file, 0, 0).map_err(cannot)? {
                    Some(pid) => return Err(already_running(path, pid)),
                    None => continue,
                }
            }
            if !is_still(path, &file) {
                continue;
            }
            let mut pidfile = Self {
                path: path.to_path_buf(),
                file,
            };
            if let Err(err) = pidfile.write() {
                pidfile.remove();
                return Err(cannot(err));
            }
            return Ok(pidfile);
        }
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        writeln!(self.file, "{}", std::process::id())
    }

    /// Takes the file away; the lock ends with it.
    pub fn remove(self) {
        if is_still(&self.path, &self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The daemon that holds the pidfile's lock now, if one runs.
///
/// # Errors
/// When we may not look: then nothing is known.
pub fn holder(path: &Path) -> io::Result<Option<i32>> {
    let mut options = OpenOptions::new();
    // To be read is enough to ask for a lock.
    match options.read(true).custom_flags(libc::O_NOFOLLOW).open(path) {
        Ok(file) => locks::holder(&file, 0, 0),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

fn already_running(path: &Path, pid: i32) -> Failure {
    Failure::new(
        status::ALREADY_RUNNING,
        format!(
            "cannot lock pidfile {}: already running, pid {pid}",
            path.display()
        ),
    )
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options
        .mode(0o640)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
}

fn is_still(path: &Path, file: &File) -> bool {
    match (fs::symlink_metadata(path), file.metadata()) {
        (Ok(there), Ok(ours)) => there.dev() == ours.dev() && there.ino() == ours.ino(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_file_with_a_living_foreign_pid_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.pid");
        fs::write(&path, "1\nand more than that\n").unwrap();
        assert_eq!(holder(&path).unwrap(), None);
        let pidfile = Pidfile::lock(&path).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            format!("{}\n", std::process::id())
        );
        pidfile.remove();
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_somebody_put_in_its_place_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.pid");
        let pidfile = Pidfile::lock(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "other").unwrap();
        pidfile.remove();
        assert_eq!(fs::read_to_string(&path).unwrap(), "other");
    }

    #[test]
    fn no_file_means_no_daemon_and_one_that_cannot_be_read_means_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.pid");
        assert_eq!(holder(&path).unwrap(), None);
        assert_eq!(holder(&dir.path().join("none/t.pid")).unwrap(), None);
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(holder(&path).is_err());
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("missing/t.pid");
        let failure = Pidfile::lock(&path).unwrap_err();
        assert_eq!(failure.status, status::CANNOT_CREATE);
        let start = format!("cannot lock pidfile {}: ", path.display());
        assert!(failure.message.starts_with(&start), "{failure}");
    }
}
