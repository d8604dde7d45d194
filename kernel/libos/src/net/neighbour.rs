//! Whom we have to ask for by ARP (RFC 826): the next hop of each connection that we open.
//!
//! Connections that come in need no question, because their answers go back where their frames
//! come from. So no stranger can make us send a question, fill this table or, as in smoltcp's own
//! table, silence the questions that matter: every entry was asked for by our own application.

use alloc::vec::Vec;
use core::time::Duration;

use super::frame::{Arp, EthernetAddress, Identity};
use crate::clock::Instant;

/// How many next hops there may be: one for each backend in our own network, and the gateway.
const MAX_NEIGHBOURS: usize = 64;

/// How long an unanswered question rests before it is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// For how long an answer is believed. An old one is used until there is a new one.
const LIFETIME: Duration = Duration::from_secs(60);

/// The next hops, and which connections wait for one.
#[derive(Default)]
pub(super) struct Neighbours {
    entries: Vec<Neighbour>,
    waiting: Vec<u32>,
}

struct Neighbour {
    address: u32,
    mac: Option<EthernetAddress>,
    users: usize,
    asked_at: Option<Instant>,
    confirmed_at: Instant,
}

impl Neighbours {
    /// The entry for `address`, with one more user; `None` if the table is full of used entries.
    pub(super) fn join(&mut self, address: u32) -> Option<usize> {
        let index = match self.entries.iter().position(|entry| entry.address == address) {
            Some(index) => index,
            None => self.add(address)?,
        };
        self.entries.get_mut(index)?.users += 1;
        Some(index)
    }

    fn add(&mut self, address: u32) -> Option<usize> {
        let fresh = Neighbour {
            address,
            mac: None,
            users: 0,
            asked_at: None,
            confirmed_at: Instant::default(),
        };
        if self.entries.len() < MAX_NEIGHBOURS {
            self.entries.push(fresh);
            return Some(self.entries.len() - 1);
        }
        let index = self.entries.iter().position(|entry| entry.users == 0)?;
        *self.entries.get_mut(index)? = fresh;
        Some(index)
    }

    /// Takes back one [`Neighbours::join`].
    pub(super) fn leave(&mut self, index: usize) {
        if let Some(entry) = self.entries.get_mut(index) {
            entry.users = entry.users.saturating_sub(1);
        }
    }

    /// The entry's hardware address, if it is known.
    pub(super) fn mac(&self, index: usize) -> Option<EthernetAddress> {
        self.entries.get(index)?.mac
    }

    /// The question to ask now about the entry, if there is one.
    pub(super) fn question(&self, index: usize, us: &Identity, now: Instant) -> Option<Arp> {
        let entry = self.entries.get(index)?;
        let is_fresh = entry.mac.is_some() && now < entry.confirmed_at + LIFETIME;
        let is_pending = entry.asked_at.is_some_and(|at| now < at + RETRY);
        (!is_fresh && !is_pending).then_some(Arp {
            is_request: true,
            sender_mac: us.mac,
            sender: us.address,
            target_mac: EthernetAddress([0; 6]),
            target: entry.address,
        })
    }

    /// Notes that the entry's question went out.
    pub(super) fn note_question(&mut self, index: usize, now: Instant) {
        if let Some(entry) = self.entries.get_mut(index) {
            entry.asked_at = Some(now);
        }
    }

    /// Learns from an ARP packet. Whether it says something about an entry.
    pub(super) fn learn(&mut self, arp: &Arp, now: Instant) -> bool {
        let entry = self.entries.iter_mut().find(|entry| entry.address == arp.sender);
        if let Some(entry) = entry {
            entry.mac = Some(arp.sender_mac);
            entry.confirmed_at = now;
            entry.asked_at = None;
            return true;
        }
        false
    }

    /// Notes that a connection waits for an answer. It must not wait already.
    pub(super) fn wait(&mut self, slot: u32) {
        self.waiting.push(slot);
    }

    /// Notes that a connection does not wait any more.
    pub(super) fn forget(&mut self, slot: u32) {
        self.waiting.retain(|&waiting| waiting != slot);
    }

    /// One connection that waited.
    pub(super) fn take_waiting(&mut self) -> Option<u32> {
        self.waiting.pop()
    }

    /// When a question is to be asked again because connections wait for its answer.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        if self.waiting.is_empty() {
            return None;
        }
        let unanswered = self.entries.iter().filter(|entry| entry.users > 0 && entry.mac.is_none());
        unanswered.filter_map(|entry| entry.asked_at).map(|at| at + RETRY).min()
    }

    /// How many connections wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Identity =
        Identity { mac: EthernetAddress([2; 6]), address: 0x0a00_0002, mask: 0xffff_ff00 };

    fn answer(sender: u32, mac: u8) -> Arp {
        Arp {
            is_request: false,
            sender_mac: EthernetAddress([mac; 6]),
            sender,
            target_mac: US.mac,
            target: US.address,
        }
    }

    #[test]
    fn a_question_is_asked_once_a_second_until_it_is_answered() {
        let mut table = Neighbours::default();
        let index = table.join(0x0a00_0001).unwrap();
        let at = |ms: u64| Instant::from_micros(ms * 1000);
        assert!(table.question(index, &US, at(0)).is_some());
        table.note_question(index, at(0));
        assert!(table.question(index, &US, at(999)).is_none());
        assert!(table.question(index, &US, at(1000)).is_some());

        assert!(!table.learn(&answer(0x0a00_0009, 9), at(1001)), "nobody asked for that one");
        assert!(table.learn(&answer(0x0a00_0001, 8), at(1001)));
        assert!(table.question(index, &US, at(60_000)).is_none());
        assert!(table.question(index, &US, at(61_001)).is_some(), "an old answer is asked again");
        assert_eq!(table.mac(index), Some(EthernetAddress([8; 6])), "and used meanwhile");
    }

    #[test]
    fn a_full_table_gives_up_only_unused_entries() {
        let mut table = Neighbours::default();
        for address in 0..MAX_NEIGHBOURS as u32 {
            assert!(table.join(address).is_some());
        }
        assert_eq!(table.join(1000), None);
        table.leave(5);
        assert_eq!(table.join(1000), Some(5));
        assert_eq!(table.join(1001), None);
        assert_eq!(table.join(1000), Some(5));
    }
}
