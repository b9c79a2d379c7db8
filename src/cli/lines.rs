//! Lines of bounded length out of a stream of bytes, none of them changed. It never reads by itself: who waits for input
//! must be free to do something else meanwhile. Pure but for the reader that it is given.

use std::io::{self, Read};

/// A longer line than that, or a failed read.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// This line, counted from 1, is too long.
    #[error("line {number} of stdin is longer than {limit} bytes")]
    TooLong {
        /// Its number.
        number: u64,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The reader failed.
    #[error("cannot read stdin: {0}")]
    Read(#[from] io::Error),
}

/// Input cut into lines.
#[derive(Debug)]
pub struct Lines<R> {
    input: R,
    buffer: Box<[u8]>,
    /// What is read and not yet taken.
    start: usize,
    end: usize,
    /// The line that is not yet complete.
    line: Vec<u8>,
    is_at_end: bool,
    /// Lines that were taken.
    taken: u64,
    limit: usize,
}

impl<R: Read> Lines<R> {
    /// Lines of at most `limit` bytes, their end not counted.
    pub fn new(input: R, limit: usize) -> Self {
        Self {
            input,
            buffer: vec![0; 256 * 1024].into(),
            start: 0,
            end: 0,
            line: Vec::new(),
            is_at_end: false,
            taken: 0,
            limit,
        }
    }

    /// The next line without its `\n`; at the end also what follows the last `\n`, if anything does. None: read first,
    /// or [`Lines::is_at_end`].
    ///
    /// # Errors
    /// [`LineError::TooLong`], as soon as it is seen.
    pub fn take(&mut self) -> Result<Option<Vec<u8>>, LineError> {
        let unread = &self.buffer[self.start..self.end];
        let found = unread.iter().position(|byte| *byte == b'\n');
        let part = &unread[..found.unwrap_or(unread.len())];
        if self.line.len() + part.len() > self.limit {
            let (number, limit) = (self.taken + 1, self.limit);
            return Err(LineError::TooLong { number, limit });
        }
        self.line.extend_from_slice(part);
        self.start += part.len() + usize::from(found.is_some());
        let is_rest = self.is_at_end && !self.line.is_empty();
        if found.is_none() && !is_rest {
            return Ok(None);
        }
        self.taken += 1;
        Ok(Some(std::mem::take(&mut self.line)))
    }

    /// Reads once; to be called when [`Lines::take`] gave none.
    ///
    /// # Errors
    /// [`LineError::Read`].
    pub fn read(&mut self) -> Result<(), LineError> {
        match self.input.read(&mut self.buffer) {
            Ok(count) => {
                (self.start, self.end) = (0, count);
                self.is_at_end = count == 0;
                Ok(())
            }
            Err(err) if err.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(err) => Err(err.into()),
        }
    }

    /// Nothing comes any more but what [`Lines::take`] still gives.
    pub fn is_at_end(&self) -> bool {
        self.is_at_end
    }

    /// The reader.
    pub fn input(&self) -> &R {
        &self.input
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that gives so many bytes at a time.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn lines(text: &[u8], piece: usize, limit: usize) -> Result<Vec<Vec<u8>>, LineError> {
        let mut lines = Lines::new(Pieces(text, piece), limit);
        let mut all = Vec::new();
        loop {
            while let Some(line) = lines.take()? {
                all.push(line);
            }
            if lines.is_at_end() {
                return Ok(all);
            }
            lines.read()?;
        }
    }

    #[test]
    fn lines_are_cut_at_newlines_alone_however_they_arrive() {
        let cases: [(&[u8], &[&[u8]]); 6] = [
            (b"", &[]),
            (b"\n", &[b""]),
            (b"a", &[b"a"]),
            (b"a\n\nb\r\n", &[b"a", b"", b"b\r"]),
            (b"a\0\xff\nlast", &[b"a\0\xff", b"last"]),
            (b"\n\n", &[b"", b""]),
        ];
        for (text, expected) in cases {
            for piece in 1..=text.len().max(1) {
                assert_eq!(
                    lines(text, piece, 9).unwrap(),
                    expected,
                    "{text:?} by {piece}"
                );
            }
        }
    }

    #[test]
    fn a_line_of_the_limit_is_taken_and_one_byte_more_is_refused_by_its_number() {
        for piece in [1, 3, 100] {
            assert_eq!(lines(b"12345\n12345", piece, 5).unwrap().len(), 2);
            for text in [&b"1\n123456\n"[..], b"1\n123456", b"1\n1234567890"] {
                let error = lines(text, piece, 5).unwrap_err().to_string();
                assert_eq!(error, "line 2 of stdin is longer than 5 bytes");
            }
        }
    }
}
