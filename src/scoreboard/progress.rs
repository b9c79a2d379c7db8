//! Progress of a reservation as two kinds of words: which reservation and how many of its jobs have ended (one word,
//! so that both change at once), and how each of them ended (two bits a job).
//!
//! A successor trusts these after `kill -9`: bits are written before the count that covers them, and are cleared
//! before the word of a new reservation. Pure.

/// Jobs of one reservation at most.
pub const MAX_JOBS: usize = 1000;

/// Words that hold two bits for each of [`MAX_JOBS`].
pub const OUTCOME_WORDS: usize = (2 * MAX_JOBS).div_ceil(64);

const ENDED_BITS: u32 = 16;

/// Which reservation is in hand, and how far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Number of the reservation's token, from 1; 0: none yet. Below 2^48.
    pub number: u64,
    /// Jobs of it that have ended, 0 to [`MAX_JOBS`].
    pub ended: usize,
}

impl Progress {
    /// Both in one word.
    pub fn pack(self) -> u64 {
        debug_assert!(self.number < 1 << (64 - ENDED_BITS) && self.ended <= MAX_JOBS);
        self.number << ENDED_BITS | self.ended as u64
    }

    /// Of a word.
    pub fn unpack(word: u64) -> Self {
        let ended = (word & ((1 << ENDED_BITS) - 1)) as usize;
        Self {
            number: word >> ENDED_BITS,
            ended: ended.min(MAX_JOBS),
        }
    }
}

/// How a job of a reservation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Done; also the state of cleared bits, so that the common case writes none.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// To be run again later.
    Retry = 2,
    /// To be set aside.
    Bury = 3,
}

impl Mark {
    /// The word that holds the mark of the job at `place`, and the bits to set in it.
    pub fn bits(self, place: usize) -> (usize, u64) {
        let bit = 2 * place;
        (bit / 64, (self as u64) << (bit % 64))
    }

    /// The mark of the job at `place`, from the word that holds it.
    pub fn read(word: u64, place: usize) -> Self {
        match word >> ((2 * place) % 64) & 3 {
            0 => Self::Done,
            1 => Self::Failed,
            2 => Self::Retry,
            _ => Self::Bury,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_and_count_survive_the_packing() {
        for progress in [
            Progress::default(),
            Progress {
                number: 1,
                ended: 0,
            },
            Progress {
                number: (1 << 48) - 1,
                ended: MAX_JOBS,
            },
        ] {
            assert_eq!(Progress::unpack(progress.pack()), progress);
        }
    }

    #[test]
    fn a_damaged_count_is_no_more_than_a_reservation_can_hold() {
        assert_eq!(Progress::unpack(u64::MAX).ended, MAX_JOBS);
    }

    #[test]
    fn every_place_has_bits_of_its_own() {
        let mut words = [0; OUTCOME_WORDS];
        let mark =
            |place: usize| [Mark::Done, Mark::Failed, Mark::Retry, Mark::Bury][place * 7 % 4];
        for place in 0..MAX_JOBS {
            let (word, bits) = mark(place).bits(place);
            words[word] |= bits;
        }
        for place in 0..MAX_JOBS {
            assert_eq!(Mark::read(words[2 * place / 64], place), mark(place));
        }
    }
}
