//! The cells of the table: what is asked of every server.

use clap::ValueEnum;

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Cell {
    /// As on the command line.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) service: Service,
    pub(crate) key: Key,
    pub(crate) version: Version,
    pub(crate) work: Work,
}

/// How it is loaded.
#[derive(Debug)]
pub(crate) enum Work {
    /// Requests for `file` over `clients` connections that stay open.
    KeepAlive {
        file: &'static Served,
        clients: u32,
        protocol: Protocol,
    },
    /// New connections with one request for 1 KiB each, [`CONNECTING_CLIENTS`] at a time; every
    /// handshake is a full one, or every one resumes a session.
    Connections { resume: bool },
}

/// What a server does in a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// Serves the files below its root.
    Files,
    /// Answers a request for the file of 1 KiB, however it likes: where connections are what is
    /// measured, servers without files can take part.
    OneAnswer,
    /// Passes requests on to the backend.
    Proxy,
    /// Ends TLS and passes bytes on to the backend.
    Tunnel,
}

/// What is spoken on the connections.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Protocol {
    /// HTTP/1.1, one request at a time.
    Http1,
    /// HTTP/2, so many requests at a time.
    Http2 { streams: u32 },
}

/// The key of a server's certificate, which decides the signature of its handshakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Key {
    /// ECDSA on P-256; signs with ecdsa_secp256r1_sha256.
    P256,
    /// RSA, 2048 bits; signs with rsa_pss_rsae_sha256.
    Rsa2048,
}

/// The TLS version allowed; its only suite uses AES-128-GCM and SHA-256, and the group is X25519.
///
/// In TLS 1.2 both sides name P-256 as well, after X25519: there a list of groups also says which
/// curves a certificate may have (RFC 8422 5.1), and OpenSSL refuses a P-256 key without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Version {
    Tls12,
    Tls13,
}

/// A file that servers serve.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Served {
    /// Its name beneath the root.
    pub(crate) name: &'static str,
    pub(crate) bytes: usize,
}

/// The cells whose names are in `only`, which may name what is in `beside` as well; without names, all that
/// are not measured only by name.
///
/// # Errors
/// When a name is nothing's.
pub(crate) fn chosen(only: &[String], beside: &[&str]) -> Result<Vec<&'static Cell>, String> {
    if only.is_empty() {
        return Ok(CELLS.iter().collect());
    }
    let every = || CELLS.iter().chain(&SIZES);
    let known = || every().map(|cell| cell.name).chain(beside.iter().copied());
    if let Some(unknown) = only
        .iter()
        .find(|name| known().all(|known| known != **name))
    {
        let known: Vec<&str> = known().collect();
        return Err(format!("no cell {unknown:?}; known: {}", known.join(", ")));
    }
    Ok(every()
        .filter(|cell| only.iter().any(|name| name == cell.name))
        .collect())
}

pub(crate) const FILE_1_KIB: Served = Served {
    name: "1k.bin",
    bytes: 1024,
};

pub(crate) const FILE_4_KIB: Served = Served {
    name: "4k.bin",
    bytes: 4 * 1024,
};

pub(crate) const FILE_16_KIB: Served = Served {
    name: "16k.bin",
    bytes: 16 * 1024,
};

pub(crate) const FILE_64_KIB: Served = Served {
    name: "64k.bin",
    bytes: 64 * 1024,
};

pub(crate) const FILE_256_KIB: Served = Served {
    name: "256k.bin",
    bytes: 256 * 1024,
};

pub(crate) const FILE_1_MIB: Served = Served {
    name: "1m.bin",
    bytes: 1024 * 1024,
};

pub(crate) const FILE_4_MIB: Served = Served {
    name: "4m.bin",
    bytes: 4 * 1024 * 1024,
};

pub(crate) const FILE_64_MIB: Served = Served {
    name: "64m.bin",
    bytes: 64 * 1024 * 1024,
};

pub(crate) const CELLS: [Cell; 26] = [
    http1(
        Service::Files,
        "h1-1k",
        "HTTP/1.1, 1 KiB, 32 connections",
        (&FILE_1_KIB, 32),
    ),
    http1(
        Service::Files,
        "h1-16k",
        "HTTP/1.1, 16 KiB, 32 connections",
        (&FILE_16_KIB, 32),
    ),
    http1(
        Service::Files,
        "h1-1m",
        "HTTP/1.1, 1 MiB, 8 connections",
        (&FILE_1_MIB, 8),
    ),
    http1(
        Service::Files,
        "h1-64m",
        "HTTP/1.1, 64 MiB, 4 connections",
        (&FILE_64_MIB, 4),
    ),
    http2(
        Service::Files,
        "h2-1k",
        "HTTP/2, 1 KiB, 32 connections, one stream each",
        (&FILE_1_KIB, 32, 1),
    ),
    http2(
        Service::Files,
        "h2-1k-m10",
        "HTTP/2, 1 KiB, 32 connections, 10 streams each",
        (&FILE_1_KIB, 32, 10),
    ),
    http2(
        Service::Files,
        "h2-16k",
        "HTTP/2, 16 KiB, 32 connections, one stream each",
        (&FILE_16_KIB, 32, 1),
    ),
    http2(
        Service::Files,
        "h2-16k-m10",
        "HTTP/2, 16 KiB, 32 connections, 10 streams each",
        (&FILE_16_KIB, 32, 10),
    ),
    http2(
        Service::Files,
        "h2-1m",
        "HTTP/2, 1 MiB, 8 connections, one stream each",
        (&FILE_1_MIB, 8, 1),
    ),
    http2(
        Service::Files,
        "h2-1m-m4",
        "HTTP/2, 1 MiB, 8 connections, 4 streams each",
        (&FILE_1_MIB, 8, 4),
    ),
    http2(
        Service::Files,
        "h2-64m",
        "HTTP/2, 64 MiB, 4 connections, one stream each",
        (&FILE_64_MIB, 4, 1),
    ),
    connections(
        "full-p256",
        "new connection, full handshake (TLS 1.3, ECDSA P-256), 1 KiB",
        (Key::P256, Version::Tls13),
        false,
    ),
    connections(
        "full-rsa",
        "new connection, full handshake (TLS 1.3, RSA-2048), 1 KiB",
        (Key::Rsa2048, Version::Tls13),
        false,
    ),
    connections(
        "full-p256-tls12",
        "new connection, full handshake (TLS 1.2, ECDSA P-256), 1 KiB",
        (Key::P256, Version::Tls12),
        false,
    ),
    connections(
        "full-rsa-tls12",
        "new connection, full handshake (TLS 1.2, RSA-2048), 1 KiB",
        (Key::Rsa2048, Version::Tls12),
        false,
    ),
    connections(
        "resumed",
        "new connection, resumed (TLS 1.3, ECDSA P-256), 1 KiB",
        (Key::P256, Version::Tls13),
        true,
    ),
    connections(
        "resumed-rsa",
        "new connection, resumed (TLS 1.3, RSA-2048), 1 KiB",
        (Key::Rsa2048, Version::Tls13),
        true,
    ),
    connections(
        "resumed-tls12",
        "new connection, resumed (TLS 1.2, ECDSA P-256), 1 KiB",
        (Key::P256, Version::Tls12),
        true,
    ),
    connections(
        "resumed-rsa-tls12",
        "new connection, resumed (TLS 1.2, RSA-2048), 1 KiB",
        (Key::Rsa2048, Version::Tls12),
        true,
    ),
    http1(
        Service::Proxy,
        "proxy-1k",
        "proxy, HTTP/1.1, 1 KiB, 32 connections",
        (&FILE_1_KIB, 32),
    ),
    http1(
        Service::Proxy,
        "proxy-16k",
        "proxy, HTTP/1.1, 16 KiB, 32 connections",
        (&FILE_16_KIB, 32),
    ),
    http1(
        Service::Proxy,
        "proxy-1m",
        "proxy, HTTP/1.1, 1 MiB, 8 connections",
        (&FILE_1_MIB, 8),
    ),
    http2(
        Service::Proxy,
        "proxy-h2-1k-m10",
        "proxy, HTTP/2 in front, 1 KiB, 32 connections, 10 streams each",
        (&FILE_1_KIB, 32, 10),
    ),
    http2(
        Service::Proxy,
        "proxy-h2-1m-m4",
        "proxy, HTTP/2 in front, 1 MiB, 8 connections, 4 streams each",
        (&FILE_1_MIB, 8, 4),
    ),
    http1(
        Service::Tunnel,
        "tcp-1k",
        "TCP mode, 1 KiB, 32 connections",
        (&FILE_1_KIB, 32),
    ),
    http1(
        Service::Tunnel,
        "tcp-1m",
        "TCP mode, 1 MiB, 8 connections",
        (&FILE_1_MIB, 8),
    ),
];

/// Sizes between the others', measured only where they are named: they show from which size on one
/// way of sending costs less than another (`benches/lab/count`).
pub(crate) const SIZES: [Cell; 4] = [
    http1(
        Service::Files,
        "h1-4k",
        "HTTP/1.1, 4 KiB, 32 connections",
        (&FILE_4_KIB, 32),
    ),
    http1(
        Service::Files,
        "h1-64k",
        "HTTP/1.1, 64 KiB, 32 connections",
        (&FILE_64_KIB, 32),
    ),
    http1(
        Service::Files,
        "h1-256k",
        "HTTP/1.1, 256 KiB, 8 connections",
        (&FILE_256_KIB, 8),
    ),
    http1(
        Service::Files,
        "h1-4m",
        "HTTP/1.1, 4 MiB, 8 connections",
        (&FILE_4_MIB, 8),
    ),
];

const fn http1(
    service: Service,
    name: &'static str,
    title: &'static str,
    (file, clients): (&'static Served, u32),
) -> Cell {
    Cell {
        name,
        title,
        service,
        key: Key::P256,
        version: Version::Tls13,
        work: Work::KeepAlive {
            file,
            clients,
            protocol: Protocol::Http1,
        },
    }
}

/// The same over HTTP/2, with so many streams on each connection.
const fn http2(
    service: Service,
    name: &'static str,
    title: &'static str,
    (file, clients, streams): (&'static Served, u32, u32),
) -> Cell {
    Cell {
        name,
        title,
        service,
        key: Key::P256,
        version: Version::Tls13,
        work: Work::KeepAlive {
            file,
            clients,
            protocol: Protocol::Http2 { streams },
        },
    }
}

const fn connections(
    name: &'static str,
    title: &'static str,
    (key, version): (Key, Version),
    resume: bool,
) -> Cell {
    Cell {
        name,
        title,
        service: Service::OneAnswer,
        key,
        version,
        work: Work::Connections { resume },
    }
}
