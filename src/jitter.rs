//! Seeded randomness for delays and limits, so that processes which failed or were born together do not go on together.
//! Pure: who draws owns the seed. Used by the supervisor, the queue's backoff and the worker's limits.

use std::time::Duration;

/// A sequence that its seed determines.
#[derive(Clone, Debug)]
pub struct Jitter(u64);

impl Jitter {
    /// Any number will do; those who shall differ need different ones.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A delay between half of `full` and `full`.
    pub fn half_to_full(&mut self, full: Duration) -> Duration {
        full / 2 + (full / 2).mul_f64(self.share())
    }

    /// From 0.0 to just below 1.0.
    pub fn share(&mut self) -> f64 {
        // 53 bits: what a double holds exactly.
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Sebastiano Vigna's SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_stay_between_half_and_full_and_repeat_with_their_seed() {
        let full = Duration::from_secs(30);
        let draw = |seed| {
            let mut jitter = Jitter::new(seed);
            let delays = (0..1000).map(|_| jitter.half_to_full(full));
            delays.collect::<Vec<_>>()
        };
        assert!(draw(7).iter().all(|it| (full / 2..=full).contains(it)));
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn numbers_are_those_of_splitmix64() {
        let mut jitter = Jitter::new(1_234_567);
        assert_eq!(jitter.next(), 6_457_827_717_110_365_317);
        assert_eq!(jitter.next(), 3_203_168_211_198_807_973);
    }
}
