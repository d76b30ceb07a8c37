//! What tests of faults and limits need beyond `support`: peers that leave in the middle, records
//! that are not whole, and clients that are as slow as they can.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::support::client::{Client, Ending, reset};
use crate::support::kernel::{KernelTls, kernel_tls};
use crate::support::server::{Holdings, Server};
use crate::support::wait::{PATIENCE, until_settled, until_some};

/// How a peer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// By FIN: it has nothing more to say, and waits for the server to end too.
    Fin,
    /// By RST.
    Reset,
}

impl Leave {
    pub(crate) const ALL: [Self; 2] = [Self::Fin, Self::Reset];

    /// Ends `socket`. Afterwards the server has nothing left to send to it.
    pub(crate) fn end(self, mut socket: TcpStream) {
        match self {
            Self::Fin => {
                socket.shutdown(Shutdown::Write).unwrap();
                // Closing with bytes unread would be a RST.
                let mut scratch = vec![0; 64 * 1024];
                while matches!(socket.read(&mut scratch), Ok(1..)) {}
            }
            Self::Reset => reset(socket),
        }
    }
}

/// The records that `plaintext` becomes, not sent.
pub(crate) fn sealed(client: &mut Client, plaintext: &[u8]) -> Vec<u8> {
    client.flush().unwrap();
    client.tls.writer().write_all(plaintext).unwrap();
    let mut records = Vec::new();
    while client.tls.wants_write() {
        client.tls.write_tls(&mut records).unwrap();
    }
    records
}

/// Waits until the program at the other end has taken everything that `socket` sent: so that it is
/// in the middle of something, and not only about to be.
///
/// The kernel's record layer leaves a record that is not whole in the socket. In a kernel that has
/// one it is enough that bytes have come to rest there.
pub(crate) fn wait_until_taken(socket: &TcpStream) {
    let ours = socket.local_addr().unwrap().port();
    let theirs = socket.peer_addr().unwrap().port();
    let may_rest = kernel_tls() != KernelTls::Absent;
    let (mut last, mut looks) = (None, 0);
    until_some("the server has taken what was sent", || {
        let unread = unread(theirs, ours);
        looks = if unread == last { looks + 1 } else { 0 };
        last = unread;
        let rests = may_rest && unread.is_some() && looks >= LOOKS_AT_REST;
        (unread == Some(0) || rests).then_some(())
    });
}

/// What `server` holds when it has `connections` connections and has finished with all others: a
/// descriptor may be closed after its connection is counted as such.
pub(crate) fn at_rest(server: &Server, connections: u64) -> Holdings {
    until_settled(
        "the server is at rest",
        || server.holdings(),
        |holdings| holdings.connections == connections,
    )
}

/// What came of sending slowly.
#[derive(Debug)]
pub(crate) struct Dripped {
    /// Bytes sent before the server answered or ended.
    pub(crate) sent: usize,
    /// How long it took it to.
    pub(crate) elapsed: Duration,
}

/// Sends `source` piece by piece, each as soon as the server was silent for `pause`, until the
/// server answers or ends the connection. Nothing of its answer is read.
pub(crate) fn drip(
    socket: &mut TcpStream,
    pause: Duration,
    source: impl IntoIterator<Item = Vec<u8>>,
) -> Dripped {
    let start = Instant::now();
    let mut sent = 0;
    socket.set_read_timeout(Some(pause)).unwrap();
    for piece in source {
        if socket.write_all(&piece).is_err() || is_answered(socket) {
            break;
        }
        sent += piece.len();
        assert!(start.elapsed() < PATIENCE, "{sent} bytes and still waiting");
    }
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    Dripped {
        sent,
        elapsed: start.elapsed(),
    }
}

/// Whether the server has answered or ended, once the socket's read timeout has passed.
fn is_answered(socket: &TcpStream) -> bool {
    !matches!(
        socket.peek(&mut [0]),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
    )
}

/// A TCP connection from the local address `source`.
pub(crate) fn connect_from(source: IpAddr, server: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
    socket.connect(&server.into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

/// Waits until the server has closed `socket` without a byte.
pub(crate) fn assert_closed_silently(mut socket: TcpStream) {
    match socket.read(&mut [0]) {
        Ok(0) => {}
        Ok(_) => panic!("the server has something to say"),
        Err(error) => assert_eq!(Ending::of(&error), Ending::Reset),
    }
}

/// The handshake of a connection that the server may end at any moment of it.
pub(crate) fn is_refused(attempt: io::Result<Client>) -> bool {
    match attempt {
        Ok(_) => false,
        Err(error) => {
            let ending = Ending::of(&error);
            assert!(
                matches!(ending, Ending::Truncated | Ending::Reset),
                "refused by {ending:?}"
            );
            true
        }
    }
}

/// Bytes unread in the connected local socket with port `local` whose peer has port `remote`;
/// `None` when there is none.
fn unread(local: u16, remote: u16) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let is_it = columns[1].ends_with(&format!(":{local:04X}"))
            && columns[2].ends_with(&format!(":{remote:04X}"));
        let (_, receive) = columns[4].split_once(':')?;
        is_it.then(|| u64::from_str_radix(receive, 16).unwrap())
    })
}

/// How often the same number of bytes is seen before they are at rest.
const LOOKS_AT_REST: u32 = 10;
