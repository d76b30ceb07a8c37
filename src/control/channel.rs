//! How a command reaches the process that serves a configuration file: a control socket.
//!
//! A socket and no pid file, because an answer comes back over it, and because it cannot outlive its
//! process or be another's. Its name is made of the configuration file's path and lies in the
//! abstract namespace (unix(7)), so that no directory has to be there, writable and cleaned up. That
//! namespace knows no permissions: each side asks the kernel whose the other is.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use aws_lc_rs::digest;

use super::supervise::Event;
use crate::sys::credentials;

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The exit code for whoever asked: 0 when it was done.
    pub code: u8,
    /// What there is to say, for people; may be empty.
    pub text: String,
}

/// Lets commands reach `events` over the control socket of the file at `path`, which is absolute.
///
/// # Errors
/// `AddrInUse` when another process serves the same file; otherwise what socket calls report.
pub(super) fn listen(path: &Path, events: Sender<Event>) -> io::Result<()> {
    let listener = UnixListener::bind_addr(&address(path)?)?;
    std::thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                // Who does not finish the exchange is told nothing more.
                drop(answer(connection, &events));
            }
        })?;
    Ok(())
}

/// Asks the process that serves the file at `path`, which is absolute, to read it again.
///
/// # Errors
/// `ConnectionRefused` when there is none; `PermissionDenied` when it is another user's.
pub fn reload(path: &Path) -> io::Result<Reply> {
    let mut connection = UnixStream::connect_addr(&address(path)?)?;
    let owner = credentials::peer_user_id(connection.as_fd())?;
    let own = credentials::user_id();
    if own != ROOT && owner != own && owner != ROOT {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    connection.set_read_timeout(Some(REPLY_WAIT))?;
    connection.write_all(RELOAD)?;
    let mut bytes = Vec::new();
    connection.take(REPLY_BYTES_MAX).read_to_end(&mut bytes)?;
    parse_reply(&bytes).ok_or_else(|| io::ErrorKind::PermissionDenied.into())
}

fn answer(mut connection: UnixStream, events: &Sender<Event>) -> io::Result<()> {
    let peer = credentials::peer_user_id(connection.as_fd())?;
    if peer != ROOT && peer != credentials::user_id() {
        tracing::warn!(user = peer, "a command of another user is refused");
        return Ok(());
    }
    connection.set_read_timeout(Some(COMMAND_WAIT))?;
    connection.set_write_timeout(Some(COMMAND_WAIT))?;
    let mut command = [0; RELOAD.len()];
    connection.read_exact(&mut command)?;
    let reply = match command == *RELOAD {
        true => {
            let (sender, reply) = channel();
            drop(events.send(Event::Reload(sender)));
            reply.recv().unwrap_or_else(|_| Reply {
                code: 1,
                text: "the process is stopping".to_owned(),
            })
        }
        false => Reply {
            code: 1,
            text: "unknown command".to_owned(),
        },
    };
    write!(connection, "{}\n{}", reply.code, reply.text)
}

fn parse_reply(bytes: &[u8]) -> Option<Reply> {
    let text = String::from_utf8_lossy(bytes);
    let (code, text) = text.split_once('\n')?;
    Some(Reply {
        code: code.parse().ok()?,
        text: text.to_owned(),
    })
}

/// A path may be longer than a socket's name; its digest never is.
fn address(path: &Path) -> io::Result<SocketAddr> {
    let digest = digest::digest(&digest::SHA256, path.as_os_str().as_bytes());
    let mut name = "portcullis-".to_owned();
    for byte in digest.as_ref() {
        // Writing to a String cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    SocketAddr::from_abstract_name(name)
}

const RELOAD: &[u8; 7] = b"reload\n";

const ROOT: u32 = 0;

/// For a whole command to come, or its reply to be taken.
const COMMAND_WAIT: Duration = Duration::from_secs(5);

/// Thousands of certificates are read within it.
const REPLY_WAIT: Duration = Duration::from_secs(120);

/// Far longer than what is wrong with any file.
const REPLY_BYTES_MAX: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// A path that no other test uses.
    fn path(name: &str) -> std::path::PathBuf {
        format!("/nowhere/{}/{name}", std::process::id()).into()
    }

    #[test]
    fn a_command_reaches_the_process_and_its_answer_comes_back() {
        let (sender, events) = channel();
        let path = path("answer");
        listen(&path, sender).unwrap();
        let supervisor = std::thread::spawn(move || {
            let Ok(Event::Reload(reply)) = events.recv() else {
                panic!("another event");
            };
            let text = "line one\nline two".to_owned();
            reply.send(Reply { code: 2, text }).unwrap();
        });
        let reply = reload(&path).unwrap();
        supervisor.join().unwrap();
        assert_eq!((reply.code, &*reply.text), (2, "line one\nline two"));
    }

    #[test]
    fn a_process_that_stops_says_so() {
        let (sender, events) = channel();
        let path = path("stopping");
        listen(&path, sender).unwrap();
        drop(events);
        assert_eq!(reload(&path).unwrap().code, 1);
    }

    #[test]
    fn one_process_owns_a_file_and_another_file_is_another_socket() {
        let (sender, _events) = channel();
        listen(&path("owned"), sender.clone()).unwrap();
        let twice = listen(&path("owned"), sender.clone()).unwrap_err();
        assert_eq!(twice.kind(), io::ErrorKind::AddrInUse);
        listen(&path("other"), sender).unwrap();
        let nobody = reload(&path("nobody")).unwrap_err();
        assert_eq!(nobody.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn what_is_no_command_gets_no_reload() {
        let (sender, events) = channel();
        let path = path("garbage");
        listen(&path, sender).unwrap();
        let mut connection = UnixStream::connect_addr(&address(&path).unwrap()).unwrap();
        connection.write_all(b"garbage").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "1\nunknown command");
        assert!(events.try_recv().is_err());
    }
}
