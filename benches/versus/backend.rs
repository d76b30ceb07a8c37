//! What the servers pass requests and bytes on to: a small HTTP/1.1 server on the load's core, the
//! same for all. A thread waits on each connection and answers out of memory, so that it costs the
//! load's core little; and it counts connections, so that a server which does not keep them is
//! found out.

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::arguments::BackendOrder;
use crate::client::{READY, say, wait_for_a_line};
use crate::fixture::FILES_PASSED_ON;

/// What it reports whenever it is asked, counted from its start.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Count {
    pub(crate) address: SocketAddr,
    /// Connections accepted.
    pub(crate) connections: u64,
    /// Requests answered.
    pub(crate) requests: u64,
}

/// Serves until nobody listens to it; says [`READY`] and then a [`Count`] for each line it reads.
pub(crate) fn serve(order: &BackendOrder) -> Result<(), Failure> {
    let answers = answers(order)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let counters = Arc::new(Counters::default());
    let counting = counters.clone();
    thread::spawn(move || accept(&listener, &answers, &counting));
    say(READY)?;
    while wait_for_a_line().is_ok() {
        say(&serde_json::to_string(&Count {
            address,
            connections: counters.connections.load(Ordering::Relaxed),
            requests: counters.requests.load(Ordering::Relaxed),
        })?)?;
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    open: AtomicU64,
    requests: AtomicU64,
}

/// By target, head and body in one.
type Answers = Arc<HashMap<String, Vec<u8>>>;

fn answers(order: &BackendOrder) -> Result<Answers, Failure> {
    let mut answers = HashMap::new();
    for file in FILES_PASSED_ON {
        let mut answer = format!(
            "HTTP/1.1 200 OK\r\nServer: backend\r\nContent-Type: application/octet-stream\r\n\
             Content-Length: {}\r\n\r\n",
            file.bytes
        )
        .into_bytes();
        answer.extend(fs::read(order.root.join(file.name))?);
        answers.insert(format!("/{}", file.name), answer);
    }
    Ok(Arc::new(answers))
}

fn accept(listener: &TcpListener, answers: &Answers, counters: &Arc<Counters>) {
    for socket in listener.incoming().flatten() {
        counters.connections.fetch_add(1, Ordering::Relaxed);
        if counters.open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            counters.open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (answers, counters) = (answers.clone(), counters.clone());
        let serving = counters.clone();
        let thread = thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(move || {
                // How a connection ends is for the server in front to notice.
                drop(converse(socket, &answers, &serving));
                serving.open.fetch_sub(1, Ordering::Relaxed);
            });
        if thread.is_err() {
            counters.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// One connection: GET after GET.
fn converse(mut socket: TcpStream, answers: &Answers, counters: &Counters) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut received = Vec::with_capacity(HEAD_BYTES_MAX);
    let mut chunk = [0; CHUNK_BYTES];
    loop {
        let Some((head_bytes, target, is_last)) = request(&received)? else {
            if received.len() > HEAD_BYTES_MAX {
                return Err(ErrorKind::InvalidData.into());
            }
            match socket.read(&mut chunk)? {
                0 => return Ok(()),
                length => received.extend(chunk.iter().take(length)),
            }
            continue;
        };
        match answers.get(&target) {
            Some(answer) => socket.write_all(answer)?,
            None => socket.write_all(NOT_FOUND)?,
        }
        counters.requests.fetch_add(1, Ordering::Relaxed);
        if is_last {
            return Ok(());
        }
        received.drain(..head_bytes);
    }
}

/// The head that `received` begins with, once it is whole: its length, its target, and whether the
/// connection ends with it.
fn request(received: &[u8]) -> io::Result<Option<(usize, String, bool)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let invalid = |what: &str| io::Error::new(ErrorKind::InvalidData, what.to_owned());
    let head_bytes = match request.parse(received) {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(invalid(&error.to_string())),
    };
    if request.method != Some("GET") {
        return Err(invalid("not GET"));
    }
    let closes = |header: &httparse::Header<'_>| {
        header.name.eq_ignore_ascii_case("connection")
            && header.value.eq_ignore_ascii_case(b"close")
    };
    let is_last = request.version == Some(0) || request.headers.iter().any(closes);
    let target = request.path.unwrap_or_default().to_owned();
    Ok(Some((head_bytes, target, is_last)))
}

const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";

/// Many times the requests that any cell has under way.
const CONNECTIONS_MAX: u64 = 4096;

const STACK_BYTES: usize = 64 * 1024;
const CHUNK_BYTES: usize = 4096;
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
