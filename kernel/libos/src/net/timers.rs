//! Deadlines in order, at most one for each slot.
//!
//! A deadline that moves away leaves its old entry where it is; when that comes due, the owner is
//! looked at and entered again. So a busy connection, whose deadline moves with each frame,
//! touches the queue only once a deadline instead of once a frame.

use alloc::collections::BTreeSet;

use crate::clock::Instant;

/// A queue of deadlines.
pub(crate) struct Timers {
    entries: BTreeSet<(Instant, u32)>,
    /// The first of them, which each round asks for several times.
    first: Instant,
}

impl Default for Timers {
    fn default() -> Self {
        Self { entries: BTreeSet::new(), first: Instant::NEVER }
    }
}

impl Timers {
    /// Sees to it that `slot` comes due at `deadline` or earlier.
    ///
    /// `queued_at` is the owner's note of its entry: [`Instant::NEVER`] if it has none.
    #[inline] // Mostly there is nothing to do.
    pub(crate) fn arm(&mut self, slot: u32, queued_at: &mut Instant, deadline: Instant) {
        if deadline < *queued_at {
            self.enter(slot, queued_at, deadline);
        }
    }

    #[inline(never)]
    fn enter(&mut self, slot: u32, queued_at: &mut Instant, deadline: Instant) {
        self.disarm(slot, queued_at);
        self.entries.insert((deadline, slot));
        self.first = self.first.min(deadline);
        *queued_at = deadline;
    }

    /// Removes the slot's entry, if it has one.
    pub(crate) fn disarm(&mut self, slot: u32, queued_at: &mut Instant) {
        if *queued_at != Instant::NEVER {
            self.entries.remove(&(*queued_at, slot));
            self.note_first();
            *queued_at = Instant::NEVER;
        }
    }

    /// Takes out one slot whose entry has come due. Its owner has no entry then.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<u32> {
        if self.first > now {
            return None;
        }
        let due = self.entries.pop_first();
        self.note_first();
        due.map(|(_, slot)| slot)
    }

    /// When the next entry comes due.
    pub(crate) fn next(&self) -> Option<Instant> {
        (self.first != Instant::NEVER).then_some(self.first)
    }

    fn note_first(&mut self) {
        self.first = self.entries.first().map_or(Instant::NEVER, |&(at, _)| at);
    }

    /// How many entries there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_one_entry_however_often_it_is_armed() {
        let mut timers = Timers::default();
        let mut queued_at = Instant::NEVER;
        let at = Instant::from_micros;
        for deadline in [50, 70, 30, 90, 30, 40] {
            timers.arm(3, &mut queued_at, at(deadline));
            assert_eq!(timers.len(), 1);
        }
        assert_eq!(timers.next(), Some(at(30)));
        assert_eq!(timers.take_due(at(29)), None);
        assert_eq!(timers.take_due(at(30)), Some(3));
        assert_eq!(timers.take_due(at(99)), None);

        queued_at = Instant::NEVER;
        timers.arm(3, &mut queued_at, at(5));
        timers.disarm(3, &mut queued_at);
        timers.disarm(3, &mut queued_at);
        assert_eq!((timers.len(), queued_at), (0, Instant::NEVER));
    }
}
