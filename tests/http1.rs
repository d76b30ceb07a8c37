//! The HTTP/1.1 driver over real sockets, on each driver of the runtime: what a script in memory
//! cannot show (deadlines that shut sockets down, answers that a reset would destroy).

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test's helpers a panic is the verdict"
)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use portcullis::config::{Limits, Offload, Timeouts};
use portcullis::error::{Cause, Error, Side};
use portcullis::http::{Context, Handler, Outcome, h1};
use portcullis::message::{Body, FileRange, Now, Request, RequestBody, Response, Status};
use portcullis::net::deadline::{Deadlines, TICK};
use portcullis::net::file_threads::FileThreads;
use portcullis::net::rt::{self, Driver};
use portcullis::net::socket::Socket;
use portcullis::net::stream::{Stream, StreamContext};
use portcullis::sys::probe::{KernelTls, TlsRefusal, ring};

#[test]
fn pipelined_requests_for_files_and_bytes_arrive_in_order_and_whole() {
    let content = pseudo_random(1 << 20);
    for driver in drivers() {
        let file = file_of(&content);
        let ended = exchange(driver, Timeouts::default(), Some(file), |mut client| {
            let request = |target| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            let targets = ["/a", "/file", "/b", "/file"];
            client
                .write_all(targets.map(request).concat().as_bytes())
                .unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            read_to_end(client)
        });
        let mut rest = &*ended.received;
        for expected in [b"/a", &*content, b"/b", &*content] {
            let (head, body) = split_head(rest);
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
            assert!(head.contains(&format!("\r\ncontent-length: {}\r\n", expected.len())));
            let (body, next) = body.split_at(expected.len());
            assert!(body == expected, "the body differs");
            rest = next;
        }
        assert!(rest.is_empty());
        assert_eq!(ended.result.unwrap(), Outcome::PeerClosed);
    }
}

#[test]
fn rfc9112_9_6_an_answer_survives_the_upload_that_it_refuses() {
    for driver in drivers() {
        let ended = exchange(driver, Timeouts::default(), None, |mut client| {
            let length = 3 * Limits::default().body_bytes_max;
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
            client.write_all(head.as_bytes()).unwrap();
            // All of it before the first read: only a server that goes on reading takes it.
            client
                .write_all(&vec![0; usize::try_from(length).unwrap()])
                .unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            read_to_end(client)
        });
        assert_eq!(ended.result.unwrap(), Outcome::Refused(Status(413)));
        let (head, _) = split_head(&ended.received);
        assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
    }
}

#[test]
fn rfc9110_15_5_9_deadlines_of_heads_and_bodies_are_answered_with_408() {
    let timeouts = Timeouts {
        header: TICK,
        body_progress: TICK,
        linger: TICK,
        ..Timeouts::default()
    };
    for text in [
        "GET / HTT",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe",
    ] {
        for driver in drivers() {
            let ended = exchange(driver, timeouts, None, |mut client| {
                client.write_all(text.as_bytes()).unwrap();
                read_to_end(client)
            });
            let (head, _) = split_head(&ended.received);
            assert!(head.starts_with("HTTP/1.1 408 "), "{text:?}: {head}");
            assert!(head.contains("\r\nconnection: close\r\n"));
            assert_eq!(ended.result.unwrap(), Outcome::Refused(Status(408)));
        }
    }
}

#[test]
fn a_silent_connection_is_closed_without_an_answer() {
    let timeouts = Timeouts {
        header: TICK,
        ..Timeouts::default()
    };
    for driver in drivers() {
        let begun = Instant::now();
        let ended = exchange(driver, timeouts, None, read_to_end);
        assert!(begun.elapsed() >= TICK, "a deadline never passes early");
        assert!(ended.received.is_empty());
        assert_eq!(ended.result.unwrap(), Outcome::IdleTimeout);
    }
}

#[test]
fn a_client_that_never_reads_is_given_up() {
    let timeouts = Timeouts {
        send_progress: TICK,
        ..Timeouts::default()
    };
    for driver in drivers() {
        // Far more than two sockets' buffers hold.
        let file = tempfile::tempfile().unwrap();
        file.set_len(256 << 20).unwrap();
        let (done, until_done) = std::sync::mpsc::channel();
        let ended = exchange_then(
            driver,
            timeouts,
            Some(file),
            move |mut client| {
                client
                    .write_all(b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n")
                    .unwrap();
                // Open and unread until the server has ended.
                until_done.recv().unwrap();
                drop(client);
                Vec::new()
            },
            move || done.send(()).unwrap(),
        );
        let error = ended.result.unwrap_err();
        assert_eq!(error.side, Side::Client);
        assert!(matches!(error.cause, Cause::Timeout(_)), "{error}");
    }
}

/// A connection that has ended.
struct Ended {
    result: Result<Outcome, Error>,
    received: Vec<u8>,
}

/// Serves one connection on `driver` to `client`.
fn exchange(
    driver: Driver,
    timeouts: Timeouts,
    file: Option<File>,
    client: impl FnOnce(TcpStream) -> Vec<u8> + Send + 'static,
) -> Ended {
    exchange_then(driver, timeouts, file, client, || ())
}

/// As [`exchange`]; calls `after` when the server has ended.
fn exchange_then(
    driver: Driver,
    timeouts: Timeouts,
    file: Option<File>,
    client: impl FnOnce(TcpStream) -> Vec<u8> + Send + 'static,
    after: impl FnOnce(),
) -> Ended {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = thread::spawn(move || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        client(stream)
    });
    let (accepted, _) = listener.accept().unwrap();
    accepted.set_nonblocking(true).unwrap();
    let result = rt::block_on(driver, serve_one(accepted, timeouts, file)).unwrap();
    after();
    Ended {
        result,
        received: client.join().unwrap(),
    }
}

async fn serve_one(
    accepted: TcpStream,
    timeouts: Timeouts,
    file: Option<File>,
) -> Result<Outcome, Error> {
    let deadlines = Deadlines::new();
    let wheel = deadlines.clone();
    rt::spawn(async move {
        loop {
            rt::sleep(TICK).await;
            wheel.turn(Instant::now());
        }
    });
    let socket = Rc::new(Socket::adopt(accepted.into()).unwrap());
    let deadline = Rc::new(deadlines.register());
    let limits = Limits::default();
    let file_threads = FileThreads::start().unwrap();
    let shared = StreamContext {
        offload: Offload::default(),
        kernel: KernelTls::refused(TlsRefusal::NoModule),
        send_progress: timeouts.send_progress,
        records_per_key_max: limits.records_per_key_max,
        file_threads: file_threads.attach().unwrap(),
    };
    let (read, write) = Stream::plain(socket, deadline, Rc::new(shared)).into_halves();
    let site = Site {
        file: file.map(Arc::new),
    };
    let context = Context::new(timeouts, limits);
    h1::serve(read, write, &site, &context).await
}

/// `/file` is the file, `/echo` the request's body, everything else its own target.
struct Site {
    file: Option<Arc<File>>,
}

impl Handler for Site {
    async fn respond(&self, request: &Request, mut body: RequestBody, _now: Now) -> Response {
        let body = match (request.path(), &self.file) {
            ("/file", Some(file)) => Body::File(FileRange {
                file: file.clone(),
                offset: 0,
                length: file.metadata().unwrap().len(),
                is_remote: false,
            }),
            ("/echo", _) => {
                let mut bytes = Vec::new();
                while let Ok(Some(data)) = body.next().await {
                    bytes.extend_from_slice(&data);
                }
                Body::Bytes(bytes.into())
            }
            _ => Body::Bytes(Bytes::copy_from_slice(request.target.as_bytes())),
        };
        Response::new(Status(200)).with_body(body)
    }
}

/// Epoll, and io_uring where this machine allows it; which of them ran is in the test's output.
fn drivers() -> Vec<Driver> {
    let best = Driver::from(&ring());
    println!("drivers: {best:?} and epoll");
    match best {
        Driver::Epoll => vec![Driver::Epoll],
        Driver::Ring(_) => vec![best, Driver::Epoll],
    }
}

/// Everything up to the end of the stream. A reset is a failure.
fn read_to_end(mut client: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    bytes
}

fn split_head(bytes: &[u8]) -> (&str, &[u8]) {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        panic!("no head in {:?}", String::from_utf8_lossy(bytes));
    };
    let (head, body) = bytes.split_at(end + 4);
    (std::str::from_utf8(head).unwrap(), body)
}

fn file_of(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

/// Bytes in which a piece missing or doubled shows.
fn pseudo_random(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(bytes)
    .collect()
}

/// A client that waits longer than this for anything has found a stall.
const PATIENCE: Duration = Duration::from_secs(20);
