//! What counts as one client.

use std::net::IpAddr;

/// An IPv4 address, or an IPv6 /64, which is the least that is handed to one subscriber (RFC 6177), so
/// that nobody has 2^64 addresses to come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientNetwork {
    /// An IPv4 address, also one that IPv6 maps.
    V4([u8; 4]),
    /// The first 64 bits of an IPv6 address.
    V6([u16; 4]),
}

impl ClientNetwork {
    /// The one that `address` is in.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}
