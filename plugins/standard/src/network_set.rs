//! A set of networks that answers in nanoseconds, however many there are.
//!
//! Overlapping and adjacent networks are merged into sorted ranges. IPv4 has a table of the first 16 bits in front, so
//! that a search looks at the few ranges that begin in the same /16 only.

use portcullis_plugin::units::Network;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Below this many ranges a plain search is as fast, and the table would only take memory (256 KiB).
const INDEX_FROM: usize = 64;

#[derive(Debug, Default)]
pub struct NetworkSet {
    v4: Ipv4Ranges,
    /// First and last address of each range.
    v6: Vec<(u128, u128)>,
    /// As configured, before merging.
    networks: usize,
    /// The first networks, for messages.
    sample: String,
}

#[derive(Debug, Default)]
struct Ipv4Ranges {
    /// Kept apart from `last`, so that a search walks over dense memory.
    first: Vec<u32>,
    last: Vec<u32>,
    /// For each /16 `h`, how many ranges begin before `h.0.0`; one more entry at the end. Empty for small sets.
    index: Vec<u32>,
}

/// The merged range an address was found in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    pub first: IpAddr,
    pub last: IpAddr,
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{} to {}", self.first, self.last) }
    }
}

impl NetworkSet {
    pub fn new(networks: &[Network]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match network.get() {
                ipnet::IpNet::V4(net) => v4.push((u128::from(net.network().to_bits()), u128::from(net.broadcast().to_bits()))),
                ipnet::IpNet::V6(net) => v6.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }
        Self {
            v4: Ipv4Ranges::new(merge(v4)),
            v6: merge(v6),
            networks: networks.len(),
            sample: crate::text::first_few(networks, networks.len()),
        }
    }

    /// `address` may be an IPv4-mapped one.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(v4) => self.v4.find(v4.to_bits()).is_some(),
            IpAddr::V6(v6) => self.find_v6(v6.to_bits()).is_some(),
        }
    }

    /// The range that `address` is in, for a message.
    pub fn find(&self, address: IpAddr) -> Option<AddressRange> {
        match address.to_canonical() {
            IpAddr::V4(v4) => self.v4.find(v4.to_bits()).map(|(first, last)| AddressRange {
                first: Ipv4Addr::from_bits(first).into(),
                last: Ipv4Addr::from_bits(last).into(),
            }),
            IpAddr::V6(v6) => self.find_v6(v6.to_bits()).map(|(first, last)| AddressRange {
                first: Ipv6Addr::from_bits(first).into(),
                last: Ipv6Addr::from_bits(last).into(),
            }),
        }
    }

    /// How many networks it was made of.
    pub fn len(&self) -> usize {
        self.networks
    }

    pub fn is_empty(&self) -> bool {
        self.networks == 0
    }

    /// Whether all addresses of IPv4 or of IPv6 are in it, in however many parts. Of IPv6, the half that has been given out
    /// (2000::/3) is all there is.
    pub fn is_everybody(&self) -> bool {
        let v4 = self.v4.find(0).is_some_and(|range| range == (0, u32::MAX));
        let public = 0x2000_u128 << 112;
        v4 || self.find_v6(public).is_some_and(|(_, last)| last >= public + (u128::MAX >> 3))
    }

    fn find_v6(&self, address: u128) -> Option<(u128, u128)> {
        let after = self.v6.partition_point(|(first, _)| *first <= address);
        self.v6.get(after.checked_sub(1)?).copied().filter(|(_, last)| address <= *last)
    }
}

/// The first few networks, and how many more there are.
impl fmt::Display for NetworkSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sample)
    }
}

impl Ipv4Ranges {
    fn new(ranges: Vec<(u128, u128)>) -> Self {
        // They were IPv4 addresses before `merge`, so nothing is cut off.
        let (first, last): (Vec<u32>, Vec<u32>) = ranges.into_iter().map(|(first, last)| (first as u32, last as u32)).unzip();
        let mut index = Vec::new();
        if first.len() >= INDEX_FROM {
            index.reserve_exact((1 << 16) + 1);
            let mut before = 0;
            for high in 0..1_u64 << 16 {
                while first.get(before).is_some_and(|start| u64::from(*start) < high << 16) {
                    before += 1;
                }
                index.push(before as u32);
            }
            index.push(first.len() as u32);
        }
        Self { first, last, index }
    }

    fn find(&self, address: u32) -> Option<(u32, u32)> {
        let high = (address >> 16) as usize;
        let (from, to) = match (self.index.get(high), self.index.get(high + 1)) {
            (Some(from), Some(to)) => (*from as usize, *to as usize),
            _ => (0, self.first.len()),
        };
        let after = from + self.first.get(from..to)?.partition_point(|first| *first <= address);
        // The range that begins last before the address may begin in an earlier /16.
        let at = after.checked_sub(1)?;
        let (first, last) = (*self.first.get(at)?, *self.last.get(at)?);
        (address <= last).then_some((first, last))
    }
}

/// Sorts, and joins what overlaps or touches.
fn merge(mut ranges: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(previous) if first <= previous.1.saturating_add(1) => previous.1 = previous.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged.shrink_to_fit();
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn networks(texts: &[&str]) -> Vec<Network> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn borders_belong_to_a_network_and_their_neighbours_do_not() {
        let set = NetworkSet::new(&networks(&["10.1.0.0/16", "192.0.2.7", "2001:db8::/32"]));
        for inside in ["10.1.0.0", "10.1.255.255", "192.0.2.7", "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"] {
            assert!(set.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["10.0.255.255", "10.2.0.0", "192.0.2.6", "192.0.2.8", "2001:db7:ffff::", "2001:db9::", "::", "0.0.0.0"] {
            assert!(!set.contains(outside.parse().unwrap()), "{outside}");
        }
    }

    #[test]
    fn everything_and_nothing() {
        let all = NetworkSet::new(&networks(&["0.0.0.0/0", "::/0"]));
        let none = NetworkSet::new(&[]);
        for address in ["0.0.0.0", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
            assert!(all.contains(address.parse().unwrap()) && !none.contains(address.parse().unwrap()), "{address}");
        }
        assert_eq!((none.to_string().as_str(), none.is_empty()), ("none", true));
    }

    #[test]
    fn a_mapped_address_is_an_ipv4_address_in_either_place() {
        let set = NetworkSet::new(&networks(&["::ffff:10.0.0.0/104"]));
        assert!(set.contains("10.9.8.7".parse().unwrap()) && set.contains("::ffff:10.9.8.7".parse().unwrap()));
        assert!(!NetworkSet::new(&networks(&["::/0"])).contains("::ffff:10.9.8.7".parse().unwrap()));
    }

    #[test]
    fn a_range_that_begins_in_an_earlier_slash_16_is_found_through_the_index() {
        let mut texts: Vec<String> = (0..200).map(|n| format!("203.0.{n}.1")).collect();
        texts.push("10.0.0.0/8".to_owned());
        let set = NetworkSet::new(&texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>());
        assert!(!set.v4.index.is_empty());
        let found = set.find("10.200.3.4".parse().unwrap()).unwrap();
        assert_eq!(found.to_string(), "10.0.0.0 to 10.255.255.255");
        assert!(!set.contains("11.0.0.0".parse().unwrap()) && set.contains("203.0.199.1".parse().unwrap()));
    }

    #[test]
    fn a_million_networks() {
        let all: Vec<Network> =
            (0..1_000_000_u32).map(|n| format!("{}/32", Ipv4Addr::from_bits(0x0B00_0000 + n * 2)).parse().unwrap()).collect();
        let set = NetworkSet::new(&all);
        assert_eq!(set.len(), 1_000_000);
        for n in (0..1_000_000_u32).step_by(9_973) {
            assert!(set.contains(Ipv4Addr::from_bits(0x0B00_0000 + n * 2).into()));
            assert!(!set.contains(Ipv4Addr::from_bits(0x0B00_0000 + n * 2 + 1).into()));
        }
    }

    /// Networks and addresses close to each other, so that they meet: few high bits vary.
    fn near() -> impl Strategy<Value = u32> {
        (0_u32..4, prop_oneof![Just(0_u32), Just(0xFFFF), 0_u32..0x1_0000])
            .prop_map(|(high, low)| 0x0A00_0000 + (high << 16) + low)
    }

    fn network_v4() -> impl Strategy<Value = Network> {
        (near(), 6_u8..=32).prop_map(|(bits, prefix)| {
            let mask = u32::MAX << (32 - u32::from(prefix));
            format!("{}/{prefix}", Ipv4Addr::from_bits(bits & mask)).parse().unwrap()
        })
    }

    fn network_v6() -> impl Strategy<Value = Network> {
        (0_u128..8, near(), 28_u8..=128).prop_map(|(high, low, prefix)| {
            let bits = (0x2001_0db8_u128 << 96) + (high << 64) + u128::from(low);
            let mask = u128::MAX << (128 - u32::from(prefix));
            format!("{}/{prefix}", Ipv6Addr::from_bits(bits & mask)).parse().unwrap()
        })
    }

    proptest! {
        #[test]
        fn agrees_with_asking_each_network(
            v4 in prop::collection::vec(network_v4(), 0..160),
            v6 in prop::collection::vec(network_v6(), 0..20),
            addresses in prop::collection::vec(near(), 1..60),
            high in 0_u128..8,
        ) {
            let all: Vec<Network> = v4.into_iter().chain(v6).collect();
            let set = NetworkSet::new(&all);
            for bits in addresses {
                let v6 = (0x2001_0db8_u128 << 96) + (high << 64) + u128::from(bits);
                for address in [IpAddr::from(Ipv4Addr::from_bits(bits)), Ipv4Addr::from_bits(bits).to_ipv6_mapped().into(), Ipv6Addr::from_bits(v6).into()] {
                    let expected = all.iter().any(|network| network.contains(address));
                    prop_assert_eq!(set.contains(address), expected, "{}", address);
                    prop_assert_eq!(set.find(address).is_some(), expected);
                }
            }
        }
    }
}
