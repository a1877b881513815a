//! Bytes as a script: each asked for says what happens next. Behind the end everything is 0.

use arbitrary::Unstructured;

pub(crate) struct Script<'a>(Unstructured<'a>);

impl<'a> Script<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Script(Unstructured::new(bytes))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.0.arbitrary().unwrap_or_default()
    }

    pub(crate) fn u16(&mut self) -> u16 {
        self.0.arbitrary().unwrap_or_default()
    }

    pub(crate) fn u32(&mut self) -> u32 {
        self.0.arbitrary().unwrap_or_default()
    }

    pub(crate) fn u64(&mut self) -> u64 {
        self.0.arbitrary().unwrap_or_default()
    }

    /// One of `n`, of at most 256.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::from(self.u8()) % n.max(1)
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// The next `len` bytes, or what there is.
    pub(crate) fn bytes(&mut self, len: usize) -> &'a [u8] {
        self.0.bytes(len.min(self.0.len())).unwrap_or_default()
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.0.take_rest()
    }

    /// A number that means something somewhere: small ones, powers of two, pages, limits.
    pub(crate) fn number(&mut self) -> u64 {
        let kind = self.u8();
        let small = u64::from(kind >> 3);
        match kind & 7 {
            0 => small,
            1 => small << 12,
            2 => 1 << (kind >> 2),
            3 => (1_u64 << (kind >> 2)).wrapping_sub(1),
            4 => u64::MAX - small,
            5 => u64::from(u32::MAX) - small,
            6 => u64::from(self.u16()),
            _ => self.u64(),
        }
    }
}
