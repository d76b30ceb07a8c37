//! What is found out about servers whether anybody connects or not: the addresses of names, and
//! checks. Once per process, on threads that workers never wait for.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::connect::{Target, establish, header_for, introduce};
use super::group::Shared;
use super::health_http2;
use super::secure::ServerTls;
use crate::config::{
    HealthCheckKind, Offload, OffloadPolicy, Tcp, UpstreamAddress, UpstreamProtocol,
};
use crate::error::{Cause, Error, Stage};
use crate::limits::{
    AES_GCM_RECORDS_MAX, HEALTH_ANSWER_BYTES_MAX, UPSTREAM_ADDRESSES_MAX, UPSTREAM_LOOKUPS_MAX,
};
use crate::metrics::{self, Counter};
use crate::net::deadline::Deadlines;
use crate::net::file_threads::FileThreadsHandle;
use crate::net::rt::{self, Driver};
use crate::net::stream::{Received, Stream, StreamContext};
use crate::sys::probe::{KernelTls, TlsRefusal};

/// Starts what `shared` needs: a thread that has its names looked up, a thread that checks its servers.
/// Both end when the group is dropped. What is given receives a word, or the end, when every name
/// has been looked up once.
///
/// # Errors
/// When a thread cannot be started.
pub(super) fn start(shared: &Arc<Shared>, tcp: &Tcp) -> io::Result<Receiver<()>> {
    let config = shared.config();
    let (looked_up, receiver) = channel();
    let is_name = |address: &UpstreamAddress| matches!(address, UpstreamAddress::Name(..));
    if config.servers.iter().any(|server| is_name(&server.address)) {
        let weak = Arc::downgrade(shared);
        std::thread::Builder::new()
            .name("upstream-names".to_owned())
            .spawn(move || look_up_forever(&weak, &looked_up, by_system))?;
    }
    if config.health.is_some() {
        let (weak, tcp) = (Arc::downgrade(shared), *tcp);
        std::thread::Builder::new()
            .name("upstream-checks".to_owned())
            .spawn(move || check_forever(&weak, tcp))?;
    }
    Ok(receiver)
}

/// How a name is looked up: for as long as that takes, on a thread of its own.
type Resolve = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

/// A server's name.
struct Name {
    server: usize,
    host: String,
    port: u16,
    /// When it is looked up next; `None` while it is.
    due: Option<Instant>,
    /// Look-ups in a row that gave nothing.
    failures: u32,
    /// Whether one has ended.
    is_known: bool,
}

fn look_up_forever(group: &Weak<Shared>, looked_up: &Sender<()>, resolve: Resolve) {
    let mut names = match group.upgrade() {
        Some(shared) => names(&shared),
        None => return,
    };
    let (found, answers) = channel();
    let mut waits_for_first = true;
    while group.strong_count() > 0 {
        begin_due(&mut names, &found, resolve);
        let next = names.iter().filter_map(|name| name.due).min();
        let left = next.map(|due| due.saturating_duration_since(Instant::now()));
        let pause = left.map_or(ALIVE_LOOK, |left| left.min(ALIVE_LOOK));
        // No more of them are under way than may be: one that is due waits for an answer.
        let pause = match is_busy(&names) {
            true => ALIVE_LOOK,
            false => pause,
        };
        let Ok((index, outcome)) = answers.recv_timeout(pause) else {
            continue;
        };
        let (Some(name), Some(shared)) = (names.get_mut(index), group.upgrade()) else {
            continue;
        };
        take_answer(&shared, name, outcome);
        if waits_for_first && names.iter().all(|name| name.is_known) {
            waits_for_first = false;
            // Who waits for it may have given up.
            let _ = looked_up.send(());
        }
    }
}

fn names(shared: &Shared) -> Vec<Name> {
    let servers = shared.config().servers.iter().enumerate();
    let names = servers.filter_map(|(server, config)| match &config.address {
        UpstreamAddress::Name(host, port) => Some(Name {
            server,
            host: host.clone(),
            port: *port,
            due: Some(Instant::now()),
            failures: 0,
            is_known: false,
        }),
        UpstreamAddress::Ip(_) | UpstreamAddress::Unix(_) => None,
    });
    names.collect()
}

fn is_busy(names: &[Name]) -> bool {
    names.iter().filter(|name| name.due.is_none()).count() >= UPSTREAM_LOOKUPS_MAX
}

/// Begins to look up the names that are due, side by side: one that takes its time does not make the
/// others wait.
fn begin_due(names: &mut [Name], found: &Sender<(usize, Answer)>, resolve: Resolve) {
    let now = Instant::now();
    for index in 0..names.len() {
        if is_busy(names) {
            return;
        }
        let Some(name) = names.get_mut(index) else {
            return;
        };
        if name.due.is_none_or(|due| due > now) {
            continue;
        }
        name.due = None;
        let (answers, host, port) = (found.clone(), name.host.clone(), name.port);
        let begun = std::thread::Builder::new()
            .name("upstream-name".to_owned())
            .spawn(move || {
                // The group may be gone meanwhile.
                let _ = answers.send((index, resolve(&host, port)));
            });
        if let Err(error) = begun {
            let _ = found.send((index, Err(error)));
        }
    }
}

/// What a look-up gave.
type Answer = io::Result<Vec<SocketAddr>>;

/// What the name was known by stays when nothing was found: a server does not move because a resolver
/// is away.
fn take_answer(shared: &Shared, name: &mut Name, answer: Answer) {
    let host = &name.host;
    name.is_known = true;
    name.failures = name.failures.saturating_add(1);
    match answer {
        Ok(found) if !found.is_empty() => {
            name.failures = 0;
            if *shared.addresses(name.server) != found {
                tracing::info!(host, addresses = ?found, "an upstream's name was looked up");
                shared.set_addresses(name.server, found);
            }
        }
        Ok(_) => {
            metrics::count(Counter::UpstreamLookupsFailed);
            tracing::warn!(host, "an upstream's name has no address");
        }
        Err(error) => {
            metrics::count(Counter::UpstreamLookupsFailed);
            tracing::warn!(host, %error, "an upstream's name cannot be looked up");
        }
    }
    name.due = Some(Instant::now() + pause_after(name.failures, shared.config().resolve));
}

/// How long after a look-up the next one begins: soon after a failure, and later and later.
fn pause_after(failures: u32, period: Duration) -> Duration {
    match failures {
        0 => period,
        _ => RETRY_FIRST
            .saturating_mul(1 << (failures - 1).min(RETRY_DOUBLINGS_MAX))
            .min(period),
    }
}

/// By the system's resolver, which does not tell how long what it says is valid.
fn by_system(host: &str, port: u16) -> Answer {
    let found = (host, port).to_socket_addrs()?;
    Ok(found.take(UPSTREAM_ADDRESSES_MAX).collect())
}

/// The checks of all servers of a group, side by side on a runtime of their own.
fn check_forever(group: &Weak<Shared>, tcp: Tcp) {
    let checks = async {
        let Some(shared) = group.upgrade() else {
            return;
        };
        let means = match Means::new(tcp) {
            Ok(means) => Rc::new(means),
            Err(error) => {
                tracing::error!(%error, "health checks cannot be made");
                return;
            }
        };
        for server in 0..shared.config().servers.len() {
            rt::spawn(check_server_forever(group.clone(), server, means.clone()));
        }
        drop(shared);
        while group.strong_count() > 0 {
            rt::sleep(ALIVE_LOOK).await;
        }
    };
    if let Err(error) = rt::block_on(Driver::Epoll, checks) {
        tracing::error!(%error, "health checks cannot be made");
    }
}

/// What checks are made with.
struct Means {
    tcp: Tcp,
    /// Never turned: a check's time is bounded as a whole.
    deadlines: Deadlines,
    context: Rc<StreamContext>,
}

impl Means {
    fn new(tcp: Tcp) -> io::Result<Self> {
        let context = StreamContext {
            // So little is said that no check pays for the kernel's record layer.
            offload: Offload {
                policy: OffloadPolicy::Auto,
                file_bytes_min: u64::MAX,
                http2_bytes_min: u64::MAX,
                answer_bytes_min: u64::MAX,
                sent_bytes_min: u64::MAX,
                tunnel_bytes_min: u64::MAX,
            },
            kernel: KernelTls::refused(TlsRefusal::NoModule),
            send_progress: Duration::MAX,
            records_per_key_max: AES_GCM_RECORDS_MAX,
            file_threads: FileThreadsHandle::to_none()?,
        };
        Ok(Self {
            tcp,
            deadlines: Deadlines::new(),
            context: Rc::new(context),
        })
    }
}

async fn check_server_forever(group: Weak<Shared>, server: usize, means: Rc<Means>) {
    while let Some(shared) = group.upgrade() {
        let Some(health) = shared.config().health.clone() else {
            return;
        };
        let check = check(&shared, server, &health.kind, &means, health.timeout);
        let passed = rt::timeout(health.timeout, check).await;
        let has_passed = matches!(passed, Some(Ok(true)));
        if let Some(Err(error)) = passed {
            tracing::debug!(server, %error, "a health check failed");
        }
        if !has_passed {
            metrics::count(Counter::UpstreamChecksFailed);
        }
        shared.on_check(server, has_passed, Instant::now());
        drop(shared);
        rt::sleep(health.interval).await;
    }
}

/// Whether a server passes a check, to connect for which it has `time`.
async fn check(
    shared: &Shared,
    server: usize,
    kind: &HealthCheckKind,
    means: &Means,
    time: Duration,
) -> Result<bool, Error> {
    let is_http2 = shared.config().http.protocol == UpstreamProtocol::Http2;
    let protocols: &[&[u8]] = match kind {
        HealthCheckKind::Connect => &[],
        HealthCheckKind::Http { .. } if is_http2 => &[b"h2"],
        HealthCheckKind::Http { .. } => &[b"http/1.1"],
    };
    let stream = connected(shared, server, protocols, means, time).await?;
    let is_secure = ServerTls::of(shared, server).is_some();
    match kind {
        HealthCheckKind::Connect => {
            // A server is not to take it for somebody who vanished.
            let (_read, mut write) = stream.into_halves();
            drop(write.finish().await);
            Ok(true)
        }
        HealthCheckKind::Http { path, host } => {
            let asked = match is_http2 {
                true => Box::pin(health_http2::ask(stream, path, host, is_secure)).await,
                false => ask(stream, path, host).await,
            };
            asked.map_err(|cause| Error::upstream(Stage::Exchange, cause))
        }
    }
}

/// A connection for a check, to the first of the server's addresses that can be had, as for requests:
/// what is left of `time` is shared among the addresses left.
async fn connected(
    shared: &Shared,
    server: usize,
    protocols: &[&[u8]],
    means: &Means,
    time: Duration,
) -> Result<Stream, Error> {
    let until = Instant::now() + time;
    let addresses = shared.addresses(server);
    let config = shared.config().servers.get(server);
    let targets: Vec<Target<'_>> = match config.map(|config| &config.address) {
        Some(UpstreamAddress::Unix(path)) => vec![Target::Unix(path)],
        _ => addresses.iter().copied().map(Target::Tcp).collect(),
    };
    let none = Cause::Io(io::ErrorKind::AddrNotAvailable.into());
    let mut last = Error::upstream(Stage::Connect, none);
    for (index, target) in targets.iter().enumerate() {
        let left = until.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(targets.len() - index).unwrap_or(u32::MAX);
        let opening = open(shared, server, target, protocols, means);
        match rt::timeout(share, opening).await {
            Some(Ok(stream)) => return Ok(stream),
            Some(Err(error)) => last = error,
            None => last = Error::upstream(Stage::Connect, Cause::Timeout(CHECK_KEY)),
        }
    }
    Err(last)
}

async fn open(
    shared: &Shared,
    server: usize,
    target: &Target<'_>,
    protocols: &[&[u8]],
    means: &Means,
) -> Result<Stream, Error> {
    let header = header_for(shared.config(), None);
    let introduced = introduce(establish(target, &means.tcp).await, &header).await;
    let socket = introduced.map_err(|error| Error::upstream(Stage::Connect, Cause::Io(error)))?;
    let socket = Rc::new(socket);
    let deadline = Rc::new(means.deadlines.register());
    let context = means.context.clone();
    let Some(tls) = ServerTls::of(shared, server) else {
        return Ok(Stream::plain(socket, deadline, context));
    };
    let secured = Box::pin(tls.secure(socket, &deadline, context, protocols)).await?;
    if protocols == [b"h2"] && secured.alpn.as_deref() != Some(b"h2") {
        let cause = Cause::Protocol("the server does not agree on HTTP/2");
        return Err(Error::upstream(Stage::Connect, cause));
    }
    Ok(secured.stream)
}

/// Whether the server answers with a status from 200 to 399.
async fn ask(stream: Stream, path: &str, host: &str) -> Result<bool, Cause> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: portcullis-health\r\n\
         Connection: close\r\n\r\n"
    );
    let (mut read, mut write) = stream.into_halves();
    write.send(&[IoSlice::new(request.as_bytes())]).await?;
    let mut answer = BytesMut::new();
    while answer.len() < HEALTH_ANSWER_BYTES_MAX {
        match read.receive(&mut answer).await? {
            Received::Data(_) => {
                if let Some(passes) = judge(&answer) {
                    return Ok(passes);
                }
            }
            Received::Closed(_) | Received::Expired(_) => return Ok(false),
        }
    }
    Ok(false)
}

/// Whether the answer that begins so passes; `None` while its status is not there yet (RFC 9112 4).
/// Interim answers before it say nothing (RFC 9110 15.2), but a change of protocol is none.
fn judge(answer: &[u8]) -> Option<bool> {
    let mut rest = answer;
    loop {
        let line_end = rest.iter().position(|&byte| byte == b'\n')?;
        let status = status(rest.get(..line_end).unwrap_or_default());
        match status {
            Some([b'1', ..]) if status != Some(*b"101") => {
                let end = memchr::memmem::find(rest, HEAD_END)? + HEAD_END.len();
                rest = rest.get(end..).unwrap_or_default();
            }
            Some([first, ..]) => return Some(matches!(first, b'2' | b'3')),
            None => return Some(false),
        }
    }
}

/// The status of a status line.
fn status(line: &[u8]) -> Option<[u8; 3]> {
    let rest = line
        .strip_prefix(b"HTTP/1.1 ")
        .or_else(|| line.strip_prefix(b"HTTP/1.0 "))?;
    let (status, rest) = rest.split_first_chunk::<3>()?;
    let is_status = status.iter().all(u8::is_ascii_digit);
    let has_ended = rest.first().is_none_or(|byte| matches!(byte, b' ' | b'\r'));
    (is_status && has_ended).then_some(*status)
}

const HEAD_END: &[u8] = b"\r\n\r\n";

/// What bounds a check.
const CHECK_KEY: &str = "upstream.health.timeout_ms";

/// After the first look-up that gave nothing.
const RETRY_FIRST: Duration = Duration::from_secs(1);

/// Beyond the longest period.
const RETRY_DOUBLINGS_MAX: u32 = 17;

/// How often a thread looks whether its group is still there.
const ALIVE_LOOK: Duration = Duration::from_millis(500);

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
