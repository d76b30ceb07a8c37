//! Who is let in, by network.

use std::net::IpAddr;
use std::sync::Arc;

use super::Network;

/// Networks that are let in and networks that are not. Of those that contain an address, the one
/// with the longest prefix decides. An address in none of them is let in, unless some network is
/// named as let in: then only those are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    networks: Networks<bool>,
    is_closed: bool,
}

/// What belongs to the longest prefix that contains an address. Finding it takes one binary search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks<T> {
    v4: Spans<T>,
    v6: Spans<T>,
}

/// Where each span of equal answers begins, in order; none begins below the first.
type Spans<T> = Arc<[(u128, Option<T>)]>;

impl Access {
    /// Lists of networks; none of them is in both.
    pub fn new(allow: &[Network], deny: &[Network]) -> Self {
        let allowed = allow.iter().map(|&network| (network, true));
        let denied = deny.iter().map(|&network| (network, false));
        Self {
            networks: Networks::new(allowed.chain(denied).collect()),
            is_closed: !allow.is_empty(),
        }
    }

    /// Whether `address` is let in. An IPv4 address stays one where IPv6 maps it.
    pub fn allows(&self, address: IpAddr) -> bool {
        self.networks.find(address).unwrap_or(!self.is_closed)
    }
}

impl<T: Copy + PartialEq> Networks<T> {
    /// What belongs to which network. Of equal networks any counts.
    pub fn new(networks: Vec<(Network, T)>) -> Self {
        let spans = |is_v4: bool| {
            let of_family = networks
                .iter()
                .filter(|(network, _)| network.is_v4() == is_v4);
            flatten(of_family.map(|&(network, value)| (network.edges(), value)))
        };
        Self {
            v4: spans(true),
            v6: spans(false),
        }
    }

    /// What belongs to the longest prefix that contains `address`.
    pub fn find(&self, address: IpAddr) -> Option<T> {
        let (spans, number) = match address.to_canonical() {
            IpAddr::V4(address) => (&self.v4, u128::from(u32::from(address))),
            IpAddr::V6(address) => (&self.v6, u128::from(address)),
        };
        let after = spans.partition_point(|&(first, _)| first <= number);
        let (_, value) = spans.get(after.checked_sub(1)?)?;
        *value
    }
}

/// Networks lie within one another or apart, so each is a span that those within it interrupt.
fn flatten<T: Copy + PartialEq>(networks: impl Iterator<Item = ((u128, u128), T)>) -> Spans<T> {
    let mut networks: Vec<_> = networks.collect();
    // Of two that begin alike, the larger goes first: the other lies within it.
    networks.sort_by_key(|&((first, last), _)| (first, std::cmp::Reverse(last)));
    let mut spans = Vec::new();
    let mut around: Vec<(u128, T)> = Vec::new();
    for ((first, last), value) in networks {
        leave(&mut around, &mut spans, Some(first));
        begin(&mut spans, first, Some(value));
        around.push((last, value));
    }
    leave(&mut around, &mut spans, None);
    spans.into()
}

/// Ends the networks that `next` is not within, and goes on with what is around them.
fn leave<T: Copy + PartialEq>(
    around: &mut Vec<(u128, T)>,
    spans: &mut Vec<(u128, Option<T>)>,
    next: Option<u128>,
) {
    while let Some(&(last, _)) = around.last()
        && next.is_none_or(|next| last < next)
    {
        around.pop();
        // Nothing comes after the last address.
        if let Some(first) = last.checked_add(1) {
            begin(spans, first, around.last().map(|&(_, value)| value));
        }
    }
}

fn begin<T: PartialEq>(spans: &mut Vec<(u128, Option<T>)>, first: u128, value: Option<T>) {
    // What would begin here too lies around it.
    spans.pop_if(|(begun, _)| *begun == first);
    if spans.last().is_none_or(|(_, before)| *before != value) {
        spans.push((first, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn networks(texts: &[&str]) -> Vec<Network> {
        texts
            .iter()
            .map(|text| Network::parse(text).unwrap())
            .collect()
    }

    fn access(allow: &[&str], deny: &[&str]) -> Access {
        Access::new(&networks(allow), &networks(deny))
    }

    fn allows(access: &Access, address: &str) -> bool {
        access.allows(address.parse().unwrap())
    }

    #[test]
    fn nothing_said_lets_everybody_in() {
        let open = Access::default();
        assert!(allows(&open, "192.0.2.1") && allows(&open, "::1"));
    }

    #[test]
    fn who_is_not_allowed_where_some_are_is_refused() {
        let access = access(&["10.0.0.0/8", "2001:db8::/32"], &[]);
        for (address, expected) in [
            ("10.255.255.255", true),
            ("::ffff:10.0.0.1", true),
            ("2001:db8:ffff::1", true),
            ("9.255.255.255", false),
            ("11.0.0.0", false),
            ("2001:db9::", false),
            ("::1", false),
        ] {
            assert_eq!(allows(&access, address), expected, "{address}");
        }
    }

    #[test]
    fn the_longest_prefix_decides() {
        let access = access(
            &["10.1.0.0/16", "10.1.2.3", "0.0.0.0/0"],
            &["10.0.0.0/8", "10.1.2.0/24", "255.255.255.255", "::/0"],
        );
        for (address, expected) in [
            ("9.9.9.9", true),
            ("10.0.0.0", false),
            ("10.1.0.0", true),
            ("10.1.2.2", false),
            ("10.1.2.3", true),
            ("10.1.2.4", false),
            ("10.1.3.0", true),
            ("10.2.0.0", false),
            ("11.0.0.0", true),
            ("255.255.255.254", true),
            ("255.255.255.255", false),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", false),
        ] {
            assert_eq!(allows(&access, address), expected, "{address}");
        }
    }

    proptest! {
        #[test]
        fn a_search_finds_what_looking_at_each_network_does(
            entries in prop::collection::vec((any::<u32>(), 0..=32_u32, any::<u8>()), 0..40),
            probes in prop::collection::vec(any::<u32>(), 20),
        ) {
            let mut known: Vec<(Network, u8)> = Vec::new();
            for (address, bits, value) in entries {
                // Few distinct first bits, so that networks lie within each other.
                let address = address & 0x0303_ffff;
                let address = address & u32::MAX.checked_shl(32 - bits).unwrap_or(0);
                let text = format!("{}/{bits}", std::net::Ipv4Addr::from(address));
                let network = Network::parse(&text).unwrap();
                if known.iter().all(|(other, _)| *other != network) {
                    known.push((network, value));
                }
            }
            let networks = Networks::new(known.clone());
            let edges = known.iter().flat_map(|(network, _)| {
                let (first, last) = network.edges();
                [first.saturating_sub(1), first, last, (last + 1).min(u128::from(u32::MAX))]
            });
            let probes = probes.into_iter().map(|probe| u128::from(probe & 0x0303_ffff));
            for probe in probes.chain(edges) {
                let address = IpAddr::from(u32::try_from(probe).unwrap().to_be_bytes());
                let around = known.iter().filter(|(network, _)| network.contains(address));
                let expected = around.min_by_key(|(network, _)| {
                    let (first, last) = network.edges();
                    last - first
                });
                prop_assert_eq!(networks.find(address), expected.map(|(_, value)| *value));
            }
        }
    }
}
