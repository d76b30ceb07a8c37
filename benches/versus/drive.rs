//! A client that never sleeps: it looks at its due times and at the sockets with an answer under way
//! again and again, so that neither a timer's steps nor its own waking is in a latency. It has a core
//! for itself.
//!
//! At a fixed rate, a latency begins when the request was due, even if no connection was free to carry
//! it: a server that stalls is charged for all that it kept waiting.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustls::ClientConnection;
use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::arguments::DriveOrder;
use crate::client::{Client, READY, WAIT_MAX, say, wait_for_a_line};
use crate::cpu::own_waiting_ns;
use crate::figures::percentiles::Percentiles;
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

/// Opens `order.connections`, says [`READY`], waits for a line, and then asks: `order.at_once`
/// requests at any time, or `order.rate` requests per second. Says when the measured time begins and
/// when it ends, and reports a [`Driven`].
pub(crate) fn drive(order: &DriveOrder) -> Result<(), Failure> {
    let client = Client::new(&order.endpoint, false)?;
    let mut idle = VecDeque::new();
    for _ in 0..order.connections {
        let (mut stream, _) = client.open()?;
        // The first answer brings tickets and warms what there is to warm.
        client.question.ask(&mut stream)?;
        let (tls, socket) = stream.into_parts();
        socket.set_nonblocking(true)?;
        idle.push_back(Box::new(Connection::new(tls, socket)));
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
                every: Duration::from_secs(1) / rate.get(),
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

/// When requests are made.
enum Pace {
    /// Whenever fewer are under way.
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
    /// With an answer under way.
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
            if !connection.receive(self.client)? {
                if now.saturating_duration_since(connection.due) > WAIT_MAX {
                    return Err("an answer does not come".into());
                }
                self.busy.push_back(connection);
                continue;
            }
            self.answered += 1;
            if connection.due >= from && connection.due < to {
                let latency = connection.due.elapsed();
                self.latencies_ns.push(u64::try_from(latency.as_nanos())?);
            }
            self.idle.push_back(connection);
        }
        Ok(())
    }
}

struct Connection {
    tls: ClientConnection,
    socket: TcpStream,
    /// When the request under way was due.
    due: Instant,
    /// What has come of its answer, until the head is whole.
    head: Vec<u8>,
    /// What is to come of it once the head is whole.
    left: Option<usize>,
}

impl Connection {
    fn new(tls: ClientConnection, socket: TcpStream) -> Self {
        Self {
            tls,
            socket,
            due: Instant::now(),
            head: Vec::new(),
            left: None,
        }
    }

    fn ask(&mut self, client: &Client, due: Instant) -> Result<(), Failure> {
        self.due = due;
        self.head.clear();
        self.left = None;
        client.question.put(&mut self.tls.writer())?;
        while self.tls.wants_write() {
            // One record into an empty socket: there is room.
            self.tls.write_tls(&mut self.socket)?;
        }
        Ok(())
    }

    /// Takes what has come; whether the answer is whole.
    fn receive(&mut self, client: &Client) -> Result<bool, Failure> {
        loop {
            match self.tls.read_tls(&mut self.socket) {
                Ok(0) => return Err("the server closed a connection".into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            let arrived = self.tls.process_new_packets()?.plaintext_bytes_to_read();
            if arrived > 0 && self.take(client, arrived)? {
                return Ok(true);
            }
        }
    }

    /// Takes `arrived` bytes of plaintext; whether the answer is whole.
    fn take(&mut self, client: &Client, arrived: usize) -> Result<bool, Failure> {
        let mut reader = self.tls.reader().take(u64::try_from(arrived)?);
        let left = match self.left {
            Some(left) => left
                .checked_sub(usize::try_from(std::io::copy(
                    &mut reader,
                    &mut std::io::sink(),
                )?)?)
                .ok_or("more bytes than the answer has")?,
            None => {
                reader.read_to_end(&mut self.head)?;
                let Some(head_bytes) = client.question.judge_head(&self.head)? else {
                    return Ok(false);
                };
                (head_bytes + client.question.bytes)
                    .checked_sub(self.head.len())
                    .ok_or("more bytes than the answer has")?
            }
        };
        self.left = Some(left);
        Ok(left == 0)
    }
}

const BEGINS: &str = "begins";
const ENDS: &str = "ends";

/// Before the measured time.
const WARM_UP: Duration = Duration::from_millis(500);
