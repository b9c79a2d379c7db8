//! A file mapped into several processes, seen as 64-bit words that are read and written atomically.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A shared mapping; stays valid over fork and after the file's descriptor is closed.
#[derive(Debug)]
pub struct SharedWords {
    base: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the memory is reached only through atomics, and lives until drop.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Maps `words` words from the start of `file`, which must be that long: reading past its end would raise SIGBUS.
    pub fn map(file: &File, words: usize) -> io::Result<Self> {
        let length = words
            .checked_mul(8)
            .and_then(NonZeroUsize::new)
            .ok_or(io::ErrorKind::InvalidInput)?;
        if file.metadata()?.len() < length.get() as u64 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "file is shorter than its mapping",
            ));
        }
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new shared mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, file, 0)? };
        Ok(Self {
            base: base.cast(),
            words,
        })
    }

    /// The word at this place.
    ///
    /// # Panics
    /// When the place is outside the mapping.
    pub fn word(&self, place: usize) -> &AtomicU64 {
        assert!(place < self.words, "word outside the mapping");
        // SAFETY: inside the mapping (checked), page-aligned base, any bit pattern is a valid u64.
        unsafe { self.base.add(place).as_ref() }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: base and length are those of mmap; no reference outlives `self`.
        let _ = unsafe { munmap(self.base.cast(), self.words * 8) };
    }
}
