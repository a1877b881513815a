//! Numbers that programs get wrong.

use fastrand::Rng;

/// A number near a limit of somebody, or any number.
pub(crate) fn interesting(rng: &mut Rng) -> u64 {
    const KNOWN: [u64; 22] = [
        0,
        1,
        2,
        3,
        4,
        7,
        8,
        9,
        16,
        24,
        32,
        33,
        255,
        4095,
        4096,
        4097,
        65535,
        65536,
        1 << 20,
        (1 << 20) + 1,
        0x7fff_ffff,
        0xffff_ffff,
    ];
    match rng.u8(0..8) {
        0..4 => rng.choice(KNOWN).unwrap_or(0),
        4 => (1_u64 << rng.u32(0..64)).wrapping_sub(rng.u64(0..3)),
        5 => u64::MAX - rng.u64(0..17),
        6 => 1_u64 << 63 | rng.u64(0..17),
        _ => rng.u64(..) >> rng.u32(0..64),
    }
}

/// A value that differs from `was`, for the same purpose.
pub(crate) fn changed(rng: &mut Rng, was: u64) -> u64 {
    match rng.u8(0..6) {
        0 => was.wrapping_add(1),
        1 => was.wrapping_sub(1),
        2 => was ^ 1 << rng.u32(0..32),
        3 => was.wrapping_mul(2),
        _ => interesting(rng),
    }
}

/// True once in `n`.
pub(crate) fn one_in(rng: &mut Rng, n: u32) -> bool {
    rng.u32(0..n) == 0
}
