//! The daemon's identity in the store, in data/NAME.node: the reserved lists of its workers carry it, so that the
//! next start finds them again.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const HEAD: &str = "stark-node/1";

/// The identity in the file; a fresh one when there is no file yet. For who holds the daemon's lock: of two that draw one
/// at the same time, one would work under a name that the file does not keep.
///
/// # Errors
/// When the file cannot be read or made, or was written by another version.
pub fn load_or_create(path: &Path) -> io::Result<String> {
    match load(path)? {
        Some(node) => Ok(node),
        None => create(path),
    }
}

/// The identity in the file, if there is one.
///
/// # Errors
/// When the file cannot be read, or was written by another version.
pub fn load(path: &Path) -> io::Result<Option<String>> {
    match OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
    {
        Ok(file) => {
            let mut text = String::new();
            file.take(4096).read_to_string(&mut text)?;
            parse(&text).map(Some)
        }
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

fn parse(text: &str) -> io::Result<String> {
    let mut lines = text.lines();
    if lines.next() != Some(HEAD) {
        return Err(io::Error::other(format!(
            "its first line is not {HEAD:?}; run the stark that wrote it"
        )));
    }
    let node = lines.next().and_then(|line| line.strip_prefix("node="));
    let is_sound =
        |node: &&str| !node.is_empty() && node.bytes().all(|byte| byte.is_ascii_alphanumeric());
    node.filter(is_sound)
        .map(String::from)
        .ok_or_else(|| io::Error::other("it names no node"))
}

/// Written aside and renamed: a half written identity would orphan what is reserved under it.
fn create(path: &Path) -> io::Result<String> {
    let node = format!("{:016x}", random_u64()?);
    let aside = path.with_extension("node.new");
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .custom_flags(libc::O_NOFOLLOW);
    let mut file = options.open(&aside)?;
    file.write_all(format!("{HEAD}\nnode={node}\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    Ok(node)
}

/// A number that nobody can guess and no other start draws.
pub fn random_u64() -> io::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|err| io::Error::other(err.to_string()))?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.node");
        assert_eq!(load(&path).unwrap(), None);
        assert!(!path.exists(), "looking makes none");
        let node = load_or_create(&path).unwrap();
        assert_eq!(node.len(), 16);
        assert_eq!(load(&path).unwrap().as_ref(), Some(&node));
        assert_eq!(load_or_create(&path).unwrap(), node);
    }

    #[test]
    fn a_newer_or_damaged_file_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        for text in [
            "stark-node/2\nnode=abc\n",
            "",
            "stark-node/1\n",
            "stark-node/1\nnode=a b\n",
        ] {
            let path = dir.path().join("t.node");
            fs::write(&path, text).unwrap();
            assert!(load_or_create(&path).is_err(), "{text:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
