//! The admin listener's connections, all on one thread: it waits for all of them at once, so one that
//! says nothing holds nobody up.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::AdminSocket;
use super::http::{self, Answer, Hosts};
use crate::sys::poll::{Interest, poll};

/// A non-blocking stream.
pub(super) trait Stream: Read + Write + AsFd {
    /// Says that nothing more is sent.
    fn end(&self) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn end(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Stream for UnixStream {
    fn end(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// Answers what comes over `socket`, which does not block, for as long as the process lives.
pub(super) fn serve(socket: &AdminSocket, hosts: Hosts, answer: &impl Fn(&str) -> Answer) {
    let mut connections = Connections {
        open: VecDeque::new(),
    };
    let mut accepts_from = Instant::now();
    loop {
        let now = Instant::now();
        let listener = (now >= accepts_from).then(|| socket.as_fd());
        let timeout = match listener {
            Some(_) => connections.left(now),
            None => Some(accepts_from.saturating_duration_since(now)),
        };
        let is_listener_ready = match connections.wait(listener, timeout) {
            Ok(is_ready) => is_ready,
            Err(error) => {
                tracing::warn!(%error, "the admin listener cannot wait");
                std::thread::park_timeout(ACCEPT_PAUSE);
                continue;
            }
        };
        connections.advance(Instant::now(), hosts, answer);
        if !is_listener_ready {
            continue;
        }
        match socket.accept() {
            Ok(stream) => connections.add(Exchange::new(stream, Instant::now())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::warn!(%error, "the admin listener cannot accept");
                // No descriptor is left, most likely; trying again at once would spin.
                accepts_from = Instant::now() + ACCEPT_PAUSE;
            }
        }
    }
}

/// Those that are open, the oldest first.
pub(super) struct Connections {
    open: VecDeque<Exchange>,
}

impl Connections {
    /// Takes one in. Where there are as many as may be, the oldest that has not asked yet makes room.
    fn add(&mut self, exchange: Exchange) {
        if self.open.len() >= CONNECTIONS_MAX {
            let is_silent = |open: &Exchange| matches!(open.state, State::Reading(_));
            let silent = self.open.iter().position(is_silent).unwrap_or(0);
            self.open.remove(silent);
        }
        self.open.push_back(exchange);
    }

    /// The time until the first of them is due.
    fn left(&self, now: Instant) -> Option<Duration> {
        let oldest = self.open.front()?;
        Some(oldest.deadline.saturating_duration_since(now))
    }

    /// Waits for any of them and for `listener`, and says whether that can go on. What the others can
    /// do is noted with them.
    fn wait(
        &mut self,
        listener: Option<BorrowedFd<'_>>,
        timeout: Option<Duration>,
    ) -> io::Result<bool> {
        let listener = listener.map(|descriptor| Interest {
            descriptor,
            is_write: false,
        });
        let of_open = self.open.iter().map(Exchange::interest);
        let interests: Vec<Interest<'_>> = listener.into_iter().chain(of_open).collect();
        let mut ready = poll(&interests, timeout)?.into_iter();
        let is_listener_ready = listener.is_some() && ready.next() == Some(true);
        for (exchange, is_ready) in self.open.iter_mut().zip(ready) {
            exchange.is_ready = is_ready;
        }
        Ok(is_listener_ready)
    }

    /// Goes on with those that can, and lets go of those that are over, broken or out of time.
    fn advance(&mut self, now: Instant, hosts: Hosts, answer: &impl Fn(&str) -> Answer) {
        self.open.retain_mut(|exchange| {
            if !exchange.is_ready {
                return now < exchange.deadline;
            }
            match exchange.advance(hosts, answer) {
                Ok(Progress::Waits) => now < exchange.deadline,
                Ok(Progress::Over) => false,
                Err(error) => {
                    tracing::debug!(%error, "an admin request failed");
                    false
                }
            }
        });
    }
}

/// One connection: a request, its answer, its end.
pub(super) struct Exchange {
    stream: Box<dyn Stream>,
    state: State,
    deadline: Instant,
    is_ready: bool,
}

/// How far it has come.
enum State {
    /// What there is of the request's head.
    Reading(Vec<u8>),
    /// What is left of the response.
    Writing { bytes: Vec<u8>, sent: usize },
    /// Closing with bytes unread would reset the connection, and the response with it.
    Lingering { reads: usize },
}

/// What became of a step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It waits for its peer.
    Waits,
    /// It has come to its end.
    Over,
}

impl Exchange {
    pub(super) fn new(stream: Box<dyn Stream>, now: Instant) -> Self {
        Self {
            stream,
            state: State::Reading(Vec::new()),
            deadline: now + EXCHANGE_TIME_MAX,
            is_ready: false,
        }
    }

    /// What it waits for.
    pub(super) fn interest(&self) -> Interest<'_> {
        Interest {
            descriptor: self.stream.as_fd(),
            is_write: matches!(self.state, State::Writing { .. }),
        }
    }

    /// Goes on until it has to wait.
    pub(super) fn advance(
        &mut self,
        hosts: Hosts,
        answer: &impl Fn(&str) -> Answer,
    ) -> io::Result<Progress> {
        match self.advance_until_blocked(hosts, answer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Progress::Waits),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Progress::Waits),
            other => other,
        }
    }

    fn advance_until_blocked(
        &mut self,
        hosts: Hosts,
        answer: &impl Fn(&str) -> Answer,
    ) -> io::Result<Progress> {
        let mut buffer = [0; 1024];
        loop {
            match &mut self.state {
                State::Reading(head) => {
                    let count = self.stream.read(&mut buffer)?;
                    if count == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    head.extend_from_slice(buffer.get(..count).unwrap_or_default());
                    if http::is_whole(head) {
                        let bytes = http::response(head, hosts, answer);
                        self.state = State::Writing { bytes, sent: 0 };
                    }
                }
                State::Writing { bytes, sent } => match bytes.get(*sent..) {
                    None | Some([]) => {
                        self.stream.end()?;
                        self.state = State::Lingering { reads: 0 };
                    }
                    Some(rest) => *sent += self.stream.write(rest)?,
                },
                State::Lingering { reads } => {
                    *reads += 1;
                    if *reads > LINGER_READS_MAX || self.stream.read(&mut buffer)? == 0 {
                        return Ok(Progress::Over);
                    }
                }
            }
        }
    }
}

/// From accept to the end.
const EXCHANGE_TIME_MAX: Duration = Duration::from_secs(5);

/// More than all who watch a process; beyond, those who say nothing make room.
const CONNECTIONS_MAX: usize = 64;

const LINGER_READS_MAX: usize = 64;

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UnixStream, Exchange) {
        let (client, server) = UnixStream::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        (client, Exchange::new(Box::new(server), Instant::now()))
    }

    fn alive(_path: &str) -> Answer {
        Answer::text(200, "alive\n")
    }

    #[test]
    fn those_who_say_nothing_make_room() {
        let mut connections = Connections {
            open: VecDeque::new(),
        };
        let mut clients = Vec::new();
        for index in 0..=CONNECTIONS_MAX {
            let (mut client, exchange) = pair();
            // The first has asked, and reads nothing of its answer's end.
            if index == 0 {
                client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
            }
            connections.add(exchange);
            connections.wait(None, Some(Duration::ZERO)).unwrap();
            connections.advance(Instant::now(), Hosts::Any, &alive);
            clients.push(client);
        }
        assert_eq!(connections.open.len(), CONNECTIONS_MAX);
        // The second had been silent for longest.
        assert_eq!(clients[1].read(&mut [0]).unwrap(), 0);
        let mut answer = [0; 12];
        clients[0].read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
    }

    #[test]
    fn time_ends_what_does_not_end_by_itself() {
        let mut connections = Connections {
            open: VecDeque::new(),
        };
        let (_silent, exchange) = pair();
        connections.add(exchange);
        let now = Instant::now();
        assert!(connections.left(now).unwrap() <= EXCHANGE_TIME_MAX);
        connections.advance(now, Hosts::Any, &alive);
        assert_eq!(connections.open.len(), 1);
        connections.advance(now + EXCHANGE_TIME_MAX, Hosts::Any, &alive);
        assert_eq!((connections.open.len(), connections.left(now)), (0, None));
    }
}
