//! A server to stand behind the one under test: it does what the path says, the wrong things too.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::support::files::{MIB, content};

/// A server that answers each connection in a thread of its own, for as long as the process lives.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    accepted: AtomicUsize,
    ended: AtomicUsize,
    /// Bytes that came when nothing more was to be said.
    held_bytes: AtomicUsize,
    /// Upgraded connections that were reset.
    reset: AtomicUsize,
    heads: Mutex<Vec<String>>,
}

/// Whether a connection can carry another request.
#[derive(PartialEq, Eq)]
enum Then {
    Next,
    Close,
    /// Say nothing more, until the other side ends the connection.
    Hold,
}

impl Backend {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        std::thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                let shared = of_thread.clone();
                shared.accepted.fetch_add(1, Ordering::Relaxed);
                std::thread::spawn(move || {
                    serve(socket, &shared);
                    shared.ended.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        Self { address, shared }
    }

    /// How many connections it has been given.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// How many of them are still open.
    pub(crate) fn open(&self) -> usize {
        self.accepted() - self.shared.ended.load(Ordering::Relaxed)
    }

    /// How many bytes came of requests that were answered already.
    pub(crate) fn held_bytes(&self) -> usize {
        self.shared.held_bytes.load(Ordering::Relaxed)
    }

    /// How many upgraded connections were reset by the other side.
    pub(crate) fn reset(&self) -> usize {
        self.shared.reset.load(Ordering::Relaxed)
    }

    /// The heads of the requests it has seen.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.shared.heads.lock().unwrap().clone()
    }

    /// How often `path` was asked for.
    pub(crate) fn asked_for(&self, path: &str) -> usize {
        let line = format!(" {path} HTTP/1.1\r\n");
        self.heads()
            .iter()
            .filter(|head| head.contains(&line))
            .count()
    }
}

fn serve(socket: TcpStream, shared: &Shared) {
    let mut reader = BufReader::new(socket.try_clone().unwrap());
    let mut socket = socket;
    let mut answered = 0;
    while let Some(head) = read_head(&mut reader) {
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        shared.heads.lock().unwrap().push(head.clone());
        let then = answer(&mut reader, &mut socket, &head, &path, answered);
        if path == "/upgrade" && then.is_err() {
            shared.reset.fetch_add(1, Ordering::Relaxed);
        }
        answered += 1;
        match then {
            Ok(Then::Next) => {}
            Ok(Then::Hold) => {
                let mut rest = Vec::new();
                drop(reader.read_to_end(&mut rest));
                shared.held_bytes.fetch_add(rest.len(), Ordering::Relaxed);
                return;
            }
            Ok(Then::Close) | Err(_) => return,
        }
    }
}

fn read_head(reader: &mut impl BufRead) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if !matches!(reader.read_until(b'\n', &mut head), Ok(1..)) {
            return None;
        }
    }
    Some(String::from_utf8(head).unwrap())
}

fn answer(
    reader: &mut impl BufRead,
    socket: &mut TcpStream,
    head: &str,
    path: &str,
    answered: usize,
) -> std::io::Result<Then> {
    let whole = |socket: &mut TcpStream, body: &[u8]| {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        socket.write_all(&[head.as_bytes(), body].concat())
    };
    match path {
        "/hello" => whole(socket, b"hello")?,
        "/head" => whole(socket, head.as_bytes())?,
        "/big" => whole(socket, content(4 * MIB))?,
        "/empty" => socket.write_all(b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n")?,
        "/not-modified" => {
            socket.write_all(b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n")?;
        }
        "/head-only" => socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n")?,
        "/early" => socket.write_all(
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nKeep-Alive: timeout=5\r\nX-Inner: 1\r\n\r\n\
              HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        )?,
        "/hints/long" => {
            let hint = format!(
                "HTTP/1.1 103 Early Hints\r\nLink: <{}>\r\n\r\n",
                "a".repeat(7000)
            );
            socket.write_all(hint.repeat(3).as_bytes())?;
            whole(socket, b"ok")?;
        }
        "/chunked" => socket.write_all(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Sum\r\n\r\n\
              3\r\nfoo\r\n3;x=y\r\nbar\r\n0\r\nSum: 6\r\nContent-Length: 9\r\n\r\n",
        )?,
        "/until-close" => {
            socket.write_all(b"HTTP/1.0 200 OK\r\n\r\nall of it")?;
            return Ok(Then::Close);
        }
        "/echo" | "/echo/asked" | "/count/4" | "/refuse-body" => {
            return with_body(reader, socket, head, path);
        }
        // Closes an idle connection the moment it is used again.
        "/once" if answered == 0 => whole(socket, b"once")?,
        "/once" => return Ok(Then::Close),
        "/upgrade" => {
            socket.write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\nhi",
            )?;
            std::io::copy(reader, socket)?;
            return Ok(Then::Close);
        }
        // Reads nothing of the body, for as long as the process lives.
        "/deaf" => loop {
            std::thread::park();
        },
        "/die/late" | "/stall/late" => {
            socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8388608\r\n\r\n")?;
            socket.write_all(content(2 * MIB))?;
            return Ok(match path {
                "/die/late" => Then::Close,
                _ => Then::Hold,
            });
        }
        "/old" => {
            socket.write_all(b"HTTP/1.0 200 OK\r\n\r\n")?;
            socket.write_all(content(4 * MIB))?;
            return Ok(Then::Close);
        }
        path => return misbehave(socket, path),
    }
    Ok(Then::Next)
}

fn with_body(
    reader: &mut impl BufRead,
    socket: &mut TcpStream,
    head: &str,
    path: &str,
) -> std::io::Result<Then> {
    match path {
        // Knows nothing of expectations, and answers when it has the whole body.
        "/count/4" => {
            let mut body = [0; 4];
            reader.read_exact(&mut body)?;
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n";
            socket.write_all(&[&head[..], &body].concat())?;
        }
        "/refuse-body" => {
            socket.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")?;
            return Ok(Then::Hold);
        }
        path => {
            if path == "/echo/asked" {
                socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            echo(reader, socket, head)?;
        }
    }
    Ok(Then::Next)
}

fn misbehave(socket: &mut TcpStream, path: &str) -> std::io::Result<Then> {
    let (bytes, then): (&[u8], Then) = match path {
        "/stall" => (b"", Then::Hold),
        "/stall/head" => (b"HTTP/1.1 200 OK\r\nContent-", Then::Hold),
        "/stall/body" => (
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
            Then::Hold,
        ),
        "/die" => (b"", Then::Close),
        "/die/head" => (b"HTTP/1.1 200 OK\r\nContent-", Then::Close),
        "/die/body" => (
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
            Then::Close,
        ),
        "/die/chunk" => (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf",
            Then::Close,
        ),
        "/more" => (
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef",
            Then::Hold,
        ),
        "/garbage" => (b"SSH-2.0-OpenSSH\r\n", Then::Hold),
        "/two-lengths" => (
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
            Then::Hold,
        ),
        "/smuggled" => (
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            Then::Hold,
        ),
        "/bare-lf" => (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", Then::Hold),
        "/folded" => (
            b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n",
            Then::Hold,
        ),
        "/unasked-upgrade" => (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            Then::Hold,
        ),
        "/flood" => loop {
            socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        },
        "/endless" => {
            socket.write_all(b"HTTP/1.1 200 OK\r\n")?;
            loop {
                socket.write_all(b"a: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\n")?;
            }
        }
        _ => (
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            Then::Next,
        ),
    };
    socket.write_all(bytes)?;
    Ok(then)
}

/// Sends the request's body back in chunks, each as it comes.
fn echo(reader: &mut impl BufRead, socket: &mut TcpStream, head: &str) -> std::io::Result<()> {
    socket.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map(|length| length.parse::<usize>().unwrap());
    let mut send = |data: &[u8]| {
        let chunk = [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat();
        socket.write_all(&chunk)
    };
    match length {
        Some(mut left) => {
            while left > 0 {
                let data = reader.fill_buf()?;
                let count = data.len().min(left);
                if count == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                send(&data[..count])?;
                reader.consume(count);
                left -= count;
            }
        }
        None => loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let count = usize::from_str_radix(line.trim(), 16).unwrap();
            let mut data = vec![0; count + 2];
            reader.read_exact(&mut data)?;
            if count == 0 {
                break;
            }
            send(&data[..count])?;
        },
    }
    socket.write_all(b"0\r\n\r\n")
}
