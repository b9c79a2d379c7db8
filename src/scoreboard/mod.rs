//! The scoreboard: a mapped file in data/ with one record per slot, which survives `kill -9` of worker and master.
//!
//! The master opens it, gives records to slots and reads figures; a worker writes its own record with plain atomic
//! stores; its successor reads there what had ended. The keeper counts who is idle. The layout is versioned: a file
//! of a newer stark is refused, never reinterpreted.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::map::SharedWords;
use crate::sys::{locks, process};

mod identity;
mod outage;
mod page;
mod pools;
pub mod progress;
mod record;
mod remains;
mod run_times;

pub use identity::Identity;
pub use outage::Outage;
pub use page::{Noted, Page};
pub use pools::{Counts, MAX_POOLS, MAX_QUEUES, QueueSample};
pub use record::{NO_SCRIPT, Record, State, Totals};
pub use run_times::RunTimes;

/// Slots that a file has room for.
pub const RECORDS: usize = 4096;

const MAGIC: u64 = u64::from_le_bytes(*b"starkbrd");
const VERSION: u64 = 2;
/// Which slot each record belongs to; apart from the records, so that a search touches few pages.
const OWNERS: usize = pools::END;
const HEADER_WORDS: usize = OWNERS + RECORDS;
const RECORD_WORDS: usize = 128;
const WORDS: usize = HEADER_WORDS + RECORDS * RECORD_WORDS;

/// Words of the header.
mod header {
    pub const MAGIC: usize = 0;
    pub const VERSION: usize = 1;
    pub const BOOT_ID: usize = 2;
    pub const LOG_GENERATION: usize = 3;
    pub const ASKED_MS: usize = 4;
    pub const END: usize = 16;
}

/// The mapped file.
#[derive(Debug)]
pub struct Scoreboard {
    words: SharedWords,
    /// The only descriptor of the file that a process of this daemon ever has: closing any would give its locks back,
    /// and a file put in its place would be another one to lock.
    file: File,
}

impl Scoreboard {
    /// Opens the file, or makes it. For the master, which holds the daemon's lock.
    ///
    /// # Errors
    /// When the file cannot be made or mapped, or was written by another version.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = open_file(path)?;
        let is_new = check(&file)?;
        if file.metadata()?.len() < (WORDS * 8) as u64 {
            // Room on the disk, not only a length: a write to a hole of a mapped file on a full disk is SIGBUS.
            nix::fcntl::posix_fallocate(&file, 0, (WORDS * 8) as libc::off_t)?;
        }
        let words = SharedWords::map(&file, WORDS)?;
        let word = |place| words.word(place);
        if is_new {
            word(header::VERSION).store(VERSION, Ordering::Relaxed);
            word(header::MAGIC).store(MAGIC, Ordering::Release);
        }
        let board = Self { words, file };
        board.begin_boot(process::boot_id());
        Ok(board)
    }

    /// After a start of the machine the processes in the records are no more, and their pids may be others'. Pages are
    /// not believed either: what reached the disk before the power failed may be older than the board.
    fn begin_boot(&self, boot: u64) {
        let of_board = self.words.word(header::BOOT_ID);
        if of_board.load(Ordering::Relaxed) == boot {
            return;
        }
        for place in (0..RECORDS).filter(|place| self.owner(*place).load(Ordering::Relaxed) != 0) {
            self.record(place).begin_boot();
        }
        of_board.store(boot, Ordering::Release);
    }

    /// The record of a slot: the one it had before, else a free one, else the one of a slot that `in_use` denies.
    ///
    /// # Errors
    /// When all records are in use.
    pub fn claim(
        &self,
        pool: &str,
        slot: u32,
        in_use: &dyn Fn(usize) -> bool,
    ) -> io::Result<usize> {
        let owner = record::owner(pool, slot);
        let mut free = None;
        for place in 0..RECORDS {
            match self.owner(place).load(Ordering::Relaxed) {
                found if found == owner => return Ok(place),
                0 if free.is_none() => free = Some(place),
                _ => {}
            }
        }
        // A slot that is gone keeps its totals as long as there is room for others.
        let place = free.or_else(|| (0..RECORDS).find(|place| !in_use(*place)));
        let place =
            place.ok_or_else(|| io::Error::other("the scoreboard has no room for another slot"))?;
        self.record(place).clear();
        self.owner(place).store(owner, Ordering::Relaxed);
        Ok(place)
    }

    /// The record that a slot had, if it ever had one.
    pub fn find(&self, pool: &str, slot: u32) -> Option<usize> {
        let owner = record::owner(pool, slot);
        (0..RECORDS).find(|place| self.owner(*place).load(Ordering::Relaxed) == owner)
    }

    fn owner(&self, place: usize) -> &AtomicU64 {
        self.words.word(OWNERS + place)
    }

    /// The record at this place.
    pub fn record(&self, place: usize) -> Record<'_> {
        Record::new(&self.words, HEADER_WORDS + place * RECORD_WORDS)
    }

    /// Locks a record for this process until it ends. False: another process holds it.
    ///
    /// # Errors
    /// When the kernel has no room for a lock.
    pub fn lock(&self, place: usize) -> io::Result<bool> {
        let (start, length) = lock_range(place);
        locks::try_lock(&self.file, start, length)
    }

    /// Gives a record's lock back.
    pub fn unlock(&self, place: usize) {
        let (start, length) = lock_range(place);
        locks::unlock(&self.file, start, length);
    }

    /// The other process that holds a record's lock.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn holder(&self, place: usize) -> io::Result<Option<i32>> {
        let (start, length) = lock_range(place);
        locks::holder(&self.file, start, length)
    }

    /// Rises when an operator asks for logs to be reopened; every writer compares it before a line.
    pub fn log_generation(&self) -> &AtomicU64 {
        self.words.word(header::LOG_GENERATION)
    }
}

/// For the list of what a forked process keeps.
impl AsRawFd for Scoreboard {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options
        .mode(0o640)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
    options.open(path).map_err(|err| match err.raw_os_error() {
        Some(libc::ELOOP) => io::Error::other("it is a symbolic link"),
        _ => err,
    })
}

/// Whether the file was never written to; fails when it is not ours. Read and not mapped: it may be shorter.
fn check(file: &File) -> io::Result<bool> {
    let mut head = [0; 16];
    let length = file.read_at(&mut head, 0)?;
    let word = |place: usize| {
        let bytes = head[place * 8..][..8].try_into();
        u64::from_ne_bytes(bytes.expect("a word has eight bytes"))
    };
    match (word(header::MAGIC), word(header::VERSION)) {
        (MAGIC, VERSION) => Ok(false),
        // So is one whose first start ended on a full disk, or right after it had made room.
        (0, 0) => Ok(true),
        (MAGIC, version) if length == head.len() => {
            let cure = "run the stark that wrote it, or stop that one and move the file away";
            Err(io::Error::other(format!(
                "version {version} of the file is not {VERSION}; {cure}"
            )))
        }
        _ => Err(io::Error::other("not a scoreboard; move the file away")),
    }
}

fn lock_range(place: usize) -> (u64, u64) {
    (((HEADER_WORDS + place * RECORD_WORDS) * 8) as u64, 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> (tempfile::TempDir, Scoreboard) {
        let dir = tempfile::tempdir().unwrap();
        let board = Scoreboard::open(&dir.path().join("t.board")).unwrap();
        (dir, board)
    }

    #[test]
    fn a_slot_finds_its_record_and_its_totals_again() {
        let (dir, board) = board();
        let none = |_: usize| false;
        let first = board.claim("mail", 3, &none).unwrap();
        let other = board.claim("mail", 4, &none).unwrap();
        assert_ne!(first, other);
        board
            .record(first)
            .count_run(std::time::Duration::from_micros(5), progress::Mark::Failed);
        let again = Scoreboard::open(&dir.path().join("t.board")).unwrap();
        assert_eq!(again.claim("mail", 3, &none).unwrap(), first);
        assert_eq!(again.record(first).totals().runs, 1);
    }

    #[test]
    fn processes_of_an_earlier_start_of_the_machine_are_forgotten() {
        let (dir, board) = board();
        let path = dir.path().join("t.board");
        let place = board.claim("p", 0, &|_| false).unwrap();
        let myself = Identity::of(std::process::id() as i32);
        board.record(place).move_in(1, myself);
        board.record(place).set_script(myself);
        let again = Scoreboard::open(&path).unwrap();
        assert_eq!(again.record(place).worker(), myself);
        assert!(again.record(place).script().is_alive());

        board
            .words
            .word(header::BOOT_ID)
            .fetch_add(1, Ordering::Relaxed);
        let rebooted = Scoreboard::open(&path).unwrap();
        assert_eq!(rebooted.record(place).worker(), Identity::default());
        assert!(!rebooted.record(place).script().is_alive());
    }

    #[test]
    fn a_full_board_gives_away_only_what_is_not_in_use() {
        let (_dir, board) = board();
        for slot in 0..RECORDS as u32 {
            board.claim("p", slot, &|_| false).unwrap();
        }
        assert!(board.claim("q", 0, &|_| true).is_err());
        assert_eq!(board.claim("q", 0, &|place| place != 7).unwrap(), 7);
    }

    #[test]
    fn another_version_and_another_file_are_refused_and_left_alone() {
        let (dir, board) = board();
        board
            .words
            .word(header::VERSION)
            .store(VERSION + 1, Ordering::Relaxed);
        let path = dir.path().join("t.board");
        let err = Scoreboard::open(&path).unwrap_err().to_string();
        assert!(err.contains("version 3"), "{err}");
        let path = dir.path().join("other");
        std::fs::write(&path, "hello, world").unwrap();
        assert!(
            Scoreboard::open(&path)
                .unwrap_err()
                .to_string()
                .contains("not a scoreboard")
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"hello, world");
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(dir.path().join("target"), dir.path().join("t.board")).unwrap();
        assert!(Scoreboard::open(&dir.path().join("t.board")).is_err());
        assert!(!dir.path().join("target").exists());
    }
}
