//! Where a slot's script notes how many runs it has finished, with one write before each reply: eight bytes, little
//! endian, at the start of a file in data/. Before that it notes a run that failed: how many have, in the next eight
//! bytes, and behind them the number of each, in a ring. It survives `kill -9` of worker, script and master.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

/// Failed runs in the ring: more than a reservation has jobs.
const FAILURES: usize = 1024;
const BYTES: usize = 8 * (2 + FAILURES);

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
        nix::fcntl::posix_fallocate(&page.0, 0, BYTES as libc::off_t)?;
        Ok(page)
    }

    /// What the script has noted since [`Page::clear`].
    pub fn read(&self) -> Noted {
        let mut bytes = vec![0; BYTES];
        // An executable may note the count alone, and make the file no longer than that.
        let length = self.0.read_at(&mut bytes, 0).unwrap_or(0);
        bytes[length..].fill(0);
        let word = |place: usize| {
            let bytes = bytes[8 * place..][..8].try_into();
            u64::from_le_bytes(bytes.expect("a word has eight bytes"))
        };
        let failures = (word(1) as usize).min(FAILURES);
        Noted {
            finished: word(0),
            failed: (0..failures).map(|place| word(2 + place)).collect(),
        }
    }

    /// Before a script starts.
    ///
    /// # Errors
    /// When the page cannot be written.
    pub fn clear(&self) -> io::Result<()> {
        self.0.write_all_at(&[0; 16], 0)
    }
}

/// What a script noted on its page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// Runs that it has finished since its start.
    pub finished: u64,
    /// The numbers, from 1, of those that failed; of the last thousand at least.
    pub failed: HashSet<u64>,
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
        assert_eq!(page.read(), Noted::default());
        for (place, word) in [77u64, 2, 5, 70].into_iter().enumerate() {
            let at = 8 * place as u64;
            page.0.write_all_at(&word.to_le_bytes(), at).unwrap();
        }
        drop(page);
        let page = Page::open(&path).unwrap();
        let noted = Noted {
            finished: 77,
            failed: HashSet::from([5, 70]),
        };
        assert_eq!(page.read(), noted);
        page.clear().unwrap();
        assert_eq!(page.read(), Noted::default());
    }
}
