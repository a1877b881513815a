//! A table by message id, in which finding something is one look.

/// Entries by ids that this hands out, one after the other. An id has one place in the table, and is
/// skipped while another one's entry is there.
#[derive(Debug)]
pub(super) struct Slots<T> {
    /// A power of two of them, of which at most half are in use; none at first.
    slots: Vec<Option<(u16, T)>>,
    used: usize,
    next_id: u16,
}

/// The first size of the table.
const FEW: usize = 4;

impl<T> Slots<T> {
    pub(super) fn new() -> Self {
        Slots { slots: Vec::new(), used: 0, next_id: 1 }
    }

    #[inline]
    fn place(&self, id: u16) -> usize {
        usize::from(id) & self.slots.len().wrapping_sub(1)
    }

    /// An id that no entry has.
    ///
    /// The limits keep the table far below 65,536 entries, so that there always is one.
    #[inline]
    pub(super) fn fresh_id(&mut self) -> u16 {
        loop {
            let id = self.next_id;
            self.next_id = self.next_id.wrapping_add(1);
            if !matches!(self.slots.get(self.place(id)), Some(Some(_))) {
                return id;
            }
        }
    }

    /// Adds an entry; gives its id.
    #[inline]
    pub(super) fn insert(&mut self, entry: T) -> u16 {
        if self.used * 2 >= self.slots.len() {
            self.grow();
        }
        let id = self.fresh_id();
        let place = self.place(id);
        self.slots[place] = Some((id, entry));
        self.used += 1;
        id
    }

    /// Twice as many. What had a place of its own still has one.
    #[inline(never)]
    fn grow(&mut self) {
        let size = (self.slots.len() * 2).max(FEW);
        let mut slots: Vec<_> = std::iter::repeat_with(|| None).take(size).collect();
        for (id, entry) in self.slots.drain(..).flatten() {
            slots[usize::from(id) & (size - 1)] = Some((id, entry));
        }
        self.slots = slots;
    }

    #[inline]
    pub(super) fn get(&self, id: u16) -> Option<&T> {
        let (own, entry) = self.slots.get(self.place(id))?.as_ref()?;
        (*own == id).then_some(entry)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: u16) -> Option<&mut T> {
        let place = self.place(id);
        let (own, entry) = self.slots.get_mut(place)?.as_mut()?;
        (*own == id).then_some(entry)
    }

    #[inline]
    pub(super) fn remove(&mut self, id: u16) -> Option<T> {
        let place = self.place(id);
        let slot = self.slots.get_mut(place)?;
        let (_, entry) = slot.take_if(|(own, _)| *own == id)?;
        self.used -= 1;
        Some(entry)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().flatten().map(|(_, entry)| entry)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().flatten().map(|(_, entry)| entry)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As a map from ids to entries; and an id comes again only after all others.
        #[test]
        #[cfg_attr(miri, ignore = "slow: very many steps")]
        fn it_is_a_map(steps in prop::collection::vec((any::<bool>(), 0usize..40), 1..400)) {
            let (mut slots, mut map, mut last) = (Slots::new(), HashMap::new(), 0);
            for (number, (add, pick)) in steps.into_iter().enumerate() {
                if add {
                    let id = slots.insert(number);
                    prop_assert!(id > last, "{id} after {last}");
                    last = id;
                    prop_assert_eq!(map.insert(id, number), None);
                } else if let Some(id) = map.keys().nth(pick).copied() {
                    prop_assert_eq!(slots.remove(id), map.remove(&id));
                    prop_assert_eq!(slots.remove(id), None);
                }
                for id in 0..last + 10 {
                    prop_assert_eq!(slots.get(id), map.get(&id));
                    prop_assert_eq!(slots.get_mut(id).is_some(), map.contains_key(&id));
                }
                prop_assert_eq!(slots.values().count(), map.len());
                prop_assert!(!map.contains_key(&slots.fresh_id()));
                last = slots.next_id - 1;
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "slow: it goes through all ids")]
    fn ids_go_round_and_skip_what_is_in_use() {
        let mut slots = Slots::new();
        let first = slots.insert(());
        for _ in 0..200_000 {
            let id = slots.insert(());
            assert_ne!(id, first);
            slots.remove(id);
        }
        assert_eq!(slots.slots.len(), FEW);
    }
}
