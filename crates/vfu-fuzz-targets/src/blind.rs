//! Input without a guide: made from what there is by changes at random, the same for the same seed.
//! For plain tests, and where libFuzzer can't be built.

/// A source of numbers (splitmix64).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// An input of at most `max_len` bytes: new, or one of `known` with a few changes.
pub fn input(rng: &mut Rng, known: &[Vec<u8>], max_len: usize) -> Vec<u8> {
    if known.is_empty() || rng.below(8) == 0 {
        let len = rng.below(max_len + 1);
        return rng.bytes(len);
    }
    let mut bytes = known[rng.below(known.len())].clone();
    for _ in 0..=rng.below(4) {
        change(rng, &mut bytes, known);
    }
    bytes.truncate(max_len);
    bytes
}

fn change(rng: &mut Rng, bytes: &mut Vec<u8>, known: &[Vec<u8>]) {
    let at = rng.below(bytes.len() + 1);
    let end = at + rng.below((bytes.len() - at).min(16) + 1);
    match rng.below(6) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..end)),
        2 => {
            let len = rng.below(9);
            let new = rng.bytes(len);
            bytes.splice(at..at, new).for_each(drop);
        }
        3 => {
            let again = bytes[at..end].to_vec();
            bytes.splice(at..at, again).for_each(drop);
        }
        4 => {
            let other = &known[rng.below(known.len())];
            bytes.truncate(at);
            bytes.extend_from_slice(&other[rng.below(other.len() + 1)..]);
        }
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << rng.below(8);
            }
        }
    }
}
