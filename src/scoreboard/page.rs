//! Where a slot's script notes how many runs it has finished, with one write before each reply: eight bytes, little
//! endian, at the start of a file in data/. It survives `kill -9` of worker, script and master.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

/// The page of one slot.
#[derive(Debug)]
pub struct Page(File);

impl Page {
    /// Opens the page, or makes it.
    ///
    /// # Errors
    /// When file or directory cannot be made.
    pub fn open(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::DirBuilder::new()
                .mode(0o750)
                .recursive(true)
                .create(directory)?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        options
            .mode(0o640)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
        let page = Self(options.open(path)?);
        // Room now, so that a disk that fills up later does not stop the script.
        nix::fcntl::posix_fallocate(&page.0, 0, 8)?;
        Ok(page)
    }

    /// Runs that the script has finished since [`Page::clear`].
    pub fn finished(&self) -> u64 {
        let mut bytes = [0; 8];
        match self.0.read_exact_at(&mut bytes, 0) {
            Ok(()) => u64::from_le_bytes(bytes),
            Err(_) => 0,
        }
    }

    /// Before a script starts.
    ///
    /// # Errors
    /// When the page cannot be written.
    pub fn clear(&self) -> io::Result<()> {
        self.0.write_all_at(&[0; 8], 0)
    }
}

impl AsFd for Page {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_script_noted_is_found_by_the_next_worker() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.progress/mail.3");
        let page = Page::open(&path).unwrap();
        assert_eq!(page.finished(), 0);
        page.0.write_all_at(&77u64.to_le_bytes(), 0).unwrap();
        drop(page);
        let page = Page::open(&path).unwrap();
        assert_eq!(page.finished(), 77);
        page.clear().unwrap();
        assert_eq!(page.finished(), 0);
    }
}
