//! A client that never sleeps: it looks at its due times and at the sockets with an answer under way
//! again and again, so that neither a timer's steps nor its own waking is in a latency. It has a core
//! for itself.
//!
//! At a fixed rate, a latency begins when the request was due, even if no connection was free to carry
//! it: a server that stalls is charged for all that it kept waiting. Over HTTP/2 requests are due some at
//! a time, on one connection, as a page asks for its parts; each has its own latency.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use rustls::ClientConnection;
use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::arguments::DriveOrder;
use crate::client::{Alpn, Client, READY, WAIT_MAX, say, wait_for_a_line};
use crate::cpu::own_waiting_ns;
use crate::figures::http2::Http2;
use crate::figures::percentiles::Percentiles;
use crate::fixture::SERVER_NAME;
use crate::helper::Helper;

/// What is reported of the measured time.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Driven {
    /// Answered within it.
    pub(crate) requests: u64,
    pub(crate) elapsed_ns: u64,
    /// How long the client itself waited for its core, which is in the latencies.
    pub(crate) client_waiting_ns: u64,
    /// Of the requests that were due within it (at no fixed rate: asked within it).
    pub(crate) latency: Percentiles,
}

/// What was reported, and what was sampled when the measured time began and ended.
#[derive(Debug)]
pub(crate) struct Run<S> {
    pub(crate) driven: Driven,
    pub(crate) before: S,
    pub(crate) after: S,
}

/// Starts a client as `order` says and has it measure.
pub(crate) fn run<S>(
    order: &DriveOrder,
    cpu: usize,
    mut sample: impl FnMut() -> Result<S, Failure>,
) -> Result<Run<S>, Failure> {
    let mut client = Helper::drive(order, cpu)?;
    client.go_on()?;
    client.expect(BEGINS)?;
    let before = sample()?;
    client.expect(ENDS)?;
    let after = sample()?;
    Ok(Run {
        driven: serde_json::from_str(&client.answer()?)?,
        before,
        after,
    })
}

/// Opens `order.connections`, says [`READY`], waits for a line, and then asks: on `order.at_once`
/// connections at any time, or `order.rate` requests per second. Says when the measured time begins and
/// when it ends, and reports a [`Driven`].
pub(crate) fn drive(order: &DriveOrder) -> Result<(), Failure> {
    let alpn = match order.streams {
        Some(_) => Alpn::Http2,
        None => Alpn::Http1,
    };
    let client = Client::new(&order.endpoint, false, alpn)?;
    let mut idle = VecDeque::new();
    for _ in 0..order.connections {
        idle.push_back(Box::new(Connection::open(&client, order)?));
    }
    say(READY)?;
    wait_for_a_line()?;
    let start = Instant::now();
    let begin = start + WARM_UP;
    let mut drive = Drive {
        client: &client,
        pace: match order.rate {
            Some(rate) => Pace::Fixed {
                next: start,
                every: Duration::from_secs(1) * requests_at_once(order) / rate.get(),
            },
            None => Pace::AtOnce(order.at_once),
        },
        measured: (begin, begin + Duration::from_secs(order.seconds.into())),
        idle,
        busy: VecDeque::new(),
        late: VecDeque::new(),
        answered: 0,
        latencies_ns: Vec::new(),
    };
    let (elapsed, client_waiting_ns) = drive.run()?;
    say(&serde_json::to_string(&Driven {
        requests: drive.answered,
        elapsed_ns: u64::try_from(elapsed.as_nanos())?,
        client_waiting_ns,
        latency: Percentiles::of(drive.latencies_ns).ok_or("no request was answered")?,
    })?)
}

/// Those that are made together, on one connection.
fn requests_at_once(order: &DriveOrder) -> u32 {
    order.streams.map_or(1, NonZeroU32::get)
}

/// When requests are made.
enum Pace {
    /// Whenever they are under way on fewer connections.
    AtOnce(u32),
    /// At fixed times.
    Fixed { next: Instant, every: Duration },
}

struct Drive<'a> {
    client: &'a Client,
    pace: Pace,
    /// From and to.
    measured: (Instant, Instant),
    /// In the order in which they will be used.
    idle: VecDeque<Box<Connection>>,
    /// With answers under way.
    busy: VecDeque<Box<Connection>>,
    /// When requests were due that no connection was free for.
    late: VecDeque<Instant>,
    answered: u64,
    latencies_ns: Vec<u64>,
}

impl Drive<'_> {
    /// Gives how long the measured time really was, and how much of it the client waited for its core
    /// (in nanoseconds).
    fn run(&mut self) -> Result<(Duration, u64), Failure> {
        let (from, to) = self.measured;
        let mut began = None;
        loop {
            let now = Instant::now();
            if began.is_none() && now >= from {
                say(BEGINS)?;
                began = Some((now, own_waiting_ns()?));
                self.answered = 0;
            }
            if now >= to {
                break;
            }
            self.make_requests(now)?;
            self.look(now)?;
        }
        say(ENDS)?;
        let (began, waited_before) = began.ok_or("nothing was measured")?;
        let elapsed = began.elapsed();
        let waited = own_waiting_ns()?.saturating_sub(waited_before);
        let answered = self.answered;
        self.finish()?;
        self.answered = answered;
        Ok((elapsed, waited))
    }

    /// What is under way or late comes to its end, and counts in the latencies.
    fn finish(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            let now = Instant::now();
            if now > deadline {
                return Err("answers do not come to an end".into());
            }
            self.catch_up()?;
            if self.busy.is_empty() {
                return Ok(());
            }
            self.look(now)?;
        }
    }

    fn make_requests(&mut self, now: Instant) -> Result<(), Failure> {
        match &mut self.pace {
            Pace::AtOnce(count) => {
                let count = usize::try_from(*count)?;
                while self.busy.len() < count {
                    let Some(mut connection) = self.idle.pop_front() else {
                        break;
                    };
                    connection.ask(self.client, now)?;
                    self.busy.push_back(connection);
                }
                Ok(())
            }
            Pace::Fixed { next, every } => {
                while *next <= now {
                    self.late.push_back(*next);
                    *next += *every;
                }
                self.catch_up()
            }
        }
    }

    /// Makes the requests that are due, as far as connections are free.
    fn catch_up(&mut self) -> Result<(), Failure> {
        while let Some(&due) = self.late.front() {
            let Some(mut connection) = self.idle.pop_front() else {
                break;
            };
            self.late.pop_front();
            connection.ask(self.client, due)?;
            self.busy.push_back(connection);
        }
        Ok(())
    }

    /// Looks once at every connection with an answer under way.
    fn look(&mut self, now: Instant) -> Result<(), Failure> {
        let (from, to) = self.measured;
        for _ in 0..self.busy.len() {
            let Some(mut connection) = self.busy.pop_front() else {
                break;
            };
            let answers = connection.receive(self.client)?;
            self.answered += u64::from(answers);
            if answers > 0 && connection.due >= from && connection.due < to {
                let latency_ns = u64::try_from(connection.due.elapsed().as_nanos())?;
                let each = std::iter::repeat_n(latency_ns, usize::try_from(answers)?);
                self.latencies_ns.extend(each);
            }
            if connection.answers.is_whole() {
                self.idle.push_back(connection);
                continue;
            }
            if now.saturating_duration_since(connection.due) > WAIT_MAX {
                return Err("an answer does not come".into());
            }
            self.busy.push_back(connection);
        }
        Ok(())
    }
}

struct Connection {
    tls: ClientConnection,
    socket: TcpStream,
    /// When the requests under way were due.
    due: Instant,
    answers: Answers,
}

/// What is under way on a connection.
enum Answers {
    Http1 {
        /// What has come of the answer, until the head is whole.
        head: Vec<u8>,
        /// What is to come of it once the head is whole.
        left: Option<usize>,
    },
    Http2 {
        http2: Http2,
        /// Requests that are made together.
        streams: u32,
        plaintext: Vec<u8>,
    },
}

impl Answers {
    fn new(order: &DriveOrder) -> Result<Self, Failure> {
        Ok(match order.streams {
            None => Self::Http1 {
                head: Vec::new(),
                left: Some(0),
            },
            Some(streams) => Self::Http2 {
                http2: Http2::new(
                    SERVER_NAME,
                    &format!("/{}", order.endpoint.path),
                    order.endpoint.bytes,
                )?,
                streams: streams.get(),
                plaintext: Vec::new(),
            },
        })
    }

    fn is_whole(&self) -> bool {
        match self {
            Self::Http1 { left, .. } => *left == Some(0),
            Self::Http2 { http2, .. } => http2.under_way() == 0,
        }
    }
}

impl Connection {
    /// Opens one and has it answer once: the first answers bring tickets and warm what there is to warm.
    fn open(client: &Client, order: &DriveOrder) -> Result<Self, Failure> {
        let (stream, _) = client.open()?;
        let (tls, socket) = stream.into_parts();
        let mut connection = Self {
            tls,
            socket,
            due: Instant::now(),
            answers: Answers::new(order)?,
        };
        connection.ask(client, Instant::now())?;
        while !connection.answers.is_whole() {
            connection.receive(client)?;
            if connection.due.elapsed() > WAIT_MAX {
                return Err("the first answer does not come".into());
            }
        }
        connection.socket.set_nonblocking(true)?;
        Ok(connection)
    }

    fn ask(&mut self, client: &Client, due: Instant) -> Result<(), Failure> {
        self.due = due;
        match &mut self.answers {
            Answers::Http1 { head, left } => {
                head.clear();
                *left = None;
                client.question.put(&mut self.tls.writer())?;
            }
            Answers::Http2 { http2, streams, .. } => {
                http2.ask(*streams);
                self.tls.writer().write_all(&http2.take_output())?;
            }
        }
        self.send()
    }

    fn send(&mut self) -> Result<(), Failure> {
        while self.tls.wants_write() {
            // A record into an empty socket: there is room.
            self.tls.write_tls(&mut self.socket)?;
        }
        Ok(())
    }

    /// Takes what has come; gives how many answers it makes whole.
    fn receive(&mut self, client: &Client) -> Result<u32, Failure> {
        let mut answered = 0;
        loop {
            match self.tls.read_tls(&mut self.socket) {
                Ok(0) => return Err("the server closed a connection".into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(answered),
                Err(error) => return Err(error.into()),
            }
            let arrived = self.tls.process_new_packets()?.plaintext_bytes_to_read();
            if arrived == 0 {
                continue;
            }
            answered += self.take(client, arrived)?;
            self.send()?;
            if self.answers.is_whole() {
                return Ok(answered);
            }
        }
    }

    /// Takes `arrived` bytes of plaintext; gives how many answers they make whole.
    fn take(&mut self, client: &Client, arrived: usize) -> Result<u32, Failure> {
        let mut reader = self.tls.reader().take(u64::try_from(arrived)?);
        match &mut self.answers {
            Answers::Http1 { head, left } => {
                *left = match *left {
                    Some(left) => Some(
                        left.checked_sub(usize::try_from(io::copy(&mut reader, &mut io::sink())?)?)
                            .ok_or("more bytes than the answer has")?,
                    ),
                    None => {
                        reader.read_to_end(head)?;
                        left_behind(head, client)?
                    }
                };
                Ok(u32::from(*left == Some(0)))
            }
            Answers::Http2 {
                http2, plaintext, ..
            } => {
                plaintext.clear();
                reader.read_to_end(plaintext)?;
                let answered = http2.take(plaintext)?;
                self.tls.writer().write_all(&http2.take_output())?;
                Ok(answered)
            }
        }
    }
}

/// What is to come of an answer behind `received`, if that has the whole head.
fn left_behind(received: &[u8], client: &Client) -> Result<Option<usize>, Failure> {
    let Some(head_bytes) = client.question.judge_head(received)? else {
        return Ok(None);
    };
    let left = (head_bytes + client.question.bytes).checked_sub(received.len());
    Ok(Some(left.ok_or("more bytes than the answer has")?))
}

const BEGINS: &str = "begins";
const ENDS: &str = "ends";

/// Before the measured time.
const WARM_UP: Duration = Duration::from_millis(500);
