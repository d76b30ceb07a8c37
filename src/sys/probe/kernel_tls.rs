//! What kernel TLS can do here: per suite and direction, on a real loopback connection.
//!
//! The two directions are tried apart. What the kernel seals is opened by the AEAD library, and the
//! kernel must open what the library sealed; two halves of a kernel that agree on a wrong answer
//! would not pass. The keys are constants: nothing but the probe's own bytes is ever sent.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::limits::{RECORD_HEADER_BYTES as HEADER_BYTES, RECORD_PLAINTEXT_BYTES_MAX};
use crate::sys::clock;
use crate::sys::ktls::{self, Direction};
use crate::sys::suite::{Aead, SUITES, Suite, TAG_BYTES, Version};

/// The outcome for one suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuiteSupport {
    /// The suite.
    pub suite: Suite,
    /// Whether the kernel seals it.
    pub send: Result<(), TlsRefusal>,
    /// Whether the kernel opens it.
    pub receive: Result<(), TlsRefusal>,
    /// To send what the kernel seals takes more than twice the CPU time of sealing here: most likely it
    /// lacks the code for this processor's instructions, and seals with that for any.
    pub is_slow: bool,
}

/// What kernel TLS can do here. See [`kernel_tls`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelTls {
    /// Whether the kernel's TLS layer attaches to a connection at all.
    pub ulp: Result<(), TlsRefusal>,
    /// Each suite, in the order of [`Suite::ALL`].
    pub suites: [SuiteSupport; SUITES],
    /// The keys of a TLS 1.3 connection can be replaced, in both directions (Linux 6.14). Without
    /// it a KeyUpdate (RFC 8446 4.6.3) ends the connection.
    pub rekey: bool,
    /// TLS_RX_EXPECT_NO_PAD is known (Linux 6.0).
    pub no_pad: bool,
}

/// Why the kernel does not do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsRefusal {
    /// The kernel has no tls module and could load none.
    NoModule,
    /// The loopback interface carried no connection, so nothing could be tried.
    NoLoopback,
    /// A system call failed.
    Call {
        /// The call, or the socket option it was to set.
        name: &'static str,
        /// Its error number.
        errno: i32,
    },
    /// What the kernel sealed could not be opened, or what it opened was not what was sealed.
    WrongBytes,
}

/// Tries everything once, and how fast it is with a quarter of a mebibyte for each suite: some milliseconds,
/// some tens with code for any processor, or as long as the kernel takes to load its modules.
/// A kernel that neither works nor fails costs half a second per suite and direction. The outcome
/// does not change while the process runs, unless an administrator loads the module: ask once.
#[must_use]
pub fn kernel_tls() -> KernelTls {
    let pair = match Pair::connected() {
        Ok(pair) => pair,
        Err(refusal) => return KernelTls::refused(refusal),
    };
    if let Err(error) = ktls::enable_ulp(pair.kernel.as_fd()) {
        return KernelTls::refused(match error.raw_os_error() {
            Some(libc::ENOENT) => TlsRefusal::NoModule,
            _ => TlsRefusal::call("TCP_ULP", &error),
        });
    }
    KernelTls {
        ulp: Ok(()),
        suites: Suite::ALL.map(|suite| {
            let (send, is_slow) = match try_send(suite) {
                Ok(is_slow) => (Ok(()), is_slow),
                Err(refusal) => (Err(refusal), false),
            };
            SuiteSupport {
                suite,
                send,
                receive: try_receive(suite),
                is_slow,
            }
        }),
        rekey: try_rekey().is_ok(),
        no_pad: try_no_pad().is_ok(),
    }
}

impl KernelTls {
    /// Nothing works, all for the same reason.
    #[must_use]
    pub fn refused(refusal: TlsRefusal) -> Self {
        Self {
            ulp: Err(refusal),
            suites: Suite::ALL.map(|suite| SuiteSupport {
                suite,
                send: Err(refusal),
                receive: Err(refusal),
                is_slow: false,
            }),
            rekey: false,
            no_pad: false,
        }
    }

    /// Whether the kernel can take over one direction of a connection with this suite.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn supports(&self, suite: Suite, direction: Direction) -> Result<(), TlsRefusal> {
        self.ulp?;
        for support in &self.suites {
            if support.suite == suite {
                return match direction {
                    Direction::Send => support.send,
                    Direction::Receive => support.receive,
                };
            }
        }
        Err(TlsRefusal::NoModule)
    }

    /// Whether the kernel seals with this suite, but so slowly that nothing it saves makes up for it.
    #[must_use]
    pub fn is_slow(&self, suite: Suite) -> bool {
        let of_suite = |support: &&SuiteSupport| support.suite == suite;
        self.suites
            .iter()
            .find(of_suite)
            .is_some_and(|support| support.is_slow)
    }
}

impl TlsRefusal {
    fn call(name: &'static str, error: &io::Error) -> Self {
        Self::Call {
            name,
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        }
    }
}

impl fmt::Display for TlsRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoModule => f.write_str("the kernel has no tls module"),
            Self::NoLoopback => f.write_str("no connection over the loopback interface"),
            Self::Call { name, errno } => {
                write!(f, "{name}: {}", io::Error::from_raw_os_error(*errno))
            }
            Self::WrongBytes => f.write_str("the kernel's records are wrong"),
        }
    }
}

/// Whether it is slow, too.
fn try_send(suite: Suite) -> Result<bool, TlsRefusal> {
    let mut pair = Pair::with_ulp()?;
    pair.set_key(suite, Direction::Send, &TestKey::FIRST)?;
    pair.kernel_seals(suite, &TestKey::FIRST)?;
    // What cannot be timed is not slow.
    Ok(pair
        .sealing_times(suite)
        .inspect_err(|error| tracing::debug!(?suite, %error, "kernel TLS cannot be timed"))
        .is_ok_and(|(kernel, library)| {
            tracing::debug!(
                ?suite,
                ?kernel,
                ?library,
                "CPU time to send 16 KiB, by who seals them"
            );
            is_slow(kernel, library)
        }))
}

fn is_slow(kernel: Duration, library: Duration) -> bool {
    kernel > SLOW_TIMES * library
}

fn try_receive(suite: Suite) -> Result<(), TlsRefusal> {
    let mut pair = Pair::with_ulp()?;
    pair.set_key(suite, Direction::Receive, &TestKey::FIRST)?;
    pair.kernel_opens(suite, &TestKey::FIRST)
}

/// Both directions, each used under the first key before it gets the second.
fn try_rekey() -> Result<(), TlsRefusal> {
    let mut pair = Pair::with_ulp()?;
    for key in [TestKey::FIRST, TestKey::SECOND] {
        pair.set_key(REKEY_SUITE, Direction::Send, &key)?;
        pair.kernel_seals(REKEY_SUITE, &key)?;
        pair.set_key(REKEY_SUITE, Direction::Receive, &key)?;
        pair.kernel_opens(REKEY_SUITE, &key)?;
    }
    Ok(())
}

fn try_no_pad() -> Result<(), TlsRefusal> {
    let mut pair = Pair::with_ulp()?;
    pair.set_key(REKEY_SUITE, Direction::Receive, &TestKey::FIRST)?;
    ktls::set_receive_no_pad(pair.kernel.as_fd())
        .map_err(|error| TlsRefusal::call("TLS_RX_EXPECT_NO_PAD", &error))?;
    pair.kernel_opens(REKEY_SUITE, &TestKey::FIRST)
}

/// A loopback connection with the kernel's TLS at one end and none at the other.
struct Pair {
    kernel: TcpStream,
    library: TcpStream,
}

impl Pair {
    fn with_ulp() -> Result<Self, TlsRefusal> {
        let pair = Self::connected()?;
        ktls::enable_ulp(pair.kernel.as_fd())
            .map_err(|error| TlsRefusal::call("TCP_ULP", &error))?;
        Ok(pair)
    }

    fn connected() -> Result<Self, TlsRefusal> {
        Self::connected_over(Ipv4Addr::LOCALHOST.into())
            .or_else(|_| Self::connected_over(Ipv6Addr::LOCALHOST.into()))
            .map_err(|_| TlsRefusal::NoLoopback)
    }

    fn connected_over(address: std::net::IpAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::new(address, 0))?;
        let kernel = TcpStream::connect_timeout(&listener.local_addr()?, PATIENCE)?;
        let (library, peer) = listener.accept()?;
        // Another process may have been faster.
        if peer != kernel.local_addr()? {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        for end in [&kernel, &library] {
            end.set_nodelay(true)?;
            end.set_read_timeout(Some(PATIENCE))?;
            end.set_write_timeout(Some(PATIENCE))?;
        }
        Ok(Self { kernel, library })
    }

    fn set_key(&self, suite: Suite, direction: Direction, key: &TestKey) -> Result<(), TlsRefusal> {
        let (name, option) = match direction {
            Direction::Send => ("TLS_TX", libc::TLS_TX),
            Direction::Receive => ("TLS_RX", libc::TLS_RX),
        };
        let info = |cipher_type| libc::tls_crypto_info {
            version: match suite.version {
                Version::Tls12 => libc::TLS_1_2_VERSION,
                Version::Tls13 => libc::TLS_1_3_VERSION,
            },
            cipher_type,
        };
        let [s0, s1, s2, s3, explicit @ ..] = key.iv;
        let (salt, rec_seq, socket) = ([s0, s1, s2, s3], [0; 8], self.kernel.as_fd());
        match suite.aead {
            Aead::Aes128Gcm => {
                let value = libc::tls12_crypto_info_aes_gcm_128 {
                    info: info(libc::TLS_CIPHER_AES_GCM_128),
                    iv: explicit,
                    key: key.short,
                    salt,
                    rec_seq,
                };
                ktls::set_option(socket, libc::SOL_TLS, option, &value)
            }
            Aead::Aes256Gcm => {
                let value = libc::tls12_crypto_info_aes_gcm_256 {
                    info: info(libc::TLS_CIPHER_AES_GCM_256),
                    iv: explicit,
                    key: key.long,
                    salt,
                    rec_seq,
                };
                ktls::set_option(socket, libc::SOL_TLS, option, &value)
            }
            Aead::Chacha20Poly1305 => {
                let value = libc::tls12_crypto_info_chacha20_poly1305 {
                    info: info(libc::TLS_CIPHER_CHACHA20_POLY1305),
                    iv: key.iv,
                    key: key.long,
                    salt: [],
                    rec_seq,
                };
                ktls::set_option(socket, libc::SOL_TLS, option, &value)
            }
        }
        .map_err(|error| TlsRefusal::call(name, &error))
    }

    fn kernel_seals(&mut self, suite: Suite, key: &TestKey) -> Result<(), TlsRefusal> {
        self.kernel
            .write_all(MESSAGE)
            .map_err(|error| TlsRefusal::call("send", &error))?;
        let mut record = vec![0; suite.record_bytes(MESSAGE.len())];
        self.library
            .read_exact(&mut record)
            .map_err(|error| TlsRefusal::call("recv", &error))?;
        match open(suite, key, &record) {
            Some(message) if message == MESSAGE => Ok(()),
            _ => Err(TlsRefusal::WrongBytes),
        }
    }

    /// The CPU time of sending a full record that the kernel seals, and one that is sealed here: the least
    /// of several, which a machine that is busy with something else hardly changes.
    fn sealing_times(&mut self, suite: Suite) -> io::Result<(Duration, Duration)> {
        let plaintext = [0; RECORD_PLAINTEXT_BYTES_MAX];
        let mut record = vec![0; suite.record_bytes(plaintext.len())];
        let (mut kernel, mut library) = (Duration::MAX, Duration::MAX);
        for _ in 0..SEALING_ROUNDS {
            let began = clock::thread_time()?;
            self.kernel.write_all(&plaintext)?;
            kernel = kernel.min(clock::thread_time()?.saturating_sub(began));
            self.library.read_exact(&mut record)?;

            // The other way there is no kernel TLS.
            let began = clock::thread_time()?;
            let sealed =
                seal(suite, &TestKey::FIRST, &plaintext).ok_or(io::ErrorKind::InvalidData)?;
            self.library.write_all(&sealed)?;
            library = library.min(clock::thread_time()?.saturating_sub(began));
            self.kernel.read_exact(&mut record)?;
        }
        Ok((kernel, library))
    }

    fn kernel_opens(&mut self, suite: Suite, key: &TestKey) -> Result<(), TlsRefusal> {
        let record = seal(suite, key, MESSAGE).ok_or(TlsRefusal::WrongBytes)?;
        self.library
            .write_all(&record)
            .map_err(|error| TlsRefusal::call("send", &error))?;
        let mut message = vec![0; MESSAGE.len()];
        self.kernel
            .read_exact(&mut message)
            .map_err(|error| TlsRefusal::call("recv", &error))?;
        if message == MESSAGE {
            Ok(())
        } else {
            Err(TlsRefusal::WrongBytes)
        }
    }
}

/// A key for the probe's own bytes.
struct TestKey {
    short: [u8; 16],
    long: [u8; 32],
    iv: [u8; 12],
}

impl TestKey {
    const FIRST: Self = Self::filled(0x11);
    const SECOND: Self = Self::filled(0x22);

    const fn filled(byte: u8) -> Self {
        Self {
            short: [byte; 16],
            long: [byte; 32],
            iv: [byte ^ 0xff; 12],
        }
    }

    fn aead(&self, aead: Aead) -> Option<LessSafeKey> {
        let key = match aead {
            Aead::Aes128Gcm => UnboundKey::new(&aead::AES_128_GCM, &self.short),
            Aead::Aes256Gcm => UnboundKey::new(&aead::AES_256_GCM, &self.long),
            Aead::Chacha20Poly1305 => UnboundKey::new(&aead::CHACHA20_POLY1305, &self.long),
        };
        key.ok().map(LessSafeKey::new)
    }
}

impl Suite {
    /// RFC 8446 5.2: the record's header. RFC 5246 6.2.3.3: the sequence number, and a header with
    /// the length of the plaintext.
    fn additional_data(self, header: [u8; HEADER_BYTES], plaintext_bytes: u16) -> Vec<u8> {
        match self.version {
            Version::Tls13 => header.to_vec(),
            Version::Tls12 => {
                let [kind, major, minor, ..] = header;
                let [high, low] = plaintext_bytes.to_be_bytes();
                [[0; 8].as_slice(), &[kind, major, minor, high, low]].concat()
            }
        }
    }
}

/// The first record under `key`: sequence number 0, with which a derived nonce is the bare IV.
fn seal(suite: Suite, key: &TestKey, plaintext: &[u8]) -> Option<Vec<u8>> {
    let body_bytes = u16::try_from(suite.record_bytes(plaintext.len()) - HEADER_BYTES).ok()?;
    let [high, low] = body_bytes.to_be_bytes();
    let header = [CONTENT_TYPE_DATA, 3, 3, high, low];
    let mut body = plaintext.to_vec();
    if suite.version == Version::Tls13 {
        body.push(CONTENT_TYPE_DATA);
    }
    let additional = suite.additional_data(header, u16::try_from(plaintext.len()).ok()?);
    key.aead(suite.aead)?
        .seal_in_place_append_tag(
            Nonce::assume_unique_for_key(key.iv),
            Aad::from(additional),
            &mut body,
        )
        .ok()?;
    let explicit_nonce = key.iv.get(key.iv.len() - suite.explicit_nonce_bytes()..)?;
    Some([&header, explicit_nonce, &body].concat())
}

/// The plaintext of the first record under `key`, or `None` when it is not one of application data.
fn open(suite: Suite, key: &TestKey, record: &[u8]) -> Option<Vec<u8>> {
    let (header, body) = record.split_first_chunk::<HEADER_BYTES>()?;
    let (explicit_nonce, body) = body.split_at_checked(suite.explicit_nonce_bytes())?;
    let plaintext_bytes = u16::try_from(body.len().checked_sub(TAG_BYTES)?).ok()?;
    let mut nonce = key.iv;
    let implicit_bytes = nonce.len() - explicit_nonce.len();
    nonce
        .get_mut(implicit_bytes..)?
        .copy_from_slice(explicit_nonce);
    let additional = suite.additional_data(*header, plaintext_bytes);
    let mut body = body.to_vec();
    let opened = key
        .aead(suite.aead)?
        .open_in_place(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(additional),
            &mut body,
        )
        .ok()?;
    match suite.version {
        Version::Tls12 => (header.first() == Some(&CONTENT_TYPE_DATA)).then(|| opened.to_vec()),
        Version::Tls13 => opened
            .strip_suffix(&[CONTENT_TYPE_DATA])
            .map(<[u8]>::to_vec),
    }
}

const REKEY_SUITE: Suite = Suite::with(Version::Tls13, Aead::Aes128Gcm);

const MESSAGE: &[u8] = b"portcullis probe";

/// With code for any processor it took 3 to 13 times as long, and as long with that for its instructions
/// (Linux 6.12, emulated, copies and TCP included). What the kernel saves is a twentieth, so a machine that
/// is taken to be slow by mistake loses little. Where a thread's time is told in ticks, as in user-mode
/// Linux, both are nothing, and nothing is slow.
const SLOW_TIMES: u32 = 2;

const SEALING_ROUNDS: u32 = 8;

/// How long one transfer over loopback may take.
const PATIENCE: Duration = Duration::from_millis(500);

const CONTENT_TYPE_DATA: u8 = crate::sys::socket::APPLICATION_DATA;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn records_of_every_suite_open_again_and_only_whole() {
        for suite in Suite::ALL {
            let record = seal(suite, &TestKey::FIRST, MESSAGE).unwrap();
            assert_eq!(record.len(), suite.record_bytes(MESSAGE.len()));
            assert_eq!(open(suite, &TestKey::FIRST, &record).unwrap(), MESSAGE);
            assert_eq!(open(suite, &TestKey::SECOND, &record), None);
            for length in 0..record.len() {
                assert_eq!(open(suite, &TestKey::FIRST, &record[..length]), None);
            }
            let mut altered = record.clone();
            *altered.last_mut().unwrap() ^= 1;
            assert_eq!(open(suite, &TestKey::FIRST, &altered), None);
        }
    }

    #[test]
    fn only_what_takes_more_than_twice_as_long_is_slow() {
        let micros = Duration::from_micros;
        // AES-128-GCM and ChaCha20-Poly1305 of Linux 6.12, with the processor's code and with that for any.
        for (kernel, library, expected) in [
            (58, 57, false),
            (496, 64, true),
            (52, 110, false),
            (435, 116, true),
        ] {
            assert_eq!(
                is_slow(micros(kernel), micros(library)),
                expected,
                "{kernel} {library}"
            );
        }
        // Time in ticks says nothing.
        assert!(!is_slow(Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn the_probe_agrees_with_what_the_kernel_lists() {
        let found = kernel_tls();
        let loaded = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_ulp").unwrap();
        if loaded.split_whitespace().any(|name| name == "tls") {
            assert_eq!(found.ulp, Ok(()));
            // Read afterwards: the kernel makes a cipher known when it is first asked for.
            let ciphers = fs::read_to_string("/proc/crypto").unwrap();
            for suite in Suite::ALL {
                let name = match suite.aead {
                    Aead::Aes128Gcm | Aead::Aes256Gcm => "gcm(aes)",
                    Aead::Chacha20Poly1305 => "rfc7539(chacha20,poly1305)",
                };
                let known = ciphers
                    .lines()
                    .any(|line| line.starts_with("name") && line.split(": ").nth(1) == Some(name));
                for (direction, name) in
                    [(Direction::Send, "TLS_TX"), (Direction::Receive, "TLS_RX")]
                {
                    let errno = libc::ENOENT;
                    let expected = known.then_some(()).ok_or(TlsRefusal::Call { name, errno });
                    assert_eq!(found.supports(suite, direction), expected, "{suite:?}");
                }
            }
            let (rekey, no_pad) = (kernel_version() >= (6, 14), kernel_version() >= (6, 0));
            assert_eq!((found.rekey, found.no_pad), (rekey, no_pad));
        } else {
            assert_eq!(found, KernelTls::refused(TlsRefusal::NoModule));
            let refused = found.supports(Suite::ALL[0], Direction::Send);
            assert_eq!(refused, Err(TlsRefusal::NoModule));
        }
    }

    fn kernel_version() -> (u32, u32) {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release
            .split(['.', '-'])
            .map(|part| part.parse().unwrap_or(0));
        (numbers.next().unwrap(), numbers.next().unwrap())
    }
}
