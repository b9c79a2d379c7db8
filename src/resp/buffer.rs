//! Bytes that arrived and are not decoded yet. Read at the front by offset, filled at the back; what was read is dropped
//! only when room is needed, so that each byte is moved a bounded number of times.

/// An empty buffer keeps no more storage than this, so that one large command is not paid for ever.
const KEPT_BYTES: usize = 256 * 1024;

/// A queue of bytes that hands out its front as one slice.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    /// Initialised storage; the unread bytes are `start..end`.
    storage: Vec<u8>,
    start: usize,
    end: usize,
    /// So many unread bytes are known to hold no line feed.
    searched: usize,
}

impl Buffer {
    /// What is not consumed yet.
    pub fn unread(&self) -> &[u8] {
        &self.storage[self.start..self.end]
    }

    /// Forgets the first `count` unread bytes.
    pub fn consume(&mut self, count: usize) {
        self.start += count;
        self.searched = 0;
        debug_assert!(self.start <= self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.storage.len() > KEPT_BYTES {
                self.storage = Vec::new();
            }
        }
    }

    /// Where the next unread line feed stands. Looks at each byte once, however often it is asked.
    pub fn find_line_feed(&mut self) -> Option<usize> {
        let unread = &self.storage[self.start..self.end];
        let found = unread[self.searched..].iter().position(|&b| b == b'\n');
        match found {
            Some(place) => Some(self.searched + place),
            None => {
                self.searched = unread.len();
                None
            }
        }
    }

    /// Appends bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.filled(bytes.len());
    }

    /// Room for at least `min` bytes behind the unread ones; tell [`Buffer::filled`] how many were written.
    pub fn space(&mut self, min: usize) -> &mut [u8] {
        if self.storage.len() - self.end < min {
            self.make_room(min);
        }
        &mut self.storage[self.end..]
    }

    /// The first `count` bytes of the last [`Buffer::space`] hold input now.
    pub fn filled(&mut self, count: usize) {
        assert!(count <= self.storage.len() - self.end);
        self.end += count;
    }

    /// Moving costs as much as what is unread, so it is done only when that frees as much; else the storage doubles.
    fn make_room(&mut self, min: usize) {
        let unread = self.end - self.start;
        if self.start >= unread {
            self.storage.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, unread);
        }
        let needed = self.end + min;
        if self.storage.len() < needed {
            self.storage.resize(needed.max(2 * unread), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_the_order_they_went_in() {
        let mut buffer = Buffer::default();
        let (mut fed, mut read) = (0u32, 0u32);
        for round in 0..2000usize {
            let piece: Vec<u8> = (0..round % 17).map(|i| (fed + i as u32) as u8).collect();
            fed += piece.len() as u32;
            buffer.feed(&piece);
            let take = buffer.unread().len().min((round * 7) % 19);
            for &byte in &buffer.unread()[..take] {
                assert_eq!(byte, read as u8);
                read += 1;
            }
            buffer.consume(take);
            assert_eq!(buffer.unread().len(), (fed - read) as usize);
        }
    }

    #[test]
    fn a_steady_stream_does_not_grow_the_storage() {
        let mut buffer = Buffer::default();
        for _ in 0..100_000 {
            buffer.feed(&[1; 30]);
            if buffer.unread().len() > 100 {
                buffer.consume(90);
            }
        }
        assert!(buffer.storage.len() < 1000, "{}", buffer.storage.len());
    }

    #[test]
    fn an_empty_buffer_gives_large_storage_back() {
        let mut buffer = Buffer::default();
        buffer.feed(&vec![0; KEPT_BYTES + 1]);
        buffer.consume(KEPT_BYTES);
        assert!(buffer.storage.len() > KEPT_BYTES);
        buffer.consume(1);
        assert_eq!(buffer.storage.capacity(), 0);
        buffer.feed(b"ab");
        assert_eq!(buffer.unread(), b"ab");
    }

    #[test]
    fn a_line_feed_is_found_behind_what_was_searched_before() {
        let mut buffer = Buffer::default();
        buffer.feed(b"abc");
        assert_eq!(buffer.find_line_feed(), None);
        buffer.feed(b"d\ne\n");
        assert_eq!(buffer.find_line_feed(), Some(4));
        buffer.consume(5);
        assert_eq!(buffer.find_line_feed(), Some(1));
    }
}
