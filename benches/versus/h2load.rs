//! h2load as the client of kept-alive connections.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use crate::Failure;
pub(crate) use crate::figures::cells::Protocol;
use crate::figures::{Counted, h2load};
use crate::servers::pinned;

/// A load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load<'a> {
    pub(crate) address: SocketAddr,
    /// Without TLS.
    pub(crate) is_plain: bool,
    pub(crate) path: &'a str,
    /// Connections.
    pub(crate) clients: u32,
    pub(crate) protocol: Protocol,
    pub(crate) seconds: u32,
    pub(crate) cpu: usize,
}

impl Load<'_> {
    pub(crate) fn scheme(&self) -> &'static str {
        if self.is_plain { "http" } else { "https" }
    }
}

/// What h2load counted in its main phase, and the server's counters at that phase's ends.
#[derive(Debug)]
pub(crate) struct Run<S> {
    pub(crate) counted: Counted,
    pub(crate) before: S,
    pub(crate) after: S,
}

/// Runs `load` and takes `sample` when the warm-up is over and when the main phase is.
///
/// Warm-up holds the handshakes and the first requests; h2load counts only what the main phase
/// completed. It prints a line at each phase's end, and that line is the signal for a sample.
///
/// # Errors
/// When a request failed, had a status beyond 2xx, or went over another session than the one all
/// servers are pinned to.
pub(crate) fn run<S>(
    load: &Load<'_>,
    mut sample: impl FnMut() -> Result<S, Failure>,
) -> Result<Run<S>, Failure> {
    let mut command = Command::new("h2load");
    command
        .args(["--threads=1", "--groups=X25519"])
        .arg(match load.protocol {
            Protocol::Http1 => "--h1".to_owned(),
            Protocol::Http2 { streams } => format!("--max-concurrent-streams={streams}"),
        })
        .arg(format!("--tls13-ciphers={SUITE}"))
        .arg(format!("--warm-up-time={WARM_UP_MS}ms"))
        .arg(format!("--clients={}", load.clients))
        .arg(format!("--duration={}", load.seconds))
        .arg(format!(
            "{}://{}/{}",
            load.scheme(),
            load.address,
            load.path
        ));
    let mut child = pinned(&command, load.cpu)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start h2load: {error}"))?;
    let out = child
        .stdout
        .take()
        .ok_or("h2load without standard output")?;
    let mut samples = VecDeque::new();
    let mut text = String::new();
    for line in BufReader::new(out).lines() {
        let line = line?;
        if line.starts_with("Main benchmark duration is ") {
            samples.push_back(sample()?);
        }
        text.push_str(&line);
        text.push('\n');
    }
    let status = child.wait()?;
    let (Some(before), Some(after), true) =
        (samples.pop_front(), samples.pop_front(), status.success())
    else {
        return Err(format!("h2load did not finish: {status}\n{text}").into());
    };
    let counted =
        h2load::judge(&text, &due(load)).map_err(|reason| format!("h2load: {reason}\n{text}"))?;
    Ok(Run {
        counted,
        before,
        after,
    })
}

/// What h2load says of the session that every server is pinned to.
fn due(load: &Load<'_>) -> Vec<String> {
    if load.is_plain {
        return Vec::new();
    }
    let spoken = match load.protocol {
        Protocol::Http1 => "http/1.1",
        Protocol::Http2 { .. } => "h2",
    };
    vec![
        "TLS Protocol: TLSv1.3".to_owned(),
        format!("Cipher: {SUITE}"),
        "Server Temp Key: X25519 253 bits".to_owned(),
        format!("Application protocol: {spoken}"),
    ]
}

const SUITE: &str = "TLS_AES_128_GCM_SHA256";

/// Long enough for the handshakes of all clients, and for every cache to have what it will have.
const WARM_UP_MS: u32 = 500;
