//! The clients of this benchmark's own, on rustls: one that connects anew for each request, one
//! that holds connections open, and a fetch for checks. The first two are processes of their own,
//! told what to do over standard input and output (see [`crate::helper`]).
//!
//! h2load does not serve here: it never resumes and cannot be told not to, has no bound on how many
//! of its connections are in their handshake at once, and does not close TLS.

use std::fs;
use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{self, CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, NamedGroup,
    SignatureScheme, StreamOwned,
};
use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::arguments::{ConnectOrder, Endpoint, HoldOrder};
use crate::fixture::{Key, SERVER_NAME, Served, Version};

/// What [`connect`] reports about the measured connections.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Connected {
    /// Connections made, each with a request answered in full and a clean close on both sides.
    pub(crate) connections: u32,
    /// How many of them resumed a session.
    pub(crate) resumed: u32,
    pub(crate) elapsed_ns: u64,
}

/// A response, as far as this benchmark looks at it.
#[derive(Debug)]
pub(crate) struct Response {
    /// The length of its head.
    pub(crate) head_bytes: usize,
    pub(crate) body: Vec<u8>,
}

/// Makes `order.warm_up` connections, says [`READY`], waits for a line, makes the measured ones and
/// reports them as a line of JSON.
pub(crate) fn connect(order: &ConnectOrder) -> Result<(), Failure> {
    let clients: Result<Vec<_>, Failure> = (0..order.clients)
        .map(|_| Client::new(&order.endpoint, order.resume, Alpn::Http1))
        .collect();
    let clients = clients?;
    // Every client needs a connection of its own to have a session to resume.
    for client in &clients {
        client.run_once()?;
    }
    run_all(&clients, order.warm_up)?;
    say(READY)?;
    wait_for_a_line()?;
    let start = Instant::now();
    let resumed = run_all(&clients, order.connections)?;
    let report = Connected {
        connections: order.connections,
        resumed,
        elapsed_ns: u64::try_from(start.elapsed().as_nanos())?,
    };
    say(&serde_json::to_string(&report)?)
}

/// Opens `order.connections` connections with one request each, says [`READY`], waits for a line,
/// and reports how many of them the server has kept open.
pub(crate) fn hold(order: &HoldOrder) -> Result<(), Failure> {
    let client = Client::new(&order.endpoint, false, Alpn::Http1)?;
    let mut held = Vec::new();
    for _ in 0..order.connections {
        let (mut stream, _) = client.open()?;
        client.question.ask(&mut stream)?;
        // The session's state goes, the connection stays: only the server's memory is of interest.
        let (_, socket) = stream.into_parts();
        socket.set_nonblocking(true)?;
        held.push(socket);
    }
    say(READY)?;
    wait_for_a_line()?;
    let is_open = |socket: &&TcpStream| match socket.peek(&mut [0]) {
        Ok(length) => length > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    };
    say(&held.iter().filter(is_open).count().to_string())
}

/// One file from a server that has `endpoint`'s certificate and agrees to its parameters.
pub(crate) fn fetch(endpoint: &Endpoint) -> Result<Response, Failure> {
    let client = Client::new(endpoint, false, Alpn::Http1)?;
    let (mut stream, _) = client.open()?;
    let response = client.question.ask(&mut stream)?;
    client.close(stream)?;
    Ok(response)
}

/// `file` from a server without TLS.
pub(crate) fn fetch_plain(address: SocketAddr, file: &Served) -> Result<Response, Failure> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(WAIT_MAX))?;
    socket.set_write_timeout(Some(WAIT_MAX))?;
    let question = Question {
        path: file.name.to_owned(),
        bytes: file.bytes,
    };
    question.ask(&mut socket)
}

/// Runs `connections` connections, shared among `clients`; gives how many resumed a session.
fn run_all(clients: &[Client], connections: u32) -> Result<u32, Failure> {
    let started = AtomicU32::new(0);
    let work = |client: &Client| -> Result<u32, Failure> {
        let mut resumed = 0;
        while started.fetch_add(1, Ordering::Relaxed) < connections {
            resumed += u32::from(client.run_once()? == HandshakeKind::Resumed);
        }
        Ok(resumed)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter()
            .map(|client| scope.spawn(|| work(client)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| "a client panicked")?)
            .sum()
    })
}

pub(crate) type Stream = StreamOwned<ClientConnection, TcpStream>;

/// The protocol that a client asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Alpn {
    Http1,
    Http2,
}

impl Alpn {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}

pub(crate) struct Client {
    config: Arc<ClientConfig>,
    alpn: Alpn,
    server_name: ServerName<'static>,
    address: SocketAddr,
    pub(crate) question: Question,
}

/// What is asked for.
pub(crate) struct Question {
    path: String,
    pub(crate) bytes: usize,
}

impl Client {
    pub(crate) fn new(endpoint: &Endpoint, resume: bool, alpn: Alpn) -> Result<Self, Failure> {
        Ok(Self {
            config: Arc::new(config(endpoint, resume, alpn)?),
            alpn,
            server_name: ServerName::try_from(SERVER_NAME)?,
            address: endpoint.address,
            question: Question {
                path: endpoint.path.clone(),
                bytes: endpoint.bytes,
            },
        })
    }

    /// A connection's whole life.
    fn run_once(&self) -> Result<HandshakeKind, Failure> {
        let (mut stream, kind) = self.open()?;
        self.question.ask(&mut stream)?;
        self.close(stream)?;
        Ok(kind)
    }

    pub(crate) fn open(&self) -> Result<(Stream, HandshakeKind), Failure> {
        let mut socket = TcpStream::connect(self.address)
            .map_err(|error| format!("cannot connect to {}: {error}", self.address))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(WAIT_MAX))?;
        socket.set_write_timeout(Some(WAIT_MAX))?;
        let mut tls = ClientConnection::new(self.config.clone(), self.server_name.clone())?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)
                .map_err(|error| format!("cannot complete a handshake: {error}"))?;
        }
        let group = tls
            .negotiated_key_exchange_group()
            .map(|group| group.name());
        // None: a session resumed in TLS 1.2 has no key exchange.
        if group.is_some_and(|group| group != NamedGroup::X25519) {
            return Err(format!("the server chose {group:?}, not X25519").into());
        }
        // A server of HTTP/1.1 need not know of ALPN.
        let expected = Some(self.alpn.name());
        if matches!(self.alpn, Alpn::Http2) && tls.alpn_protocol() != expected {
            return Err("the server does not speak HTTP/2".into());
        }
        let kind = tls.handshake_kind().ok_or("a handshake of no kind")?;
        Ok((StreamOwned::new(tls, socket), kind))
    }

    /// Closes TLS and TCP in our direction and waits until the server has done the same, so that
    /// what closing costs the server falls into the time that is measured.
    fn close(&self, mut stream: Stream) -> Result<(), Failure> {
        stream.conn.send_close_notify();
        stream.flush()?;
        stream.sock.shutdown(Shutdown::Write)?;
        match io::copy(&mut stream.sock, &mut io::sink()) {
            Ok(_) => Ok(()),
            // A server may end with a reset once it has read our last byte.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
            Err(error) => Err(format!("waiting for {} to close: {error}", self.address).into()),
        }
    }
}

impl Question {
    /// Asks for the file and reads the whole response.
    pub(crate) fn ask(&self, stream: &mut (impl Read + Write)) -> Result<Response, Failure> {
        self.put(stream)?;
        stream.flush()?;
        let mut received = Vec::with_capacity(self.bytes + HEAD_BYTES_EXPECTED);
        let mut chunk = vec![0; CHUNK_BYTES];
        let head_bytes = loop {
            if let Some(head_bytes) = self.judge_head(&received)? {
                break head_bytes;
            }
            read_some(stream, &mut chunk, &mut received)?;
        };
        while received.len() < head_bytes + self.bytes {
            read_some(stream, &mut chunk, &mut received)?;
        }
        let body = received.split_off(head_bytes);
        if body.len() > self.bytes {
            return Err("more bytes than the response has".into());
        }
        Ok(Response { head_bytes, body })
    }

    /// Writes the request.
    pub(crate) fn put(&self, stream: &mut impl Write) -> Result<(), Failure> {
        // In one piece: not every stream here gathers writes.
        let request = format!(
            "GET /{} HTTP/1.1\r\nHost: {SERVER_NAME}\r\nUser-Agent: versus\r\n\r\n",
            self.path
        );
        Ok(stream.write_all(request.as_bytes())?)
    }

    /// The length of the head that `received` begins with; `None` while it is incomplete.
    pub(crate) fn judge_head(&self, received: &[u8]) -> Result<Option<usize>, Failure> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(head_bytes) = response.parse(received)? else {
            return Ok(None);
        };
        if response.code != Some(200) {
            return Err(format!("/{}: status {:?}", self.path, response.code).into());
        }
        let length: Option<usize> = response
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case("content-length"))
            .and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok());
        if length != Some(self.bytes) {
            return Err(format!(
                "/{}: Content-Length {length:?}, not {}",
                self.path, self.bytes
            )
            .into());
        }
        Ok(Some(head_bytes))
    }
}

fn read_some(stream: &mut impl Read, chunk: &mut [u8], into: &mut Vec<u8>) -> Result<(), Failure> {
    match stream.read(chunk)? {
        0 => Err("the server closed before the end of its response".into()),
        length => {
            into.extend(chunk.iter().take(length));
            Ok(())
        }
    }
}

/// One suite, one group, one signature scheme, one certificate.
fn config(endpoint: &Endpoint, resume: bool, alpn: Alpn) -> Result<ClientConfig, Failure> {
    let suites = [
        CipherSuite::TLS13_AES_128_GCM_SHA256,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ];
    let mut provider = aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .retain(|suite| suites.contains(&suite.suite()));
    let version = match endpoint.version {
        Version::Tls12 => &rustls::version::TLS12,
        Version::Tls13 => &rustls::version::TLS13,
    };
    provider.kx_groups = match endpoint.version {
        Version::Tls13 => vec![aws_lc_rs::kx_group::X25519],
        Version::Tls12 => vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1],
    };
    let provider = Arc::new(provider);
    let verifier = Pinned::new(&endpoint.certificate, endpoint.key, provider.clone())?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.name().to_vec()];
    config.resumption = if resume {
        Resumption::in_memory_sessions(SESSIONS_MAX)
    } else {
        Resumption::disabled()
    };
    Ok(config)
}

/// Accepts one certificate, and one way to sign with its key.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    scheme: SignatureScheme,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn new(file: &Path, key: Key, provider: Arc<CryptoProvider>) -> Result<Self, Failure> {
        Ok(Self {
            certificate: CertificateDer::from_pem_slice(&fs::read(file)?)?,
            scheme: match key {
                Key::P256 => SignatureScheme::ECDSA_NISTP256_SHA256,
                Key::Rsa2048 => SignatureScheme::RSA_PSS_SHA256,
            },
            provider,
        })
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *end_entity == self.certificate {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::CertificateError::UnknownIssuer.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![self.scheme]
    }
}

/// Writes a line to whoever started this process.
pub(crate) fn say(line: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// Waits for one from them.
pub(crate) fn wait_for_a_line() -> Result<(), Failure> {
    match io::stdin().lock().read_line(&mut String::new())? {
        0 => Err("nobody listens any more".into()),
        _ => Ok(()),
    }
}

/// Says that the warm-up, or the opening of connections, is done.
pub(crate) const READY: &str = "ready";

/// Far beyond what loopback takes, even on a busy machine: a run ends with an error, never hangs.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(30);

const CHUNK_BYTES: usize = 16 * 1024;
const HEAD_BYTES_EXPECTED: usize = 1024;
const HEADERS_MAX: usize = 32;
const SESSIONS_MAX: usize = 8;
