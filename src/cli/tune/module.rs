//! Modules of the kernel: whether they are there, loaded and unloaded by modprobe(8).

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::table::{LOADED, UNLOADED};

/// Whether a module is loaded, or built in.
///
/// # Errors
/// `NotFound`: this kernel has no such module. `PermissionDenied`: it has, and it may not be loaded any
/// more.
pub(super) fn state(root: &Path, name: &str) -> io::Result<String> {
    if is_loaded(root, name) {
        return Ok(LOADED.to_owned());
    }
    if !is_installed(root, name) {
        return Err(ErrorKind::NotFound.into());
    }
    if text(root, "proc/sys/kernel/modules_disabled") == "1" {
        let why = "kernel.modules_disabled is 1: until the next start none can be loaded";
        return Err(io::Error::new(ErrorKind::PermissionDenied, why));
    }
    Ok(UNLOADED.to_owned())
}

/// Whether this process may load and unload modules.
///
/// # Errors
/// `NotFound`: there is no modprobe(8). `PermissionDenied`: it lacks CAP_SYS_MODULE.
pub(super) fn may_change(root: &Path) -> io::Result<()> {
    let program = fs::metadata(loader(root))?;
    let may = text(root, "proc/self/status")
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .is_none_or(|set| set & CAP_SYS_MODULE != 0);
    match may && program.permissions().mode() & ANY_EXECUTES != 0 {
        true => Ok(()),
        false => Err(ErrorKind::PermissionDenied.into()),
    }
}

/// Loads or unloads a module. One in use is not unloaded.
///
/// # Errors
/// `ResourceBusy`: it is in use. Otherwise those of running modprobe(8), with what it says.
pub(super) fn change(root: &Path, name: &str, to: &str) -> io::Result<()> {
    let mut command = Command::new(loader(root));
    if to == UNLOADED {
        let users = text(root, &format!("sys/module/{name}/refcnt"));
        if users != "0" {
            let why = format!("it is in use ({users}): connections would lose their keys");
            return Err(io::Error::new(ErrorKind::ResourceBusy, why));
        }
        command.arg("-r");
    }
    let output = command.arg(name).stdin(Stdio::null()).output()?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(io::Error::other(format!("modprobe: {}", said.trim())))
        }
    }
}

/// Only the first network namespace has the list of protocols, and a module that is built in may have no
/// directory.
fn is_loaded(root: &Path, name: &str) -> bool {
    let protocols = text(root, "proc/sys/net/ipv4/tcp_available_ulp");
    root.join("sys/module").join(name).exists()
        || protocols.split_ascii_whitespace().any(|it| it == name)
}

/// Whether depmod(8) has listed it for the kernel that runs.
fn is_installed(root: &Path, name: &str) -> bool {
    let release = text(root, "proc/sys/kernel/osrelease");
    if release.is_empty() || release.contains('/') {
        return false;
    }
    let list = text(root, &format!("lib/modules/{release}/modules.dep"));
    let is_it = |path: &str| {
        let file = path.rsplit('/').next().unwrap_or(path);
        file.split_once(".ko")
            .is_some_and(|(module, _)| module == name)
    };
    list.lines()
        .filter_map(|line| line.split(':').next())
        .any(is_it)
}

/// What the kernel itself runs when it wants a module.
fn loader(root: &Path) -> PathBuf {
    let named = text(root, "proc/sys/kernel/modprobe");
    let path = match named.strip_prefix('/') {
        Some(path) if !path.is_empty() => path,
        _ => "sbin/modprobe",
    };
    root.join(path)
}

fn text(root: &Path, path: &str) -> String {
    fs::read_to_string(root.join(path))
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

const ANY_EXECUTES: u32 = 0o111;
/// 1 << 16 (linux/capability.h).
const CAP_SYS_MODULE: u64 = 1 << 16;
