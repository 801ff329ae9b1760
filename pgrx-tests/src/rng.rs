//! Seeded choices.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// A source of choices that a seed repeats.
pub struct Rng(StdRng);

impl Rng {
    /// The source of one actor of a run.
    pub fn new(seed: u64, actor: u64) -> Self {
        Self(StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(actor)))
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u32) -> u32 {
        self.0.random_range(0..n)
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u32) as usize]
    }
}
