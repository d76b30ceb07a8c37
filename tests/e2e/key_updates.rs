//! KeyUpdates (RFC 8446 4.6.3) from the client, with and without a request for the server's, at rest
//! and in the middle of a transfer; and the server's own when a key is used up.
//!
//! User space always can. A kernel before 6.14 cannot change a key it was given: such a connection
//! ends with an alert, never with a silence that looks like a lost connection.

use portcullis::limits::KEY_UPDATES_PER_WINDOW_MAX;
use portcullis::proto::h2::frame::put_window_update;
use rustls::AlertDescription;

use crate::support::Policy;
use crate::support::client::{Ending, Manner, TLS13, content_length};
use crate::support::files::{KIB, MIB, assert_same_bytes, content};
use crate::support::for_each_policy;
use crate::support::http2::Http2;
use crate::support::kernel::{KernelTls, TlsStatistics, kernel_tls};
use crate::support::process::{OPENSSL, Running};
use crate::support::server::{Server, Setup};

for_each_policy!(
    by_openssl,
    by_openssl_with_a_request,
    during_a_download,
    during_many_streams,
    too_many,
);

fn by_openssl(policy: Policy) {
    at_rest(policy, "k\n");
}

fn by_openssl_with_a_request(policy: Policy) {
    at_rest(policy, "K\n");
}

/// Sends two KeyUpdates between requests, the first before anything else, or behind a request where the
/// answers are not asked for.
fn at_rest(policy: Policy, command: &str) {
    let server = server(policy);
    let before = TlsStatistics::read();
    let mut client = OpensslClient::start(&server);
    let begins_with_it = command == "K\n";
    if !begins_with_it {
        client.get_text("/text");
    }
    client.update_key(command);
    if policy == Policy::Always && kernel_tls() == KernelTls::WithoutRekey {
        client.expect_alert();
        return;
    }
    client.get_text("/text");
    client.update_key(command);
    client.get_text("/text");
    let counters = server.counters();
    assert_eq!(counters["key_updates_received"], 2);
    let answered = if command == "K\n" { 2 } else { 0 };
    assert_eq!(counters["key_updates_sent"], answered);
    if policy == Policy::Always && kernel_tls() == KernelTls::WithRekey {
        let after = TlsStatistics::read();
        // One that comes with the end of the handshake may have been opened in user space.
        let received = after.since(&before, "TlsRxRekeyOk");
        let is_certain = received == 2;
        assert!(
            is_certain || (begins_with_it && received == 1),
            "{received}"
        );
        assert_eq!(after.since(&before, "TlsTxRekeyOk"), answered);
    }
}

/// The client asks for new keys while the server sends 64 MiB and cannot go on because nobody reads.
fn during_a_download(policy: Policy) {
    let server = server(policy);
    let before = TlsStatistics::read();
    let manner = Manner {
        versions: TLS13,
        receive_buffer_bytes: Some(64 * KIB),
        ..Manner::default()
    };
    let mut client = manner.connect(&server);
    client.ask("/64m");
    client.wait_until_full();
    let length = content_length(&client.read_head());
    let mut body = Vec::new();
    for _ in 0..UPDATES {
        client.read_into(&mut body, 2 * MIB);
        client.wait_until_full();
        client.tls.refresh_traffic_keys().unwrap();
        client.flush().unwrap();
        if policy != Policy::Never && kernel_tls() == KernelTls::WithoutRekey {
            let (_, ending) = client.read_rest();
            assert!(matches!(ending, Ending::Alert(_)), "{ending:?}");
            return;
        }
    }
    let left = length - body.len();
    client.read_into(&mut body, left);
    assert_same_bytes(&body, content(64 * MIB), "the download");
    assert_eq!(client.get("/1k").body, content(KIB));
    assert_updated(&server, policy, &before);
}

/// Each of the client's updates was answered by one, by the kernel where it had the connection.
fn assert_updated(server: &Server, policy: Policy, before: &TlsStatistics) {
    let counters = server.counters();
    assert_eq!(counters["key_updates_received"], UPDATES);
    assert_eq!(counters["key_updates_sent"], UPDATES);
    if policy != Policy::Never && kernel_tls() == KernelTls::WithRekey {
        let after = TlsStatistics::read();
        assert_eq!(after.since(before, "TlsTxRekeyOk"), UPDATES);
        assert_eq!(after.since(before, "TlsTxSw"), 1);
    }
}

/// The same over HTTP/2, in the middle of frames of several streams.
fn during_many_streams(policy: Policy) {
    let server = Setup::new(policy).start();
    server.write_content("4m", 4 * MIB);
    let before = TlsStatistics::read();
    let manner = Manner {
        versions: TLS13,
        receive_buffer_bytes: Some(64 * KIB),
        ..Manner::default()
    };
    let window = 0x7fff_ffff;
    let mut client = Http2::connect(&manner, &server, &[(4, window)]);
    let mut update = Vec::new();
    put_window_update(0, window - 65_535, &mut update);
    client.push(&update);
    client.opens_windows = false;
    let fields = [(":method", "GET"), (":path", "/4m"), ("priority", "u=3, i")];
    let streams = [0; 4].map(|_| client.ask_with(&fields, true));
    client.flush().unwrap();
    let heard_bytes = |client: &Http2| -> usize {
        let streams = streams.iter();
        streams.map(|id| client.streams[id].body.len()).sum()
    };
    for _ in 0..UPDATES {
        let enough = heard_bytes(&client) + 2 * MIB;
        client.hear(|client| heard_bytes(client) >= enough).unwrap();
        client.client.wait_until_full();
        client.client.tls.refresh_traffic_keys().unwrap();
        client.flush().unwrap();
        if policy != Policy::Never && kernel_tls() == KernelTls::WithoutRekey {
            let ending = client.hear_the_end();
            assert!(matches!(ending, Ending::Alert(_)), "{ending:?}");
            return;
        }
    }
    client.hear_all();
    for stream in streams {
        let heard = &client.streams[&stream];
        assert_eq!((heard.status, heard.reset), (Some(200), None));
        assert_same_bytes(&heard.body, content(4 * MIB), "a stream");
    }
    assert_updated(&server, policy, &before);
}

/// Each KeyUpdate costs the server more than the client: a flood of them ends the connection.
fn too_many(policy: Policy) {
    let server = server(policy);
    let before = server.holdings();
    let mut client = Manner {
        versions: TLS13,
        ..Manner::default()
    }
    .connect(&server);
    let ending = loop {
        client.tls.refresh_traffic_keys().unwrap();
        let answered = client.flush().and_then(|()| {
            client.tls.read_tls(&mut client.socket)?;
            let processed = client.tls.process_new_packets();
            processed.map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))
        });
        if let Err(error) = answered {
            break Ending::of(&error);
        }
    };
    if policy == Policy::Always && kernel_tls() == KernelTls::WithoutRekey {
        // What the kernel cannot open is left in the socket, so a reset may overtake the alert.
        let alert = Ending::Alert(AlertDescription::InternalError);
        assert!(ending == alert || ending == Ending::Reset, "{ending:?}");
    } else {
        assert_eq!(ending, Ending::Alert(AlertDescription::UnexpectedMessage));
        let received = server.counters()["key_updates_received"];
        // More only where the flood takes longer than a window.
        let least = u64::from(KEY_UPDATES_PER_WINDOW_MAX);
        assert!((least..=64).contains(&received), "{received} were taken");
    }
    drop(client);
    server.wait_for_holdings(before);
}

/// openssl's interactive client.
struct OpensslClient {
    running: Running,
    responses: usize,
}

impl OpensslClient {
    fn start(server: &Server) -> Self {
        let mut command = OPENSSL.command();
        command.args([
            "s_client",
            "-tls1_3",
            "-servername",
            "localhost",
            "-verify_return_error",
        ]);
        command.args(["-CAfile", &server.authority()]);
        command.args(["-connect", &server.address.to_string()]);
        let mut running = OPENSSL.start(&mut command);
        running.stdout.read_until_text("Verify return code: 0");
        Self {
            running,
            responses: 0,
        }
    }

    /// A line that begins with `k` or `K` is a command, if it is all that one read(2) brings: it is
    /// written by itself, when the last one has been seen to work.
    fn update_key(&mut self, command: &str) {
        let seen = self.updates();
        self.running.write(command.as_bytes());
        self.running
            .stderr
            .read_until("KEYUPDATE", |bytes| count(bytes, b"KEYUPDATE") > seen);
    }

    fn updates(&self) -> usize {
        count(&self.running.stderr.bytes, b"KEYUPDATE")
    }

    fn get_text(&mut self, path: &str) {
        self.running
            .write(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        self.responses += 1;
        let wanted = self.responses;
        self.running
            .stdout
            .read_until(path, |bytes| count(bytes, TEXT) == wanted);
    }

    /// The server ends the connection and says so.
    fn expect_alert(mut self) {
        self.running.stderr.read_until_text("alert");
    }
}

fn server(policy: Policy) -> Server {
    let server = Setup::new(policy).start();
    std::fs::write(server.path("root/text"), TEXT).unwrap();
    server.write_content("1k", KIB);
    server.write_content("64m", 64 * MIB);
    server
}

fn count(bytes: &[u8], wanted: &[u8]) -> usize {
    memchr::memmem::find_iter(bytes, wanted).count()
}

/// A body that appears nowhere else in openssl's output.
const TEXT: &[u8] = b"the text that was asked for";

/// Fewer than the server takes in ten seconds.
const UPDATES: u64 = 4;
