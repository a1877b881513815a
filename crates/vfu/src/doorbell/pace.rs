//! How long to look before going to sleep.

use std::time::Duration;

/// The spin grows where it would have paid, and shrinks where it did not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    most: Duration,
    now: Duration,
}

impl Pace {
    pub(super) fn new(most: Duration) -> Pace {
        Pace { most, now: most }
    }

    /// How long to look now.
    pub(super) fn spin(&self) -> Duration {
        self.now
    }

    /// A ring was seen while looking.
    pub(super) fn found(&mut self) {
        self.now = self.most;
    }

    /// It looked as long as it should, in vain.
    pub(super) fn missed(&mut self) {
        self.now /= 2;
        if self.now < self.most / 64 {
            self.now = Duration::ZERO;
        }
    }

    /// A ring ended a sleep of this length.
    pub(super) fn woken_after(&mut self, slept: Duration) {
        if slept <= self.most {
            self.now = self.most;
        } else {
            self.now = (self.now * 2).clamp(self.most / 64, self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_longer_where_that_pays() {
        let most = Duration::from_micros(64);
        let mut pace = Pace::new(most);
        assert_eq!(pace.spin(), most);
        pace.missed();
        assert_eq!(pace.spin(), most / 2);
        (0..10).for_each(|_| pace.missed());
        assert_eq!(pace.spin(), Duration::ZERO, "it gives up");
        pace.woken_after(Duration::from_secs(1));
        assert_eq!(pace.spin(), most / 64);
        pace.woken_after(Duration::from_secs(1));
        assert_eq!(pace.spin(), most / 32);
        pace.woken_after(most);
        assert_eq!(pace.spin(), most, "it would have seen that");
        pace.missed();
        pace.found();
        assert_eq!(pace.spin(), most);
        let mut never = Pace::new(Duration::ZERO);
        never.found();
        never.woken_after(Duration::ZERO);
        assert_eq!(never.spin(), Duration::ZERO);
    }
}
