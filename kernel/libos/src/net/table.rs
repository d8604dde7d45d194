//! Which connection a segment belongs to: one keyed hash and one look-up, however many there are.

use core::hash::Hasher;
use core::net::SocketAddrV4;

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

use super::frame::Key;

/// Connections by their 4-tuple.
///
/// The hash is keyed, because whoever can predict it can send us connections that all collide.
pub(super) struct Table {
    hasher: SipHasher13,
    entries: HashTable<Entry>,
    draws: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    key: Key,
    slot: u32,
}

/// The first port for connections that we open (RFC 6335 section 6).
pub(super) const FIRST_DIALLED_PORT: u16 = 49_152;

/// How many random ports are tried before a dial gives up.
const PORT_ATTEMPTS: usize = 64;

impl Table {
    /// An empty table with room for `capacity` connections.
    pub(super) fn new(key: &[u8; 16], capacity: usize) -> Self {
        Self {
            hasher: SipHasher13::new_with_key(key),
            entries: HashTable::with_capacity(capacity),
            draws: 0,
        }
    }

    /// How many connections there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The connection's slot.
    pub(super) fn find(&self, key: Key) -> Option<u32> {
        self.entries.find(hash(&self.hasher, key), |entry| entry.key == key).map(|entry| entry.slot)
    }

    /// Adds a connection that is not in the table.
    pub(super) fn insert(&mut self, key: Key, slot: u32) {
        let hasher = &self.hasher;
        let entry = Entry { key, slot };
        self.entries.insert_unique(hash(hasher, key), entry, |entry| hash(hasher, entry.key));
    }

    /// Removes a connection, if it is there.
    pub(super) fn remove(&mut self, key: Key) {
        let hash = hash(&self.hasher, key);
        if let Ok(entry) = self.entries.find_entry(hash, |entry| entry.key == key) {
            entry.remove();
        }
    }

    /// A random local port that no other connection to `to` uses (RFC 6056 section 3.3.1).
    ///
    /// Gives up after a while even if a port is free; then nearly all of 16,384 are taken.
    pub(super) fn free_port(&mut self, to: SocketAddrV4) -> Option<Key> {
        (0..PORT_ATTEMPTS).find_map(|_| {
            let key = Key {
                remote: to.ip().to_bits(),
                remote_port: to.port(),
                local_port: FIRST_DIALLED_PORT | self.draw() as u16,
            };
            self.find(key).is_none().then_some(key)
        })
    }

    /// A number that nobody without the key can guess.
    fn draw(&mut self) -> u64 {
        self.draws += 1;
        let mut hasher = self.hasher;
        // Two words where a connection's key is one, so the two uses never meet.
        hasher.write_u64(self.draws);
        hasher.write_u64(u64::MAX);
        hasher.finish()
    }
}

fn hash(hasher: &SipHasher13, key: Key) -> u64 {
    let mut hasher = *hasher;
    hasher.write_u64(key.word());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_unique_per_peer_and_run_out_politely() {
        let mut table = Table::new(&[7; 16], 16);
        let to = SocketAddrV4::new([10, 0, 0, 1].into(), 80);
        let mut taken = 0;
        while let Some(key) = table.free_port(to) {
            assert!(key.local_port >= FIRST_DIALLED_PORT);
            assert_eq!(table.find(key), None);
            table.insert(key, taken);
            taken += 1;
        }
        assert!((14_000..=16_384).contains(&taken), "{taken} ports");
        let elsewhere = SocketAddrV4::new([10, 0, 0, 1].into(), 81);
        assert!(table.free_port(elsewhere).is_some(), "another peer has ports of its own");
        assert_eq!(table.len(), taken as usize);
    }

    #[test]
    fn another_key_chooses_other_ports() {
        let to = SocketAddrV4::new([10, 0, 0, 1].into(), 80);
        let ports = |seed| {
            let mut table = Table::new(&[seed; 16], 4);
            [(); 4].map(|()| table.free_port(to).unwrap().local_port)
        };
        assert_ne!(ports(1), ports(2));
        assert_eq!(ports(1), ports(1));
    }
}
