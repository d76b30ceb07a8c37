//! Other programs: started with a bound on their time, ended by their own process id.

use std::io::{Read, Write};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::wait::PATIENCE;

/// A program that the tests need, and the Debian package that brings it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    pub(crate) program: &'static str,
    package: &'static str,
}

/// The program under test.
pub(crate) const PORTCULLIS: Tool = Tool {
    program: env!("CARGO_BIN_EXE_portcullis"),
    package: "none: it is built here",
};
pub(crate) const CURL: Tool = Tool {
    program: "curl",
    package: "curl",
};
pub(crate) const OPENSSL: Tool = Tool {
    program: "openssl",
    package: "openssl",
};
pub(crate) const GNUTLS: Tool = Tool {
    program: "gnutls-cli",
    package: "gnutls-bin",
};
pub(crate) const H2LOAD: Tool = Tool {
    program: "h2load",
    package: "nghttp2-client",
};
pub(crate) const CHROMIUM: Tool = Tool {
    program: "chromium",
    package: "chromium",
};

pub(crate) const FIREFOX: Tool = Tool {
    program: "firefox-esr",
    package: "firefox-esr",
};
pub(crate) const CERTUTIL: Tool = Tool {
    program: "certutil",
    package: "libnss3-tools",
};
pub(crate) const PYTHON: Tool = Tool {
    program: "python3",
    package: "python3",
};
pub(crate) const NODE: Tool = Tool {
    program: "node",
    package: "nodejs",
};
pub(crate) const GO: Tool = Tool {
    program: "go",
    package: "golang-go",
};
pub(crate) const JAVA: Tool = Tool {
    program: "java",
    package: "default-jdk-headless",
};
pub(crate) const SLOWHTTPTEST: Tool = Tool {
    program: "slowhttptest",
    package: "slowhttptest",
};
pub(crate) const NGHTTP: Tool = Tool {
    program: "nghttp",
    package: "nghttp2-client",
};
pub(crate) const WGET: Tool = Tool {
    program: "wget",
    package: "wget",
};
pub(crate) const NGHTTPD: Tool = Tool {
    program: "nghttpd",
    package: "nghttp2-server",
};
/// Debian's own: another would not find what Debian's packages bring.
pub(crate) const DEBIAN_PYTHON: Tool = Tool {
    program: "/usr/bin/python3",
    package: "python3-h2, python3-grpcio and python3-websockets",
};
/// Debian keeps it where only root looks for programs.
pub(crate) const NGINX: Tool = Tool {
    program: "/usr/sbin/nginx",
    package: "nginx-light",
};
pub(crate) const HAPROXY: Tool = Tool {
    program: "/usr/sbin/haproxy",
    package: "haproxy",
};
pub(crate) const PRLIMIT: Tool = Tool {
    program: "prlimit",
    package: "util-linux",
};
pub(crate) const UNSHARE: Tool = Tool {
    program: "unshare",
    package: "util-linux",
};

/// [`CHROMIUM`] without a screen, that loads nothing but what it is told to.
pub(crate) fn quiet_chromium() -> Command {
    let mut command = CHROMIUM.command();
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]);
    command
}

/// What a program that has ended leaves behind.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

/// A program under way, with both of its outputs collected as they come.
pub(crate) struct Running {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
}

/// One output of a program under way.
pub(crate) struct Output {
    chunks: Receiver<Vec<u8>>,
    /// Everything so far.
    pub(crate) bytes: Vec<u8>,
    reader: Option<JoinHandle<()>>,
}

impl Tool {
    /// A command that runs this tool.
    pub(crate) fn command(self) -> Command {
        Command::new(self.program)
    }

    /// Runs it to its end.
    pub(crate) fn run<'a>(self, arguments: impl IntoIterator<Item = &'a str>) -> Finished {
        let mut command = self.command();
        command.args(arguments);
        self.start(&mut command).finish()
    }

    /// Starts `command`, which runs this tool.
    pub(crate) fn start(self, command: &mut Command) -> Running {
        let name = format!("{command:?}");
        let started = command
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        match started {
            Ok(child) => Running::new(name, child),
            Err(error) => panic!(
                "cannot start {}: {error}; Debian's package {} has it",
                self.program, self.package
            ),
        }
    }
}

impl Finished {
    /// Its standard output as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Its standard error as text.
    pub(crate) fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Itself, if it ended well.
    pub(crate) fn success(self) -> Self {
        assert!(
            self.status.success(),
            "{}\n{}\n{}",
            self.status,
            self.text(),
            self.errors()
        );
        self
    }
}

impl Running {
    fn new(name: String, mut child: Child) -> Self {
        let stdout: ChildStdout = child.stdout.take().unwrap();
        let stderr: ChildStderr = child.stderr.take().unwrap();
        Self {
            name,
            stdin: child.stdin.take(),
            child,
            stdout: Output::collect(stdout),
            stderr: Output::collect(stderr),
        }
    }

    /// Writes to its standard input.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(bytes).unwrap();
        stdin.flush().unwrap();
    }

    /// Ends its standard input.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits for its end; its standard input ends first.
    pub(crate) fn finish(mut self) -> Finished {
        self.close_stdin();
        self.stdout.read_to_end(&self.name);
        self.stderr.read_to_end(&self.name);
        // Both outputs are closed: it is gone or about to go, unless it misbehaves on purpose.
        let status = wait_for(&mut self.child)
            .unwrap_or_else(|| panic!("{} closed its outputs and runs on", self.name));
        Finished {
            status,
            stdout: std::mem::take(&mut self.stdout.bytes),
            stderr: std::mem::take(&mut self.stderr.bytes),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Output {
    fn collect(mut source: impl Read + Send + 'static) -> Self {
        let (sender, chunks) = channel();
        let reader = std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(length @ 1..) = source.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            chunks,
            bytes: Vec::new(),
            reader: Some(reader),
        }
    }

    /// Waits until everything so far satisfies `is_enough`.
    pub(crate) fn read_until(&mut self, what: &str, is_enough: impl Fn(&[u8]) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_enough(&self.bytes) {
            match self.next(deadline) {
                Ok(chunk) => self.bytes.extend(chunk),
                Err(why) => panic!("{what}: {why:?} after {}", self.shown()),
            }
        }
    }

    /// Waits until `text` was printed.
    pub(crate) fn read_until_text(&mut self, text: &str) {
        self.read_until(text, |bytes| find(bytes, text.as_bytes()).is_some());
    }

    fn read_to_end(&mut self, name: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.next(deadline) {
                Ok(chunk) => self.bytes.extend(chunk),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!(
                        "{name} runs after {PATIENCE:?}; it printed {}",
                        self.shown()
                    )
                }
            }
        }
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
    }

    fn next(&self, deadline: Instant) -> Result<Vec<u8>, RecvTimeoutError> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.chunks.recv_timeout(left)
    }

    fn shown(&self) -> String {
        let end = &self.bytes[self.bytes.len().saturating_sub(2000)..];
        String::from_utf8_lossy(end).into_owned()
    }
}

/// Where `wanted` begins in `bytes`.
pub(crate) fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, wanted)
}

/// Waits for the end of `child`, `None` when that takes too long.
pub(crate) fn wait_for(child: &mut Child) -> Option<ExitStatus> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match child.try_wait().unwrap() {
            Some(status) => return Some(status),
            None if Instant::now() >= deadline => return None,
            None => std::thread::park_timeout(Duration::from_millis(10)),
        }
    }
}
