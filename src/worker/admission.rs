//! Who may connect: connections per client address, over all workers.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::proto::client_network::ClientNetwork;

/// Open connections by client network. Touched when a connection is accepted and when it closes;
/// its memory is bounded by the number of open connections.
pub struct Admission {
    /// Keyed at random, so that nobody can aim at one shard or one bucket.
    hasher: RandomState,
    shards: [Mutex<HashMap<ClientNetwork, u32>>; SHARDS],
}

/// One admitted connection; gives its place back when dropped.
pub struct AddressSlot {
    admission: Arc<Admission>,
    network: ClientNetwork,
}

impl Admission {
    /// An empty table.
    pub fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::new(HashMap::new())),
        }
    }

    /// Takes a place for a connection from `address`, unless its network holds `max` already.
    pub fn admit(self: &Arc<Self>, address: IpAddr, max: u32) -> Option<AddressSlot> {
        let network = ClientNetwork::of(address);
        let mut shard = self
            .shard(network)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = shard.entry(network).or_insert(0);
        if *count >= max {
            // A refused newcomer leaves no entry behind.
            if *count == 0 {
                shard.remove(&network);
            }
            return None;
        }
        *count += 1;
        drop(shard);
        Some(AddressSlot {
            admission: self.clone(),
            network,
        })
    }

    /// How many networks hold a place.
    pub fn networks(&self) -> usize {
        let lock = |shard: &Mutex<HashMap<_, _>>| {
            shard.lock().unwrap_or_else(PoisonError::into_inner).len()
        };
        self.shards.iter().map(lock).sum()
    }

    fn shard(&self, network: ClientNetwork) -> &Mutex<HashMap<ClientNetwork, u32>> {
        let hash = self.hasher.hash_one(network);
        let [shard, ..] = &self.shards;
        self.shards
            .get(usize::try_from(hash % SHARDS as u64).unwrap_or(0))
            .unwrap_or(shard)
    }
}

impl Default for Admission {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for AddressSlot {
    fn drop(&mut self) {
        let shard = self.admission.shard(self.network);
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = shard.entry(self.network) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// Enough that workers seldom meet at one lock.
const SHARDS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_given_back() {
        let admission = Arc::new(Admission::new());
        let address = IpAddr::from([192, 0, 2, 1]);
        let slots: Vec<_> = (0..3)
            .map(|_| admission.admit(address, 3).unwrap())
            .collect();
        assert!(admission.admit(address, 3).is_none());
        assert!(admission.admit(IpAddr::from([192, 0, 2, 2]), 3).is_some());
        drop(slots);
        assert!(admission.admit(address, 3).is_some());
        assert_eq!(
            admission.networks(),
            0,
            "what is given back leaves no entry"
        );
    }

    #[test]
    fn an_ipv6_subscriber_is_one_client_and_mapped_ipv4_is_ipv4() {
        let admission = Arc::new(Admission::new());
        let _slot = admission.admit("2001:db8::1".parse().unwrap(), 1).unwrap();
        assert!(
            admission
                .admit("2001:db8::ffff:2".parse().unwrap(), 1)
                .is_none()
        );
        assert!(
            admission
                .admit("2001:db8:0:1::1".parse().unwrap(), 1)
                .is_some()
        );
        let _slot = admission
            .admit("::ffff:192.0.2.1".parse().unwrap(), 1)
            .unwrap();
        assert!(admission.admit("192.0.2.1".parse().unwrap(), 1).is_none());
    }

    #[test]
    fn a_limit_of_zero_admits_nobody_and_keeps_nothing() {
        let admission = Arc::new(Admission::new());
        assert!(admission.admit(IpAddr::from([192, 0, 2, 1]), 0).is_none());
        assert_eq!(admission.networks(), 0);
    }
}
