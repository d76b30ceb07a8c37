//! wrk as the client of kept-alive connections over HTTP/1.1: it costs the load's core less than
//! h2load, so that a fast server has more to do.

use std::process::Command;

use crate::Failure;
use crate::figures::wrk::judge;
use crate::h2load::{Load, Run};
use crate::servers::pinned;
use crate::tools;

/// Runs `load`, after a short one to warm up, and takes `sample` at its ends. What a connection costs
/// to open and close is within: wrk tells nobody when its own are open.
///
/// # Errors
/// When a request failed or had a status beyond 3xx.
pub(crate) fn run<S>(
    load: &Load<'_>,
    mut sample: impl FnMut() -> Result<S, Failure>,
) -> Result<Run<S>, Failure> {
    once(load, WARM_UP_S)?;
    let before = sample()?;
    let text = once(load, load.seconds)?;
    let after = sample()?;
    let counted = judge(&text).map_err(|reason| format!("wrk: {reason}\n{text}"))?;
    Ok(Run {
        counted,
        before,
        after,
    })
}

fn once(load: &Load<'_>, seconds: u32) -> Result<String, Failure> {
    let mut command = Command::new("wrk");
    command
        .args(["--threads", "1", "--timeout", "30s"])
        .args(["--connections", &load.clients.to_string()])
        .arg("--duration")
        .arg(format!("{seconds}s"))
        .arg(format!(
            "{}://{}/{}",
            load.scheme(),
            load.address,
            load.path
        ));
    tools::all_output(&mut pinned(&command, load.cpu))
}

const WARM_UP_S: u32 = 1;
