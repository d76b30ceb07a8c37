//! A TLS client that reads when it is told to and tells apart every way a connection can end.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{
    AlertDescription, CipherSuite, ClientConfig, ClientConnection, RootCertStore,
    SupportedProtocolVersion,
};
use socket2::{Domain, Socket, Type};

use super::certificates::{Leaf, authority_der};
use super::process::find;
use super::server::Server;
use super::wait::{PATIENCE, until_settled};

/// Versions that a client offers.
pub(crate) type Versions = &'static [&'static SupportedProtocolVersion];

pub(crate) static TLS12: Versions = &[&rustls::version::TLS12];
pub(crate) static TLS13: Versions = &[&rustls::version::TLS13];
static BOTH: Versions = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// How a client speaks.
#[derive(Clone)]
pub(crate) struct Manner {
    pub(crate) name: &'static str,
    pub(crate) versions: Versions,
    /// The only suite offered; `None` offers all.
    pub(crate) suite: Option<CipherSuite>,
    pub(crate) protocols: &'static [&'static str],
    /// SO_RCVBUF: how much the peer can send to a client that does not read.
    pub(crate) receive_buffer_bytes: Option<usize>,
    /// What it shows when it is asked for a certificate.
    pub(crate) certificate: Option<Leaf>,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            name: "localhost",
            versions: BOTH,
            suite: None,
            protocols: &["http/1.1"],
            receive_buffer_bytes: None,
            certificate: None,
        }
    }
}

/// An established connection.
pub(crate) struct Client {
    pub(crate) tls: ClientConnection,
    pub(crate) socket: TcpStream,
}

/// A response as it came.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

/// How the server ended a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By close_notify.
    CloseNotify,
    /// By FIN without close_notify.
    Truncated,
    /// By RST.
    Reset,
    /// By a fatal alert.
    Alert(AlertDescription),
}

impl Manner {
    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        let mut provider: CryptoProvider = aws_lc_rs::default_provider();
        if let Some(suite) = self.suite {
            provider
                .cipher_suites
                .retain(|known| known.suite() == suite);
        }
        let mut roots = RootCertStore::empty();
        roots.add(authority_der()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match &self.certificate {
            None => config.with_no_client_auth(),
            Some(leaf) => {
                let chain = CertificateDer::pem_slice_iter(leaf.chain.as_bytes());
                let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
                let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
                config.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = self
            .protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        config.resumption = Resumption::disabled();
        Arc::new(config)
    }

    /// A TCP connection to `address`.
    pub(crate) fn connect_tcp(&self, address: SocketAddr) -> TcpStream {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        if let Some(bytes) = self.receive_buffer_bytes {
            socket.set_recv_buffer_size(bytes).unwrap();
        }
        socket.connect(&address.into()).unwrap();
        socket.set_tcp_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        socket.into()
    }

    /// A connection that has done its handshake.
    pub(crate) fn connect(&self, server: &Server) -> Client {
        self.try_connect(server).unwrap()
    }

    /// As [`Manner::connect`], where the handshake may be refused.
    pub(crate) fn try_connect(&self, server: &Server) -> io::Result<Client> {
        self.establish(self.connect_tcp(server.address))
    }

    /// The handshake over a connection.
    pub(crate) fn establish(&self, socket: TcpStream) -> io::Result<Client> {
        let name = self.name.try_into().unwrap();
        let tls = ClientConnection::new(self.config(), name).unwrap();
        let mut client = Client { tls, socket };
        while client.tls.is_handshaking() {
            client.tls.complete_io(&mut client.socket)?;
        }
        client.flush()?;
        Ok(client)
    }

    /// The first bytes that a client of this manner sends.
    pub(crate) fn client_hello(&self) -> Vec<u8> {
        let name = self.name.try_into().unwrap();
        let mut tls = ClientConnection::new(self.config(), name).unwrap();
        let mut bytes = Vec::new();
        tls.write_tls(&mut bytes).unwrap();
        bytes
    }
}

impl Client {
    /// A client without wishes.
    pub(crate) fn connect(server: &Server) -> Self {
        Manner::default().connect(server)
    }

    /// Sends plaintext.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.tls.writer().write_all(bytes).unwrap();
        self.flush().unwrap();
    }

    /// Asks for `path`.
    pub(crate) fn ask(&mut self, path: &str) {
        self.send(request(path).as_bytes());
    }

    /// Asks for `path` and reads the response.
    pub(crate) fn get(&mut self, path: &str) -> Response {
        self.ask(path);
        self.read_response()
    }

    /// Sends what the TLS library has to say.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.socket)?;
        }
        Ok(())
    }

    /// Reads some plaintext; an empty answer is the peer's close_notify.
    pub(crate) fn read_some(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.flush()?;
        loop {
            match self.tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            self.tls.read_tls(&mut self.socket)?;
            let processed = self.tls.process_new_packets();
            // Alerts of ours and answers to KeyUpdates go out before anything is concluded.
            drop(self.flush());
            processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }

    /// Appends exactly `count` bytes of plaintext to `bytes`.
    pub(crate) fn read_into(&mut self, bytes: &mut Vec<u8>, count: usize) {
        let start = bytes.len();
        bytes.resize(start + count, 0);
        let mut filled = start;
        while filled < bytes.len() {
            let more = self
                .read_some(&mut bytes[filled..])
                .unwrap_or_else(|error| {
                    panic!("{error} after {} of {count} bytes", filled - start)
                });
            assert_ne!(
                more,
                0,
                "close_notify after {} of {count} bytes",
                filled - start
            );
            filled += more;
        }
    }

    /// Reads a response's head.
    pub(crate) fn read_head(&mut self) -> String {
        let mut head = Vec::new();
        // One byte at a time leaves the body where it is; the library has them in memory.
        while !head.ends_with(b"\r\n\r\n") {
            self.read_into(&mut head, 1);
        }
        String::from_utf8(head).unwrap()
    }

    /// Reads a response with a body of the length it announces.
    pub(crate) fn read_response(&mut self) -> Response {
        let head = self.read_head();
        let mut body = Vec::new();
        self.read_into(&mut body, content_length(&head));
        Response { head, body }
    }

    /// Reads and throws away what comes until the connection ends.
    pub(crate) fn read_to_ending(&mut self) -> Ending {
        self.read_rest().1
    }

    /// Reads until the connection ends.
    pub(crate) fn read_rest(&mut self) -> (Vec<u8>, Ending) {
        let mut bytes = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        let ending = loop {
            match self.read_some(&mut buffer) {
                Ok(0) => break Ending::CloseNotify,
                Ok(length) => bytes.extend_from_slice(&buffer[..length]),
                Err(error) => break Ending::of(&error),
            }
        };
        (bytes, ending)
    }

    /// Says that nothing more will be sent, and nothing else.
    pub(crate) fn close_notify(&mut self) {
        self.tls.send_close_notify();
        self.flush().unwrap();
    }

    /// Ends the sending direction without a close_notify.
    pub(crate) fn truncate(&self) {
        self.socket.shutdown(Shutdown::Write).unwrap();
    }

    /// Waits until the server can send no more because this client does not read.
    pub(crate) fn wait_until_full(&self) {
        let address = self.socket.local_addr().unwrap();
        until_settled(
            "the server has filled the connection",
            || unread_bytes(address),
            |&unread| unread > 0,
        );
    }
}

impl Ending {
    /// The ending that shows itself as `error`.
    pub(crate) fn of(error: &io::Error) -> Self {
        let inner = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match (error.kind(), inner) {
            (_, Some(rustls::Error::AlertReceived(alert))) => Self::Alert(*alert),
            (io::ErrorKind::UnexpectedEof, _) => Self::Truncated,
            (io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe, _) => Self::Reset,
            _ => panic!("an ending of no known kind: {error:?}"),
        }
    }
}

impl Response {
    /// Its status code.
    pub(crate) fn status(&self) -> u16 {
        status(&self.head)
    }

    /// The value of the field `name`, given in lower case.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }
}

/// A request for `path`, as the simplest client writes it.
pub(crate) fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

/// The status code of a response's head.
pub(crate) fn status(head: &str) -> u16 {
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    code.unwrap_or_else(|| panic!("no status in {head:?}"))
}

/// A field of a response's head.
pub(crate) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The length that a response's head announces.
pub(crate) fn content_length(head: &str) -> usize {
    let length = field(head, "content-length").and_then(|length| length.parse().ok());
    length.unwrap_or_else(|| panic!("no content-length in {head:?}"))
}

/// The body of a whole response in `bytes`, as a tool printed it.
pub(crate) fn body_of(bytes: &[u8]) -> &[u8] {
    let start = find(bytes, b"HTTP/1.1 ").expect("a response");
    let head = find(&bytes[start..], b"\r\n\r\n").expect("a whole head");
    &bytes[start + head + 4..]
}

/// Closes by a RST.
pub(crate) fn reset(socket: TcpStream) {
    Socket::from(socket)
        .set_linger(Some(std::time::Duration::ZERO))
        .unwrap();
}

/// Bytes that wait in the receive queue of the local socket with `address`.
fn unread_bytes(address: SocketAddr) -> u64 {
    let wanted = format!(":{:04X}", address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let line = table.lines().skip(1).find_map(|line| {
        let mut columns = line.split_ascii_whitespace();
        let local = columns.nth(1)?;
        // An established one: the server's end has this port as its peer's.
        (local.ends_with(&wanted) && columns.nth(1) == Some("01")).then_some(line)
    });
    let queues = line
        .and_then(|line| line.split_ascii_whitespace().nth(4))
        .unwrap_or_default();
    let unread = queues
        .split_once(':')
        .map(|(_, unread)| unread)
        .unwrap_or_default();
    u64::from_str_radix(unread, 16).unwrap_or_default()
}
