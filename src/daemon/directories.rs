//! run/, logs/ and data/ under the working directory: made when absent, refused when another user could plant files.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use super::{Failure, status};

const MODE: u32 = 0o750;
const STICKY: u32 = 0o1000;
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Makes a directory, with its parents, or checks the one that is there; we can make files in it.
///
/// # Errors
/// Those of [`ensure_safe`], and 73 when it cannot be written to.
pub fn ensure(path: &Path) -> Result<(), Failure> {
    ensure_safe(path)?;
    nix::unistd::access(
        path,
        nix::unistd::AccessFlags::W_OK | nix::unistd::AccessFlags::X_OK,
    )
    .map_err(|err| cannot("write to", path, &err.into()))
}

/// The same for a directory whose file may be there already, as an administrator makes one in /var/log.
///
/// # Errors
/// 73 when it cannot be made, 77 when it is a symbolic link, belongs to another ordinary user, or may be written to by
/// others without being sticky.
pub fn ensure_safe(path: &Path) -> Result<(), Failure> {
    if let Some(parent) = path.parent()
        && !parent.exists()
    {
        ensure_safe(parent)?;
    }
    match fs::DirBuilder::new().mode(MODE).create(path) {
        Ok(()) => Ok(()),
        Err(err) if err.kind() == ErrorKind::AlreadyExists => check(path),
        Err(err) => Err(cannot("create", path, &err)),
    }
}

/// Whether a directory that is there is safe to keep our files in.
fn check(path: &Path) -> Result<(), Failure> {
    let meta = fs::symlink_metadata(path).map_err(|err| cannot("use", path, &err))?;
    let refuse = |why: String| {
        Err(Failure::new(
            status::NOT_PERMITTED,
            format!("cannot use directory {}: {why}", path.display()),
        ))
    };
    if !meta.is_dir() {
        return refuse("it is no directory".into());
    }
    let own = nix::unistd::geteuid().as_raw();
    if meta.uid() != own && meta.uid() != 0 {
        return refuse(format!(
            "it belongs to user {}, not to us ({own}); choose another main.working_dir",
            meta.uid()
        ));
    }
    if meta.mode() & WRITABLE_BY_OTHERS != 0 && meta.mode() & STICKY == 0 {
        return refuse(format!(
            "others may write to it (mode {:04o}); chmod go-w it, or choose another main.working_dir",
            meta.mode() & 0o7777
        ));
    }
    Ok(())
}

fn cannot(verb: &str, path: &Path, err: &std::io::Error) -> Failure {
    Failure::new(
        status::CANNOT_CREATE,
        format!("cannot {verb} directory {}: {err}", path.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_missing_directory_is_made_for_us_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/run");
        ensure(&path).unwrap();
        ensure(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777 & !MODE, 0);
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused_unless_sticky() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let failure = ensure(&path).unwrap_err();
        assert_eq!(failure.status, status::NOT_PERMITTED);
        assert!(
            failure
                .message
                .contains("others may write to it (mode 0777)"),
            "{failure}"
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o1777)).unwrap();
        ensure(&path).unwrap();
    }

    #[test]
    fn a_file_or_a_link_in_its_place_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("run"), "").unwrap();
        assert!(ensure(&dir.path().join("run")).is_err());
        fs::create_dir(dir.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", dir.path().join("logs")).unwrap();
        assert_eq!(
            ensure(&dir.path().join("logs")).unwrap_err().status,
            status::NOT_PERMITTED
        );
    }
}
