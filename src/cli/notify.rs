//! Telling the service manager that the server serves (sd_notify(3), the protocol of systemd).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Tells the service manager, where there is one, that this process is ready. A manager that does not
/// hear it ends the process after a while, so a failure is worth a warning and no more.
pub(super) fn ready() {
    if let Err(error) = send(socket(), b"READY=1") {
        tracing::warn!(%error, "cannot tell the service manager that the server is ready");
    }
}

fn socket() -> Option<OsString> {
    std::env::var_os("NOTIFY_SOCKET")
}

fn send(socket: Option<OsString>, message: &[u8]) -> io::Result<()> {
    let Some(socket) = socket else {
        return Ok(());
    };
    let address = address(&socket)?;
    let sender = UnixDatagram::unbound()?;
    // A manager whose queue is full must not stop the start.
    sender.set_nonblocking(true)?;
    sender.send_to_addr(message, &address).map(drop)
}

/// A path, or after '@' a name in the abstract namespace.
fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(socket),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_hears_it_on_a_path_and_in_the_abstract_namespace() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("@portcullis-test-{}", std::process::id());
        for socket in [path.into_os_string(), name.into()] {
            let manager = UnixDatagram::bind_addr(&address(&socket).unwrap()).unwrap();
            send(Some(socket), b"READY=1").unwrap();
            let mut heard = [0; 64];
            let length = manager.recv(&mut heard).unwrap();
            assert_eq!(&heard[..length], b"READY=1");
        }
    }

    #[test]
    fn without_a_manager_nothing_is_said() {
        assert!(send(None, b"READY=1").is_ok());
        for nowhere in ["/nowhere/notify", "relative", ""] {
            assert!(send(Some(nowhere.into()), b"READY=1").is_err());
        }
    }
}
