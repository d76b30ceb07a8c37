//! Request rates: a bucket of tokens for each client, over all workers, in memory of a fixed size.
//!
//! A bucket is one number, the moment at which it would be full again (the "theoretical arrival time"
//! of the generic cell rate algorithm, ITU-T I.371): a request moves it on by the time that one token
//! takes to come, and is refused where that would leave it further away than a whole bucket.
//!
//! Buckets lie in sets of a few slots. A client that has none takes, in its set, the slot of the bucket
//! that is full again first, which loses nothing as long as that one is full. Where none is, more
//! clients than slots are busy at once, and the one whose slot is taken begins anew: the table errs to
//! the side of answering. Nothing is locked: workers that meet at a slot may miscount by a request each.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::config::RateLimit;
use crate::limits::{RATE_SETS, RATE_SLOTS_PER_SET};
use crate::proto::client_network::ClientNetwork;

/// The buckets of a process.
#[derive(Debug)]
pub struct Rates {
    /// Keyed at random, so that nobody can aim at one set.
    hasher: RandomState,
    /// What moments are counted from.
    epoch: Instant,
    /// Made when first needed: most processes limit nothing.
    sets: OnceLock<Box<[Set]>>,
}

#[derive(Debug, Default)]
struct Set([Slot; RATE_SLOTS_PER_SET]);

#[derive(Debug, Default)]
struct Slot {
    /// Whose it is; 0 for nobody's.
    key: AtomicU64,
    /// When its bucket is full again, in nanoseconds after the epoch.
    full_at: AtomicU64,
}

impl Rates {
    /// All buckets are full.
    pub fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            epoch: Instant::now(),
            sets: OnceLock::new(),
        }
    }

    /// Takes a token for a request from `address`.
    ///
    /// # Errors
    /// When there is none: the time until the next one.
    pub fn take(&self, limit: &RateLimit, address: IpAddr, now: Instant) -> Result<(), Duration> {
        if limit.exempt.find(address).is_some() {
            return Ok(());
        }
        let owner = (limit.scope.as_ref(), ClientNetwork::of(address));
        let key = self.hasher.hash_one(owner).max(1);
        let now = nanos(now.saturating_duration_since(self.epoch));
        self.slot(key, now).take(limit, now)
    }

    fn slot(&self, key: u64, now: u64) -> &Slot {
        let sets = self.sets.get_or_init(|| {
            let sets = std::iter::repeat_with(Set::default);
            sets.take(RATE_SETS).collect()
        });
        // The key is random in all its bits; those that choose the set are also compared.
        let index = usize::try_from(key % RATE_SETS as u64).unwrap_or(0);
        sets.get(index).map_or(&NOBODY, |set| set.slot(key, now))
    }
}

impl Default for Rates {
    fn default() -> Self {
        Self::new()
    }
}

impl Set {
    fn slot(&self, key: u64, now: u64) -> &Slot {
        let slots = self.0.iter();
        let mut found = &NOBODY;
        // Again where another worker was faster: it may have made the very slot that is wanted.
        for _ in 0..CLAIMS_MAX {
            let known = |slot: &&Slot| slot.key.load(Ordering::Relaxed) == key;
            if let Some(slot) = slots.clone().find(known) {
                return slot;
            }
            // Full ones are all alike, whenever they became so.
            let full_at = |slot: &&Slot| slot.full_at.load(Ordering::Relaxed).max(now);
            found = slots.clone().min_by_key(full_at).unwrap_or(found);
            if found.claim(key) {
                return found;
            }
        }
        found
    }
}

impl Slot {
    /// Makes it the slot of `key`, with a full bucket.
    fn claim(&self, key: u64) -> bool {
        let owner = self.key.load(Ordering::Relaxed);
        let owed = self.full_at.load(Ordering::Relaxed);
        let relaxed = Ordering::Relaxed;
        let is_claimed = self
            .key
            .compare_exchange(owner, key, relaxed, relaxed)
            .is_ok();
        if is_claimed {
            // Unless another worker has used the new bucket already.
            let _ = self.full_at.compare_exchange(owed, 0, relaxed, relaxed);
        }
        is_claimed
    }

    fn take(&self, limit: &RateLimit, now: u64) -> Result<(), Duration> {
        let token = nanos(limit.token);
        let bucket = token.saturating_mul(u64::from(limit.burst));
        let taken = self
            .full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
                let after = full_at.max(now).saturating_add(token);
                (after - now <= bucket).then_some(after)
            });
        match taken {
            Ok(_) => Ok(()),
            Err(full_at) => {
                let after = full_at.max(now).saturating_add(token);
                Err(Duration::from_nanos((after - now).saturating_sub(bucket)))
            }
        }
    }
}

/// How often a worker tries to get a slot before it shares the one it wanted for a request.
const CLAIMS_MAX: usize = 4;

/// Stands in where there is no slot, which cannot be: a table has sets, and a set has slots.
static NOBODY: Slot = Slot {
    key: AtomicU64::new(0),
    full_at: AtomicU64::new(0),
};

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Networks;

    fn limit(requests: u32, per_s: u64, burst: u32) -> RateLimit {
        RateLimit {
            token: Duration::from_secs(per_s) / requests,
            burst,
            exempt: Networks::default(),
            scope: "".into(),
        }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_is_followed_by_the_rate() {
        let (rates, limit, client) = (Rates::new(), limit(2, 1, 5), address("192.0.2.1"));
        let start = Instant::now();
        for _ in 0..5 {
            assert_eq!(rates.take(&limit, client, start), Ok(()));
        }
        let wait = rates.take(&limit, client, start).unwrap_err();
        assert_eq!(wait, SECOND / 2);
        // A refused request costs nothing, and the wait is what it says.
        let early = start + wait - Duration::from_nanos(1);
        assert_eq!(
            rates.take(&limit, client, early),
            Err(Duration::from_nanos(1))
        );
        assert_eq!(rates.take(&limit, client, start + wait), Ok(()));
        assert!(rates.take(&limit, client, start + wait).is_err());
        // However long it rests, the bucket holds no more than itself.
        let later = start + 1000 * SECOND;
        let taken = (0..10).filter(|_| rates.take(&limit, client, later).is_ok());
        assert_eq!(taken.count(), 5);
    }

    #[test]
    fn clients_and_scopes_have_buckets_of_their_own() {
        let (rates, limit, now) = (Rates::new(), limit(1, 60, 1), Instant::now());
        for (client, expected) in [
            ("192.0.2.1", true),
            ("::ffff:192.0.2.1", false),
            ("192.0.2.2", true),
            ("2001:db8::1", true),
            ("2001:db8::2", false),
            ("2001:db8:0:1::1", true),
        ] {
            let taken = rates.take(&limit, address(client), now);
            assert_eq!(taken.is_ok(), expected, "{client}");
        }
        let other = RateLimit {
            scope: "a.test".into(),
            ..limit
        };
        assert_eq!(rates.take(&other, address("192.0.2.1"), now), Ok(()));
    }

    #[test]
    fn who_is_exempt_takes_nothing() {
        let rates = Rates::new();
        let network = crate::config::Network::parse("10.0.0.0/8").unwrap();
        let limit = RateLimit {
            exempt: Networks::new(vec![(network, ())]),
            ..limit(1, 3600, 1)
        };
        for _ in 0..3 {
            assert_eq!(
                rates.take(&limit, address("10.0.0.1"), Instant::now()),
                Ok(())
            );
        }
    }

    #[test]
    fn a_full_table_forgets_who_is_full_again_first() {
        let set = Set::default();
        let limit = limit(1, 1, 100);
        let now = 1_000_000_000_000;
        for key in 1..=RATE_SLOTS_PER_SET as u64 {
            // The second is the one that owes least.
            for _ in 0..if key == 2 { 1 } else { 3 } {
                set.slot(key, now).take(&limit, now).unwrap();
            }
        }
        let newcomer = 99;
        set.slot(newcomer, now).take(&limit, now).unwrap();
        let keys: Vec<u64> = set
            .0
            .iter()
            .map(|slot| slot.key.load(Ordering::Relaxed))
            .collect();
        assert!(keys.contains(&newcomer) && !keys.contains(&2), "{keys:?}");
        // The newcomer owes its own request only.
        let owed = set.slot(newcomer, now).full_at.load(Ordering::Relaxed) - now;
        assert_eq!(owed, 1_000_000_000);
    }

    #[test]
    fn threads_share_one_bucket() {
        let (rates, limit, now) = (Rates::new(), limit(1, 3600, 1000), Instant::now());
        let taken: usize = std::thread::scope(|scope| {
            let take = || {
                let takes = (0..1000).map(|_| rates.take(&limit, address("192.0.2.1"), now));
                takes.filter(Result::is_ok).count()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        // The first request of each thread may have got a slot of its own.
        assert!((1000..=1003).contains(&taken), "{taken}");
    }

    #[test]
    fn limits_at_the_edges_of_their_range_do_not_overflow() {
        let (rates, now) = (Rates::new(), Instant::now());
        let limit = limit(1, 86_400, 1_000_000);
        for _ in 0..1000 {
            assert_eq!(rates.take(&limit, address("192.0.2.1"), now), Ok(()));
        }
        let fast = super::tests::limit(1_000_000, 1, 1);
        assert_eq!(rates.take(&fast, address("192.0.2.9"), now), Ok(()));
        assert_eq!(
            rates.take(&fast, address("192.0.2.9"), now),
            Err(Duration::from_micros(1))
        );
    }
}
