use super::*;

/// More than a chunk; Miri takes its time.
const COUNT: usize = if cfg!(miri) { CHUNK + 2 } else { 200 };
const ROUNDS: usize = if cfg!(miri) { 20 } else { 1000 };

/// They are for ever, and so that nobody takes that for a leak, somebody knows of them for ever.
fn slots() -> &'static Slots {
    static KEPT: Mutex<Vec<&Slots>> = Mutex::new(Vec::new());
    let slots = Box::leak(Box::default());
    KEPT.lock().unwrap().push(slots);
    slots
}

fn range(hold: &Hold) -> (usize, usize) {
    hold.range()
}

#[test]
fn an_address_finds_the_range_that_it_is_in() {
    let slots = slots();
    assert!(slots.hold(0).is_none(), "there is none at all");
    let page = 0x1000;
    let claimed: Vec<_> = (1..COUNT).map(|i| slots.claim(i * 0x10000, 2 * page, page)).collect();
    for i in 1..COUNT {
        let start = i * 0x10000;
        for at in [start, start + 1, start + 0x1fff] {
            let hold = slots.hold(at).unwrap();
            assert_eq!(range(&hold), (start, 2 * page));
            assert_eq!(hold.page(), (at - at % page, page));
        }
        assert!(slots.hold(start - 1).is_none() && slots.hold(start + 2 * page).is_none());
    }
    claimed.iter().for_each(|slot| slots.release(slot));
    assert!((1..COUNT).all(|i| slots.hold(i * 0x10000).is_none()));
}

#[test]
fn the_end_of_all_addresses_is_no_trap() {
    let slots = slots();
    let last = usize::MAX - 0xfff;
    slots.claim(last, 0x1000, 0x1000);
    assert!(slots.hold(usize::MAX).is_some() && slots.hold(0).is_none());
}

#[test]
fn slots_are_used_again_and_begin_anew() {
    let slots = slots();
    for round in 1..ROUNDS {
        let slot = slots.claim(round * 0x1000, 0x1000, 0x1000);
        assert!(!slot.is_lost() && !slot.is_news());
        assert_eq!(slot.guard(|| ()), Ok(()));
        slots.hold(round * 0x1000).unwrap().lose();
        assert!(slot.is_lost() && slot.is_news() && !slot.is_news());
        assert_eq!(slot.guard(|| panic!("it is touched")), Err(Errno::FAULT));
        slots.release(slot);
    }
    let free = slots.free.lock().unwrap();
    assert_eq!(free.slots.len(), CHUNK, "one chunk did for all");
}

#[test]
fn what_goes_away_during_a_touch_is_an_error() {
    let slots = slots();
    let slot = slots.claim(0x1000, 0x1000, 0x1000);
    assert_eq!(slot.guard(|| slots.hold(0x1fff).unwrap().lose()), Err(Errno::FAULT));
}
