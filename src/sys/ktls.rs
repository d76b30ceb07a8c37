//! Kernel TLS socket options (Linux `Documentation/networking/tls.rst`).
//!
//! The order is the kernel's: [`enable_ulp`] on an established connection, then [`set_keys`] per
//! direction. There is no way back: keys can be replaced (TLS 1.3, Linux 6.14), not removed.

#![expect(
    unsafe_code,
    reason = "setsockopt with options no library offers in a safe form"
)]

use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsRawFd, BorrowedFd};

use ::ktls::CryptoInfo;
use zeroize::{Zeroize, Zeroizing};

use super::suite::{Aead, Suite};

/// Which half of a connection a key protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// What this side sends (`TLS_TX`, Linux 4.13).
    Send,
    /// What this side receives (`TLS_RX`, Linux 4.17).
    Receive,
}

/// Attaches the kernel's TLS layer to an established TCP connection. Bytes keep flowing unchanged
/// until [`set_keys`].
///
/// # Errors
///
/// `ENOENT`: the kernel has no `tls` module and could not load one. `ENOTCONN`: the connection is
/// not (or no longer) in state ESTABLISHED. `EEXIST`: a layer is attached already.
pub fn enable_ulp(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, libc::SOL_TCP, libc::TCP_ULP, ULP_NAME)
}

/// Gives the kernel the key, the nonce and the sequence number of the next record of one direction.
/// On a direction that has a key this is the rekey of TLS 1.3 (RFC 8446 4.6.3, Linux 6.14).
///
/// The caller's `keys` are consumed and overwritten with zeros, whatever the outcome.
///
/// # Errors
///
/// `ENOPROTOOPT`: [`enable_ulp`] was not called. `EINVAL`: the version or the cipher is not
/// supported. `ENOENT`: the kernel's crypto layer lacks the cipher. `EBUSY`: the direction has a
/// key already and this kernel cannot replace it.
pub fn set_keys(
    socket: BorrowedFd<'_>,
    direction: Direction,
    mut keys: CryptoInfo,
) -> io::Result<()> {
    let option = match direction {
        Direction::Send => libc::TLS_TX,
        Direction::Receive => libc::TLS_RX,
    };
    let outcome = match &keys {
        CryptoInfo::AesGcm128(info) => set_option(socket, libc::SOL_TLS, option, info),
        CryptoInfo::AesGcm256(info) => set_option(socket, libc::SOL_TLS, option, info),
        CryptoInfo::AesCcm128(info) => set_option(socket, libc::SOL_TLS, option, info),
        CryptoInfo::Chacha20Poly1305(info) => set_option(socket, libc::SOL_TLS, option, info),
        CryptoInfo::Sm4Gcm(info) => set_option(socket, libc::SOL_TLS, option, info),
        CryptoInfo::Sm4Ccm(info) => set_option(socket, libc::SOL_TLS, option, info),
    };
    wipe(&mut keys);
    outcome
}

/// Tells the kernel that the peer pads no TLS 1.3 record, so that it may decrypt straight into the
/// reader's buffer (`TLS_RX_EXPECT_NO_PAD`, Linux 6.0). A padded record is then decrypted twice: for
/// peers that are trusted not to pad. Needs the receive direction's key.
///
/// # Errors
///
/// `ENOPROTOOPT`: the kernel is older, or [`enable_ulp`] was not called. `EINVAL`: no TLS 1.3 key is
/// set for receiving.
pub fn set_receive_no_pad(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_uint = 1;
    set_option(socket, libc::SOL_TLS, libc::TLS_RX_EXPECT_NO_PAD, &on)
}

/// The sequence number of the next record that the kernel will protect for sending: how many it has
/// made, those included that wait in its record layer for room in the socket.
///
/// # Errors
///
/// `EINVAL`: the kernel cannot report this cipher's state; `ENOPROTOOPT` or `EBUSY`: no key is set.
pub fn send_sequence(socket: BorrowedFd<'_>, suite: Suite) -> io::Result<u64> {
    // It comes with the key.
    let mut state = Zeroizing::new([0; STATE_BYTES_MAX]);
    let expected = state_bytes(suite.aead);
    let mut bytes = libc::socklen_t::try_from(expected).unwrap_or_default();
    // SAFETY: getsockopt writes at most `bytes` bytes, which is at most the array's length (see
    // `state_bytes`), to the pointer, and the new length to `bytes`; both live until the call
    // returns, and nothing is kept.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_TLS,
            libc::TLS_TX,
            state.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let sequence = state
        .get(..expected)
        .and_then(|state| state.last_chunk())
        .ok_or(io::ErrorKind::InvalidData)?;
    Ok(u64::from_be_bytes(*sequence))
}

/// Overwrites the key material of `keys` with zeros, in a way the compiler cannot remove. For keys
/// that are not given to [`set_keys`] after all.
pub fn wipe(keys: &mut CryptoInfo) {
    let parts: [&mut [u8]; 3] = match keys {
        CryptoInfo::AesGcm128(info) => [&mut info.key, &mut info.iv, &mut info.salt],
        CryptoInfo::AesGcm256(info) => [&mut info.key, &mut info.iv, &mut info.salt],
        CryptoInfo::AesCcm128(info) => [&mut info.key, &mut info.iv, &mut info.salt],
        CryptoInfo::Chacha20Poly1305(info) => [&mut info.key, &mut info.iv, &mut []],
        CryptoInfo::Sm4Gcm(info) => [&mut info.key, &mut info.iv, &mut info.salt],
        CryptoInfo::Sm4Ccm(info) => [&mut info.key, &mut info.iv, &mut info.salt],
    };
    for part in parts {
        part.zeroize();
    }
}

/// One setsockopt(2); `value` is a plain C value or structure without padding.
pub(super) fn set_option<T: ?Sized>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let bytes = libc::socklen_t::try_from(size_of_val(value))
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: setsockopt reads `bytes` bytes from the pointer during the call and keeps nothing;
    // the reference makes exactly that many readable, and the descriptor is open while borrowed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            bytes,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The length of struct tls12_crypto_info_* (include/uapi/linux/tls.h): version and cipher, IV, key,
/// salt, and last the sequence number.
const fn state_bytes(aead: Aead) -> usize {
    match aead {
        Aead::Aes128Gcm => 4 + 8 + 16 + 4 + 8,
        Aead::Aes256Gcm => 4 + 8 + 32 + 4 + 8,
        Aead::Chacha20Poly1305 => 4 + 12 + 32 + 8,
    }
}

const STATE_BYTES_MAX: usize = 56;

const _: () = assert!(
    state_bytes(Aead::Aes128Gcm) <= STATE_BYTES_MAX
        && state_bytes(Aead::Aes256Gcm) <= STATE_BYTES_MAX
        && state_bytes(Aead::Chacha20Poly1305) <= STATE_BYTES_MAX
);

/// The name the kernel knows its TLS layer by (`TCP_ULP`, net/tls/tls_main.c).
const ULP_NAME: &[u8] = b"tls";

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::TcpStream;
    use std::os::fd::AsFd;

    use rustls::ConnectionTrafficSecrets;
    use rustls::crypto::cipher::{AeadKey, Iv};

    use super::*;
    use crate::sys::socket;
    use crate::sys::suite::Version;
    use crate::sys::test_support::{TcpPair, wait_readable};

    #[test]
    fn the_ulp_attaches_where_the_kernel_has_it_and_is_named_missing_elsewhere() {
        let pair = TcpPair::connected();
        let outcome = enable_ulp(pair.near.as_fd());
        // Read afterwards: attaching may load the module.
        let loaded = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_ulp").unwrap();
        if loaded.split_whitespace().any(|name| name == "tls") {
            outcome.unwrap();
            let again = enable_ulp(pair.near.as_fd()).unwrap_err();
            assert_eq!(again.raw_os_error(), Some(libc::EEXIST));
        } else {
            assert_eq!(outcome.unwrap_err().raw_os_error(), Some(libc::ENOENT));
        }
    }

    #[test]
    fn options_without_the_ulp_are_refused() {
        let pair = TcpPair::connected();
        let refused = set_keys(pair.near.as_fd(), Direction::Send, keys()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOPROTOOPT));
        let refused = set_receive_no_pad(pair.near.as_fd()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOPROTOOPT));
    }

    #[test]
    fn a_socket_that_is_not_connected_is_refused() {
        let lonely = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let refused = enable_ulp(lonely.unwrap().as_fd()).unwrap_err();
        let reason = refused.raw_os_error();
        assert!(
            reason == Some(libc::ENOTCONN) || reason == Some(libc::ENOENT),
            "{refused}"
        );
    }

    #[test]
    fn records_carry_their_content_type_or_the_module_is_missing() {
        let pair = TcpPair::connected();
        if let Err(error) = enable_ulp(pair.near.as_fd()) {
            assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
            return;
        }
        enable_ulp(pair.far.as_fd()).unwrap();
        set_keys(pair.near.as_fd(), Direction::Send, keys()).unwrap();
        set_keys(pair.far.as_fd(), Direction::Receive, keys()).unwrap();

        assert_eq!(socket::send(pair.near.as_fd(), b"data", false).unwrap(), 4);
        assert_eq!(receive_record(&pair.far), Some((23, b"data".to_vec())));
        // Two types queued at once, and a buffer smaller than the record.
        let near = pair.near.as_fd();
        assert_eq!(socket::send(near, b"more", false).unwrap(), 4);
        assert_eq!(socket::send_record(near, 21, &[1, 0]).unwrap(), 2);
        assert_eq!(receive_record(&pair.far), Some((23, b"more".to_vec())));
        wait_readable(pair.far.as_fd());
        let plain = socket::receive(pair.far.as_fd(), &mut [0; 8]).unwrap_err();
        assert_eq!(plain.raw_os_error(), Some(libc::EIO));
        for expected in [1, 0] {
            let mut byte = [9];
            let received = socket::receive_record(pair.far.as_fd(), &mut byte).unwrap();
            assert_eq!((received, byte), (Some((21, 1)), [expected]));
        }
        match set_keys(near, Direction::Send, keys()) {
            Ok(()) => (),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EBUSY)),
        }
        drop(pair.near);
        assert_eq!(receive_record(&pair.far), None);
    }

    #[test]
    fn the_kernel_tells_how_many_records_it_has_made_or_the_module_is_missing() {
        for (aead, keys) in [
            (Aead::Aes256Gcm, keys()),
            (Aead::Chacha20Poly1305, chacha_keys()),
        ] {
            let suite = Suite {
                version: Version::Tls13,
                aead,
            };
            let pair = TcpPair::connected();
            let near = pair.near.as_fd();
            assert!(send_sequence(near, suite).is_err());
            if let Err(error) = enable_ulp(near) {
                assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
                return;
            }
            set_keys(near, Direction::Send, keys).unwrap();
            assert_eq!(send_sequence(near, suite).unwrap(), 0);
            assert_eq!(socket::send(near, b"data", false).unwrap(), 4);
            assert_eq!(socket::send_record(near, 21, &[1, 0]).unwrap(), 2);
            assert_eq!(send_sequence(near, suite).unwrap(), 2, "{aead:?}");
        }
    }

    #[test]
    fn wiping_leaves_no_key_byte() {
        for mut keys in [keys(), chacha_keys()] {
            wipe(&mut keys);
            let rest: Vec<u8> = match &keys {
                CryptoInfo::Chacha20Poly1305(info) => [&info.key[..], &info.iv].concat(),
                CryptoInfo::AesGcm256(info) => [&info.key[..], &info.iv, &info.salt].concat(),
                CryptoInfo::AesGcm128(_)
                | CryptoInfo::AesCcm128(_)
                | CryptoInfo::Sm4Gcm(_)
                | CryptoInfo::Sm4Ccm(_) => panic!("not among the cases"),
            };
            assert!(
                rest.len() >= 28 && rest.iter().all(|byte| *byte == 0),
                "{rest:?}"
            );
        }
    }

    fn receive_record(from: &TcpStream) -> Option<(u8, Vec<u8>)> {
        wait_readable(from.as_fd());
        let mut buffer = [0; 64];
        let received = socket::receive_record(from.as_fd(), &mut buffer).unwrap();
        received.map(|(content_type, length)| (content_type, buffer[..length].to_vec()))
    }

    fn keys() -> CryptoInfo {
        let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384;
        let secrets = ConnectionTrafficSecrets::Aes256Gcm {
            key: AeadKey::from([9; 32]),
            iv: Iv::copy(&[7; 12]),
        };
        CryptoInfo::from_rustls(suite, (0, secrets)).unwrap()
    }

    fn chacha_keys() -> CryptoInfo {
        let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256;
        let secrets = ConnectionTrafficSecrets::Chacha20Poly1305 {
            key: AeadKey::from([9; 32]),
            iv: Iv::copy(&[7; 12]),
        };
        CryptoInfo::from_rustls(suite, (0, secrets)).unwrap()
    }
}
