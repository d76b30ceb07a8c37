//! Which server of a group a connection goes to. Without I/O and without a clock.

use crate::config::Balance;

/// A server that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its index in the group.
    pub server: usize,
    /// Its share, not zero; a thousand for each unit of the configured weight.
    pub weight: u64,
    /// Requests and tunnels under way on it.
    pub active: usize,
    /// A hash of what it is, the same in every process.
    pub identity: u64,
}

/// What one worker remembers from one choice to the next. Workers know nothing of each other's
/// turns, and begin at different servers.
#[derive(Debug)]
pub struct Balancer {
    /// By server: how far it is behind its share of the choices made so far.
    credits: Vec<i64>,
    random: u64,
}

impl Balancer {
    /// A balancer for a group of `servers` servers.
    pub fn new(servers: usize, seed: u64) -> Self {
        let mut balancer = Self {
            credits: vec![0; servers],
            random: mix(seed) | 1,
        };
        // Less than any weight, so it only breaks the first ties.
        for index in 0..servers {
            let offset = i64::try_from(balancer.random_below(FIRST_TURN_SPREAD)).unwrap_or(0);
            if let Some(credit) = balancer.credits.get_mut(index) {
                *credit = offset;
            }
        }
        balancer
    }

    /// The server to use, out of `candidates`; `None` when there is none. `key` is the hash of what
    /// [`Balance::Hash`] keeps together; without one it takes turns.
    pub fn choose(
        &mut self,
        balance: Balance,
        candidates: &[Candidate],
        key: Option<u64>,
    ) -> Option<usize> {
        if let [only] = candidates {
            return Some(only.server);
        }
        match (balance, key) {
            (Balance::RoundRobin, _) | (Balance::Hash, None) => self.next_in_turn(candidates),
            (Balance::LeastConnections, _) => self.least_connections(candidates),
            (Balance::TwoChoices, _) => self.two_choices(candidates),
            (Balance::Hash, Some(key)) => highest_score(candidates, key),
        }
    }

    /// Smooth weighted round robin: each choice gives every candidate credit for its weight and
    /// takes the sum from the one chosen, so that heavy servers are chosen often but not in a row.
    fn next_in_turn(&mut self, candidates: &[Candidate]) -> Option<usize> {
        let mut total = 0;
        let mut best: Option<(usize, i64)> = None;
        for candidate in candidates {
            let weight = i64::try_from(candidate.weight).unwrap_or(i64::MAX / 4096);
            total += weight;
            let credit = self.credits.get_mut(candidate.server)?;
            *credit += weight;
            if best.is_none_or(|(_, most)| *credit > most) {
                best = Some((candidate.server, *credit));
            }
        }
        let (server, _) = best?;
        let credit = self.credits.get_mut(server)?;
        // Bounded, because candidates come and go between the choices.
        *credit = (*credit - total).clamp(-CREDIT_MAX, CREDIT_MAX);
        Some(server)
    }

    fn least_connections(&mut self, candidates: &[Candidate]) -> Option<usize> {
        let least = candidates.iter().copied().reduce(less_loaded)?;
        // Those with as little take turns.
        let tied: Vec<Candidate> = candidates
            .iter()
            .copied()
            .filter(|candidate| load(candidate, &least) == load(&least, candidate))
            .collect();
        self.next_in_turn(&tied)
    }

    fn two_choices(&mut self, candidates: &[Candidate]) -> Option<usize> {
        let first = self.by_weight(candidates, None)?;
        let second = self.by_weight(candidates, Some(first.server));
        Some(
            second
                .map_or(first, |second| less_loaded(first, second))
                .server,
        )
    }

    /// A random candidate by weight, other than `except`.
    fn by_weight(&mut self, candidates: &[Candidate], except: Option<usize>) -> Option<Candidate> {
        let others = || candidates.iter().filter(|c| Some(c.server) != except);
        let total: u64 = others().map(|candidate| candidate.weight).sum();
        let mut place = self.random_below(total);
        for candidate in others() {
            if place < candidate.weight {
                return Some(*candidate);
            }
            place -= candidate.weight;
        }
        None
    }

    /// xorshift64*: chance for spreading load, not for secrets.
    fn random_below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let random = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d);
        // The high half of the product is evenly spread below the bound.
        u64::try_from((u128::from(random) * u128::from(bound)) >> 64).unwrap_or(0)
    }
}

/// A hash of `bytes` that is the same in every process and version of this program (FNV-1a with a
/// finish): another one would move every key to another server.
pub fn hash(bytes: &[u8]) -> u64 {
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    mix(hash)
}

/// Rendezvous hashing with weights: each server scores by its own hash with the key, so a server
/// that leaves or comes moves only the keys that it wins.
#[expect(
    clippy::cast_precision_loss,
    reason = "53 bits of hash and weight are enough to compare scores by"
)]
fn highest_score(candidates: &[Candidate], key: u64) -> Option<usize> {
    let score = |candidate: &Candidate| {
        let hash = mix(candidate.identity ^ mix(key)) >> 11;
        // In (0, 1), so that the logarithm is below zero and finite.
        let uniform = (hash as f64 + 0.5) / (1u64 << 53) as f64;
        -(candidate.weight as f64) / uniform.ln()
    };
    candidates
        .iter()
        .max_by(|a, b| score(a).total_cmp(&score(b)))
        .map(|candidate| candidate.server)
}

fn less_loaded(a: Candidate, b: Candidate) -> Candidate {
    if load(&b, &a) < load(&a, &b) { b } else { a }
}

/// What `one` carries, this included, for its weight, on a scale that it shares with
/// `other`.
fn load(one: &Candidate, other: &Candidate) -> u128 {
    (one.active as u128 + 1) * u128::from(other.weight)
}

/// The finish of splitmix64: every bit of the result depends on every bit of `x`.
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Below the weight of a server that has just come back.
const FIRST_TURN_SPREAD: u64 = 50;

/// Far above what any group's weights add up to.
const CREDIT_MAX: i64 = 1 << 40;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidates(weights: &[u64]) -> Vec<Candidate> {
        let candidate = |(server, &weight): (usize, &u64)| Candidate {
            server,
            weight: weight * 1000,
            active: 0,
            identity: hash(format!("tcp://192.0.2.{server}:80").as_bytes()),
        };
        weights.iter().enumerate().map(candidate).collect()
    }

    fn counts(choices: impl Iterator<Item = usize>, servers: usize) -> Vec<usize> {
        let mut counts = vec![0; servers];
        choices.for_each(|server| counts[server] += 1);
        counts
    }

    #[test]
    fn equal_servers_take_turns_wherever_they_begin() {
        let mut first = Vec::new();
        for seed in 0..20 {
            let mut balancer = Balancer::new(3, seed);
            let all = candidates(&[1, 1, 1]);
            let mut next = || balancer.choose(Balance::RoundRobin, &all, None).unwrap();
            let round = [next(), next(), next()];
            first.push(round[0]);
            assert_eq!(counts(round.into_iter(), 3), [1, 1, 1]);
            assert_eq!([next(), next(), next()], round);
        }
        assert!(counts(first.into_iter(), 3).iter().all(|&count| count > 0));
    }

    #[test]
    fn heavy_servers_are_chosen_often_and_not_in_a_row() {
        let mut balancer = Balancer::new(3, 1);
        let all = candidates(&[5, 1, 1]);
        let choices: Vec<usize> = (0..70)
            .map(|_| balancer.choose(Balance::RoundRobin, &all, None).unwrap())
            .collect();
        assert_eq!(counts(choices.iter().copied(), 3), [50, 10, 10]);
        let is_run = |window: &[usize]| window.iter().all(|&server| server == 0);
        assert!(!choices.windows(6).any(is_run), "{choices:?}");
    }

    #[test]
    fn a_server_that_was_away_is_not_flooded_when_it_returns() {
        let mut balancer = Balancer::new(2, 1);
        let all = candidates(&[1, 1]);
        for _ in 0..1000 {
            assert_eq!(
                balancer.choose(Balance::RoundRobin, &all[..1], None),
                Some(0)
            );
        }
        let choices = (0..100).map(|_| balancer.choose(Balance::RoundRobin, &all, None).unwrap());
        assert_eq!(counts(choices, 2), [50, 50]);
    }

    #[test]
    fn the_least_carried_for_the_weight_wins() {
        let mut balancer = Balancer::new(3, 1);
        let mut all = candidates(&[1, 4, 1]);
        (all[0].active, all[1].active, all[2].active) = (2, 4, 9);
        for _ in 0..10 {
            // (2+1)/1, (4+1)/4, (9+1)/1
            assert_eq!(
                balancer.choose(Balance::LeastConnections, &all, None),
                Some(1)
            );
        }
        all[0].active = 0;
        all[2].active = 0;
        let tied = (0..10).map(|_| {
            balancer
                .choose(Balance::LeastConnections, &all, None)
                .unwrap()
        });
        assert_eq!(counts(tied, 3), [5, 0, 5]);
    }

    #[test]
    fn of_two_choices_the_less_loaded_one_wins() {
        let mut balancer = Balancer::new(3, 1);
        let mut all = candidates(&[1, 1, 1]);
        all[1].active = 100;
        let choices = (0..3000).map(|_| balancer.choose(Balance::TwoChoices, &all, None).unwrap());
        let counts = counts(choices, 3);
        assert_eq!(counts[1], 0, "two different servers are compared");
        assert!(counts[0] > 1000 && counts[2] > 1000, "{counts:?}");
    }

    #[test]
    fn a_server_that_leaves_moves_only_its_own_keys() {
        let mut balancer = Balancer::new(5, 1);
        let all = candidates(&[1, 1, 2, 1, 1]);
        let without: Vec<Candidate> = all.iter().copied().filter(|c| c.server != 3).collect();
        let mut moved = 0;
        let mut held = vec![0usize; 5];
        for key in 0..10_000u64 {
            let key = hash(&key.to_be_bytes());
            let before = balancer.choose(Balance::Hash, &all, Some(key)).unwrap();
            let after = balancer.choose(Balance::Hash, &without, Some(key)).unwrap();
            held[before] += 1;
            if before == 3 {
                moved += 1;
            } else {
                assert_eq!(before, after);
            }
        }
        assert_eq!(moved, held[3]);
        for (server, expected) in [(0, 1667), (1, 1667), (2, 3333), (3, 1667), (4, 1667)] {
            assert!(held[server].abs_diff(expected) < 250, "{held:?}");
        }
    }

    #[test]
    fn a_key_keeps_its_server_from_one_version_to_the_next() {
        let mut balancer = Balancer::new(4, 1);
        let all = candidates(&[1, 1, 1, 1]);
        let keys = ["", "a", "192.0.2.7", "/index.html"];
        let servers = keys.map(|key| {
            let key = Some(hash(key.as_bytes()));
            balancer.choose(Balance::Hash, &all, key).unwrap()
        });
        assert_eq!(servers, FIXED_SERVERS);
    }

    const FIXED_SERVERS: [usize; 4] = [3, 1, 0, 0];

    proptest! {
        #[test]
        fn any_choice_is_one_of_the_candidates(
            weights in prop::collection::vec(1u64..1000, 0..20),
            active in prop::collection::vec(0usize..100_000, 20),
            away in prop::collection::vec(any::<bool>(), 20),
            key in any::<Option<u64>>(),
            seed in any::<u64>(),
        ) {
            let mut balancer = Balancer::new(weights.len(), seed);
            let mut all = candidates(&weights);
            all.iter_mut().zip(active).for_each(|(candidate, active)| candidate.active = active);
            all.retain(|candidate| !away[candidate.server]);
            for balance in [
                Balance::RoundRobin,
                Balance::LeastConnections,
                Balance::TwoChoices,
                Balance::Hash,
            ] {
                for _ in 0..10 {
                    let choice = balancer.choose(balance, &all, key);
                    prop_assert_eq!(choice.is_none(), all.is_empty());
                    if let Some(server) = choice {
                        prop_assert!(all.iter().any(|candidate| candidate.server == server));
                    }
                }
            }
        }
    }
}
