//! What network interfaces can do about TLS (kernel: Documentation/networking/tls-offload.rst).

#![expect(unsafe_code, reason = "ethtool's ioctl has no safe form")]

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// One interface that a driver stands behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Whether it seals the records that are sent (`tls-hw-tx-offload`).
    pub send: Offload,
    /// Whether it opens those received (`tls-hw-rx-offload`).
    pub receive: Offload,
}

/// Whether an interface does a part of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// It cannot.
    Absent,
    /// It could, and is told not to.
    Off,
    /// It does.
    On,
}

/// Every interface that belongs to a device, in the order of their names: no loopback, bridges and
/// tunnels.
///
/// # Errors
/// Those of opendir(3) for /sys/class/net, and of socket(2). An interface that cannot be asked can do
/// nothing.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    let mut names = Vec::new();
    for entry in fs::read_dir("/sys/class/net")? {
        let entry = entry?;
        if let (Ok(name), true) = (
            entry.file_name().into_string(),
            entry.path().join("device").exists(),
        ) {
            names.push(name);
        }
    }
    names.sort_unstable();
    let ask = |name: String| {
        use std::os::fd::AsFd;
        let features = features(socket.as_fd(), &name).unwrap_or_default();
        let state = |wanted: &str| {
            let found = features.iter().find(|(feature, _)| feature == wanted);
            found.map_or(Offload::Absent, |(_, state)| *state)
        };
        Interface {
            send: state("tls-hw-tx-offload"),
            receive: state("tls-hw-rx-offload"),
            name,
        }
    };
    Ok(names.into_iter().map(ask).collect())
}

/// All features of an interface, by name.
fn features(socket: BorrowedFd<'_>, name: &str) -> io::Result<Vec<(String, Offload)>> {
    // struct ethtool_sset_info: command, reserved, a mask of 64 bits, and the counts.
    let mut info = [ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0, 0];
    ethtool(socket, name, &mut info)?;
    let [.., count] = info;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if count == 0 || count > FEATURES_MAX {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // struct ethtool_gstrings: command, set, count, and the strings.
    let mut strings = vec![0; 3 + count * STRING_WORDS];
    strings
        .iter_mut()
        .zip([ETHTOOL_GSTRINGS, ETH_SS_FEATURES])
        .for_each(|(word, value)| *word = value);
    ethtool(socket, name, &mut strings)?;
    // struct ethtool_gfeatures: command, blocks, and for each 32 features a block of masks.
    let blocks = count.div_ceil(32);
    let mut masks = vec![0; 2 + blocks * MASKS_PER_BLOCK];
    masks
        .iter_mut()
        .zip([ETHTOOL_GFEATURES, u32::try_from(blocks).unwrap_or(0)])
        .for_each(|(word, value)| *word = value);
    ethtool(socket, name, &mut masks)?;
    let texts = strings.get(3..).unwrap_or_default();
    let features = texts
        .chunks_exact(STRING_WORDS)
        .enumerate()
        .map(|(index, text)| {
            let block = 2 + index / 32 * MASKS_PER_BLOCK;
            let bit = |mask: usize| {
                masks
                    .get(block + mask)
                    .is_some_and(|m| m >> (index % 32) & 1 == 1)
            };
            // available, requested, active, never changed
            let state = match (bit(0), bit(2)) {
                (_, true) => Offload::On,
                (true, false) => Offload::Off,
                (false, false) => Offload::Absent,
            };
            let bytes: Vec<u8> = text.iter().flat_map(|word| word.to_ne_bytes()).collect();
            let end = bytes
                .iter()
                .position(|&byte| byte == 0)
                .unwrap_or(bytes.len());
            let name = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default());
            (name.into_owned(), state)
        });
    Ok(features.collect())
}

/// One command of ethtool's. `request` is its structure, begins with the command and has room for all
/// that is answered: the kernel writes as much as the counts in it say, and the number of features is
/// fixed when a kernel is built.
fn ethtool(socket: BorrowedFd<'_>, name: &str, request: &mut [u32]) -> io::Result<()> {
    let mut ifr_name = [0; libc::IFNAMSIZ];
    if name.len() >= ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (place, byte) in ifr_name.iter_mut().zip(name.bytes()) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    let mut ifreq = libc::ifreq {
        ifr_name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: request.as_mut_ptr().cast(),
        },
    };
    // SAFETY: the ioctl reads the ifreq and, through its pointer, reads and writes `request`, within
    // its length as said above; both live through the call, which keeps neither.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut ifreq) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// From include/uapi/linux/ethtool.h.
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETH_SS_FEATURES: u32 = 4;

/// ETH_GSTRING_LEN is 32 bytes.
const STRING_WORDS: usize = 8;
const MASKS_PER_BLOCK: usize = 4;

/// Several times those that a kernel has.
const FEATURES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn the_loopback_interface_names_its_features() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let features = features(socket.as_fd(), "lo").unwrap();
        let state = |wanted: &str| {
            let found = features.iter().find(|(name, _)| name == wanted);
            found
                .unwrap_or_else(|| panic!("no {wanted}: {features:?}"))
                .1
        };
        // drivers/net/loopback.c: nothing to seal for, and packets that never leave the machine.
        assert_eq!(state("tls-hw-tx-offload"), Offload::Absent);
        assert_eq!(state("tls-hw-rx-offload"), Offload::Absent);
        assert_eq!(state("loopback"), Offload::On);
        assert!(features.len() > 32, "{features:?}");
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for name in ["nowhere0", "a-name-that-is-too-long"] {
            assert!(features(socket.as_fd(), name).is_err(), "{name}");
        }
    }

    #[test]
    fn only_interfaces_of_devices_are_listed() {
        let all = interfaces().unwrap();
        assert!(
            all.iter().all(|interface| interface.name != "lo"),
            "{all:?}"
        );
    }
}
