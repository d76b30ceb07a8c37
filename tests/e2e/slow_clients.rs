//! Attacks by slowness, as slowhttptest carries them out: those who are slow are closed and counted, and
//! meanwhile everybody else is served.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::proxying::backend::Backend;
use crate::support::Policy;
use crate::support::client::Client;
use crate::support::files::{KIB, MIB};
use crate::support::process::SLOWHTTPTEST;
use crate::support::server::{Server, Setup};
use crate::support::wait::until_equal;

/// Slowloris: a head that grows by a field each second and never ends.
#[test]
fn heads_that_never_end() {
    let server = setup("header_ms = 1000").start();
    let grow = ["-H", "-i", "1", "-l", UNTIL_CLOSED_S];
    attack(&server, "/1k", &grow, ("timeouts_header", CONNECTIONS));
}

/// R-U-Dead-Yet: a body that comes drop by drop, to somebody who waits for it.
#[test]
fn bodies_that_drip() {
    let backend = Backend::start();
    // The tool's probe asks for an echo of nothing, which the backend waits for in vain.
    let upstream = format!(
        "name = \"app\"\n[[upstream.server]]\naddress = \"tcp://{}\"\n\
         [upstream.http]\nbetween_bytes_ms = 1000",
        backend.address
    );
    let server = setup("body_ms = 1000")
        .table("[site.route]", "prefix = \"/echo\"\nupstream = \"app\"")
        .table("[upstream]", &upstream)
        .start();
    let drip = ["-B", "-i", "1", "-s", "100000", "-l", UNTIL_CLOSED_S];
    attack(&server, "/echo", &drip, ("timeouts_body", CONNECTIONS));
}

/// A reader with a window of a few bytes, who takes them one by one.
#[test]
fn readers_that_hardly_read() {
    let server = setup("send_progress_ms = 1000").start();
    server.write_content("16m", 16 * MIB);
    // It reads on from what has arrived long after the connection has been closed.
    let sip = [
        "-X", "-w", "10", "-y", "20", "-n", "1", "-z", "16", "-l", "8",
    ];
    attack(&server, "/16m", &sip, ("timeouts_send", CONNECTIONS / 2));
}

fn setup(timeout: &str) -> Setup {
    Setup::new(Policy::Auto)
        .workers(1)
        .table("timeouts", timeout)
        .table("timeouts", "linger_ms = 500")
}

/// Attacks `path` with slowhttptest in the `mode`. At least so many of its connections are to be counted
/// by that counter, and all are to be closed.
fn attack(server: &Server, path: &str, mode: &[&str], (counter, least): (&str, u64)) {
    server.write_content("1k", KIB);
    let url = server.url(path);
    let connections = CONNECTIONS.to_string();
    let common = ["-c", &connections, "-r", &connections, "-u", &url];
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let well_behaved = scope.spawn(|| {
            let mut served = 0;
            while !is_over.load(Ordering::Relaxed) {
                let mut client = Client::connect(server);
                for _ in 0..10 {
                    assert_eq!(client.get("/1k").status(), 200);
                    served += 1;
                }
                std::thread::sleep(PACE);
            }
            served
        });
        let attacked = {
            let _over = SetOnDrop(&is_over);
            let arguments = mode.iter().copied().chain(common);
            let report = SLOWHTTPTEST.run(arguments).success().text();
            server.wait_for_counter(counter, least);
            report
        };
        assert!(well_behaved.join().unwrap() > 0);
        assert!(attacked.contains("service available:"), "{attacked}");
        assert!(!attacked.contains("NO"), "{attacked}");
    });
    // Files and connections to servers behind may be kept for longer.
    until_equal("open connections", &0, || server.holdings().connections);
}

/// Whatever becomes of the attack, the well-behaved client ends.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

const CONNECTIONS: u64 = 40;

/// Between two connections of the well-behaved client, so that it does not compete with the attack for
/// the processor.
const PACE: Duration = Duration::from_millis(20);

/// The tool ends as soon as all of its connections are closed, long before this.
const UNTIL_CLOSED_S: &str = "40";
