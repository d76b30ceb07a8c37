//! The access log: a line for each response, written by a thread of its own.
//!
//! A worker gathers lines and hands them over in batches, several times a second or when a batch is
//! full. It never waits: where the writer cannot keep up, whole batches are dropped and counted.

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use httpdate::HttpDate;
use rustls::{CipherSuite, ProtocolVersion};

use crate::config::{
    AccessLog as Config, Config as ServerConfig, LogDestination, LogFormat, SiteLog,
};
use crate::http::Exchange;
use crate::limits::{
    ACCESS_LOG_BATCH_BYTES, ACCESS_LOG_BATCHES_WAITING_MAX, ACCESS_LOG_VALUE_BYTES_MAX,
};
use crate::message::{Method, Version};
use crate::metrics::{self, Counter};
use crate::proto::json::JsonWriter;
use crate::serve::Identity;

/// The way to the thread that writes one log. The thread ends when all of these are gone.
#[derive(Clone, Debug)]
pub struct AccessLog(Arc<Opened>);

#[derive(Debug)]
struct Opened {
    config: Config,
    batches: SyncSender<Message>,
    must_reopen: AtomicBool,
}

/// The logs of one configuration, each open once.
#[derive(Clone, Debug, Default)]
pub struct AccessLogs {
    opened: Vec<AccessLog>,
    /// Indices in `opened`.
    common: Option<usize>,
    sites: Vec<Option<usize>>,
}

/// One worker's part of all logs.
pub(super) struct WorkerLogs {
    logs: Vec<WorkerLog>,
    common: Option<usize>,
    sites: Vec<Option<usize>>,
}

/// One worker's part of one log.
struct WorkerLog {
    log: AccessLog,
    lines: RefCell<Vec<u8>>,
    count: Cell<u64>,
    clock: RefCell<Clock>,
}

/// What is logged of whoever asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer<'a> {
    /// The connection's other end.
    pub(super) address: IpAddr,
    /// `None` without TLS.
    pub(super) session: Option<Session>,
    /// `None` where there was no request.
    pub(super) identity: Option<&'a Identity<'a>>,
    /// The first name of the request's site.
    pub(super) site: Option<&'a str>,
}

/// What is logged of a TLS session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) version: ProtocolVersion,
    pub(super) suite: CipherSuite,
    pub(super) is_resumed: bool,
}

impl Peer<'_> {
    /// The client's address, which behind a trusted proxy is not the connection's.
    fn client(&self) -> IpAddr {
        self.identity
            .map_or(self.address, |identity| identity.address)
    }
}

#[derive(Debug)]
enum Message {
    Lines {
        bytes: Vec<u8>,
        count: u64,
    },
    /// Look at [`Opened::must_reopen`].
    Wake,
    /// Say when everything before this is written.
    Finish(Sender<()>),
}

impl AccessLogs {
    /// Opens what `config` names and is not open among `running`.
    ///
    /// # Errors
    /// When a file cannot be opened or a thread cannot be started.
    pub fn open(config: &ServerConfig, running: &Self) -> io::Result<Self> {
        let mut logs = Self::default();
        logs.common = match &config.access_log {
            Some(log) => Some(logs.add(log, running)?),
            None => None,
        };
        for site in &config.sites {
            let index = match &site.access_log {
                SiteLog::Common => logs.common,
                SiteLog::Own(log) => Some(logs.add(log, running)?),
                SiteLog::Off => None,
            };
            logs.sites.push(index);
        }
        Ok(logs)
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &AccessLog> {
        self.opened.iter()
    }

    fn add(&mut self, config: &Config, running: &Self) -> io::Result<usize> {
        let is_it = |log: &&AccessLog| log.0.config == *config;
        if let Some(index) = self.opened.iter().position(|log| is_it(&log)) {
            return Ok(index);
        }
        let log = match running.opened.iter().find(is_it) {
            Some(log) => log.clone(),
            None => AccessLog::open(config)?,
        };
        self.opened.push(log);
        Ok(self.opened.len() - 1)
    }
}

impl AccessLog {
    /// Opens the log and starts its thread.
    ///
    /// # Errors
    /// When the file cannot be opened or the thread cannot be started.
    fn open(config: &Config) -> io::Result<Self> {
        let output = Output::open(&config.destination)?;
        let (batches, received) = sync_channel(ACCESS_LOG_BATCHES_WAITING_MAX);
        let log = Self(Arc::new(Opened {
            config: config.clone(),
            batches,
            must_reopen: AtomicBool::new(false),
        }));
        let mut writer = Writer {
            log: Arc::downgrade(&log.0),
            destination: config.destination.clone(),
            output,
            owes_reopening: false,
            is_failing: false,
        };
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || received.iter().for_each(|message| writer.take(message)))?;
        Ok(log)
    }

    /// From now on lines go to a file that is opened anew: the one before has been moved away.
    pub fn reopen(&self) {
        self.0.must_reopen.store(true, Ordering::Release);
        // A full queue wakes the thread by itself.
        drop(self.0.batches.try_send(Message::Wake));
    }

    /// Waits until all that was handed over to `logs` is written, but no longer than `wait`.
    pub fn finish(logs: &[Self], wait: Duration) {
        let (done, written) = channel();
        let ask = |log: &Self| {
            let ask = Message::Finish(done.clone());
            log.0.batches.try_send(ask).is_ok()
        };
        let asked = logs.iter().filter(|log| ask(log)).count();
        let deadline = Instant::now() + wait;
        for _ in 0..asked {
            // Late or not at all: the process ends all the same.
            let left = deadline.saturating_duration_since(Instant::now());
            let _ = written.recv_timeout(left);
        }
    }

    /// Whether this is the only way to its thread.
    pub fn is_last(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Whether both lead to the same thread.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl WorkerLogs {
    /// Nothing is gathered yet.
    pub(super) fn new(logs: &AccessLogs) -> Self {
        Self {
            logs: logs.iter().cloned().map(WorkerLog::new).collect(),
            common: logs.common,
            sites: logs.sites.clone(),
        }
    }

    /// Whether nothing is logged.
    pub(super) fn is_empty(&self) -> bool {
        self.logs.is_empty()
    }

    /// Logs a response of the site, or of none, to `peer`.
    pub(super) fn record(&self, site: Option<usize>, peer: &Peer<'_>, exchange: &Exchange<'_>) {
        if let Some(log) = self.of(site) {
            log.record(peer, exchange);
        }
    }

    /// Hands over what is gathered.
    pub(super) fn flush(&self) {
        self.logs.iter().for_each(WorkerLog::flush);
    }

    fn of(&self, site: Option<usize>) -> Option<&WorkerLog> {
        let index = match site {
            Some(site) => self.sites.get(site).copied().flatten(),
            None => self.common,
        };
        self.logs.get(index?)
    }
}

impl WorkerLog {
    fn new(log: AccessLog) -> Self {
        Self {
            log,
            lines: RefCell::new(Vec::new()),
            count: Cell::new(0),
            clock: RefCell::new(Clock::default()),
        }
    }

    fn record(&self, peer: &Peer<'_>, exchange: &Exchange<'_>) {
        let mut lines = self.lines.borrow_mut();
        let mut clock = self.clock.borrow_mut();
        clock.set(SystemTime::now());
        match self.log.0.config.format {
            LogFormat::Combined => write_combined(&mut lines, &clock, peer, exchange),
            LogFormat::Json => write_json(&mut lines, &clock, peer, exchange),
        }
        lines.push(b'\n');
        self.count.set(self.count.get() + 1);
        let is_full = lines.len() >= ACCESS_LOG_BATCH_BYTES;
        drop(lines);
        if is_full {
            self.flush();
        }
    }

    fn flush(&self) {
        let bytes = self.lines.take();
        if bytes.is_empty() {
            return;
        }
        let count = self.count.take();
        let lines = Message::Lines { bytes, count };
        if self.log.0.batches.try_send(lines).is_err() {
            metrics::add(Counter::AccessLogDropped, count);
        }
    }
}

impl Drop for WorkerLog {
    fn drop(&mut self) {
        self.flush();
    }
}

enum Output {
    File(File),
    Stdout,
}

struct Writer {
    /// Weak, so that the thread ends with the last way to it.
    log: Weak<Opened>,
    destination: LogDestination,
    output: Output,
    /// The file could not be opened anew: `output` is the one before, which may be gone.
    owes_reopening: bool,
    is_failing: bool,
}

impl Writer {
    fn take(&mut self, message: Message) {
        let log = self.log.upgrade();
        let is_asked = log.is_some_and(|log| log.must_reopen.swap(false, Ordering::Acquire));
        if is_asked || self.owes_reopening {
            self.reopen(is_asked);
        }
        match message {
            Message::Lines { bytes, count } => self.write(&bytes, count),
            Message::Wake => {}
            Message::Finish(done) => drop(done.send(())),
        }
    }

    fn write(&mut self, bytes: &[u8], count: u64) {
        if self.owes_reopening && self.output.is_removed() {
            // Written, they would look kept and be lost.
            metrics::add(Counter::AccessLogDropped, count);
            return;
        }
        match self.output.write_all(bytes) {
            Ok(()) => self.is_failing = false,
            Err(error) => {
                metrics::add(Counter::AccessLogDropped, count);
                // Told once, not for each batch on a full disk.
                if !self.is_failing {
                    tracing::error!(%error, "the access log cannot be written");
                }
                self.is_failing = true;
            }
        }
    }

    /// Opens the file anew. Where that fails it is tried again with each batch, and told of only when
    /// it was asked for.
    fn reopen(&mut self, is_asked: bool) {
        let opened = Output::open(&self.destination);
        self.owes_reopening = opened.is_err();
        match opened {
            Ok(output) => self.output = output,
            Err(error) if is_asked => {
                tracing::error!(
                    %error,
                    "the access log cannot be reopened: the old file goes on until it can, or is removed"
                );
            }
            Err(_) => {}
        }
    }
}

impl Output {
    fn open(destination: &LogDestination) -> io::Result<Self> {
        Ok(match destination {
            LogDestination::Stdout => Self::Stdout,
            LogDestination::File(path) => {
                let mut options = OpenOptions::new();
                // Without O_NONBLOCK, opening a FIFO that nobody reads would wait.
                let options = options.create(true).append(true).mode(0o640);
                Self::File(options.custom_flags(libc::O_NONBLOCK).open(path)?)
            }
        })
    }

    /// Whether what is written here can be found under no name.
    fn is_removed(&self) -> bool {
        match self {
            Self::File(file) => file.metadata().is_ok_and(|file| file.nlink() == 0),
            Self::Stdout => false,
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.write_all(bytes),
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(bytes)?;
                out.flush()
            }
        }
    }
}

/// A moment as text, made once a second.
#[derive(Default)]
struct Clock {
    since_1970: Duration,
    /// "06/Nov/1994:08:49:37 +0000"
    combined: String,
    /// "1994-11-06T08:49:37", without the fraction.
    rfc3339: String,
}

impl Clock {
    fn set(&mut self, now: SystemTime) {
        let since_1970 = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let is_same_second = since_1970.as_secs() == self.since_1970.as_secs();
        self.since_1970 = since_1970;
        if is_same_second && !self.combined.is_empty() {
            return;
        }
        // RFC 9110 5.6.7: "Sun, 06 Nov 1994 08:49:37 GMT"
        let date = HttpDate::from(now).to_string();
        let part = |range| date.get(range).unwrap_or_default();
        let (day, month, year, time) = (part(5..7), part(8..11), part(12..16), part(17..25));
        self.combined = format!("{day}/{month}/{year}:{time} +0000");
        let number = MONTHS.iter().position(|name| *name == month);
        let number = number.map_or(0, |index| index + 1);
        self.rfc3339 = format!("{year}-{number:02}-{day}T{time}");
    }
}

/// Apache's and nginx's "combined" format.
fn write_combined(out: &mut Vec<u8>, clock: &Clock, peer: &Peer<'_>, exchange: &Exchange<'_>) {
    let address = peer.client();
    // Writing to a vector cannot fail.
    let _ = write!(out, "{address} - - [{}] \"", clock.combined);
    match exchange.request {
        Some(request) => {
            push_escaped(out, method_name(&request.method).as_bytes());
            out.push(b' ');
            push_escaped(out, request.target.as_bytes());
            let _ = write!(out, " {}", version_name(request.version));
        }
        None => out.push(b'-'),
    }
    let _ = write!(out, "\" {} {}", exchange.status.0, exchange.body_bytes);
    for name in ["referer", "user-agent"] {
        out.extend_from_slice(b" \"");
        let value = exchange
            .request
            .and_then(|request| request.fields.first(name));
        push_escaped(out, value.unwrap_or(b"-"));
        out.push(b'"');
    }
}

fn write_json(out: &mut Vec<u8>, clock: &Clock, peer: &Peer<'_>, exchange: &Exchange<'_>) {
    let time = format!("{}.{:03}Z", clock.rfc3339, clock.since_1970.subsec_millis());
    let address = peer.client().to_string();
    let duration_us = u64::try_from(exchange.duration.as_micros()).unwrap_or(u64::MAX);
    let mut json = JsonWriter::new(out);
    json.begin_object()
        .string_member("time", time.as_bytes())
        .string_member("client", address.as_bytes());
    if peer.client() != peer.address {
        json.string_member("proxy", peer.address.to_string().as_bytes());
    }
    if let Some(identity) = peer.identity {
        json.string_member("id", identity.id.as_bytes());
    }
    if let Some(site) = peer.site {
        json.string_member("site", site.as_bytes());
    }
    if let Some(request) = exchange.request {
        json.string_member("method", cut(method_name(&request.method).as_bytes()))
            .string_member("host", cut(request.host.as_bytes()))
            .string_member("target", cut(request.target.as_bytes()))
            .string_member("protocol", version_name(request.version).as_bytes());
        for (member, name) in [("referer", "referer"), ("user_agent", "user-agent")] {
            if let Some(value) = request.fields.first(name) {
                json.string_member(member, cut(value));
            }
        }
    }
    json.number_member("status", u64::from(exchange.status.0))
        .number_member("body_bytes", exchange.body_bytes)
        .number_member("duration_us", duration_us)
        .name("complete")
        .boolean(exchange.is_complete);
    if let Some(session) = &peer.session {
        let version = match session.version == ProtocolVersion::TLSv1_2 {
            true => "1.2",
            false => "1.3",
        };
        let suite = session.suite.as_str().unwrap_or("unknown");
        let layer = match exchange.is_sent_by_kernel {
            true => "kernel",
            false => "user",
        };
        json.string_member("tls", version.as_bytes())
            .string_member("suite", suite.as_bytes())
            .name("resumed")
            .boolean(session.is_resumed)
            .string_member("sealed_by", layer.as_bytes());
    }
    json.end_object();
}

/// What would end a value, or a line, or steer a terminal, becomes `\xHH`.
fn push_escaped(out: &mut Vec<u8>, value: &[u8]) {
    for &byte in cut(value) {
        match byte {
            b'"' | b'\\' | 0..0x20 | 0x7f.. => {
                let _ = write!(out, "\\x{byte:02X}");
            }
            _ => out.push(byte),
        }
    }
}

fn cut(value: &[u8]) -> &[u8] {
    value.get(..ACCESS_LOG_VALUE_BYTES_MAX).unwrap_or(value)
}

fn method_name(method: &Method) -> &str {
    match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Options => "OPTIONS",
        Method::Patch => "PATCH",
        Method::Connect => "CONNECT",
        Method::Trace => "TRACE",
        Method::Other(name) => name,
    }
}

fn version_name(version: Version) -> &'static str {
    match version {
        Version::Http10 => "HTTP/1.0",
        Version::Http11 => "HTTP/1.1",
        Version::Http2 => "HTTP/2.0",
    }
}

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

#[cfg(test)]
mod tests;
