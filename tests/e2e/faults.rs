//! What goes wrong outside: peers that vanish or send nonsense, files that change under the server,
//! descriptors that run out. Each costs one connection at most, and leaves nothing behind.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustls::AlertDescription;

use crate::support::Policy;
use crate::support::client::{Client, Ending, Manner, TLS12, TLS13, Versions, content_length};
use crate::support::files::{KIB, MIB, assert_same_bytes, content, write_content};
use crate::support::for_each_policy;
use crate::support::process::{PRLIMIT, UNSHARE};
use crate::support::server::{Counters, Server, Setup};
use crate::support::wait::{PATIENCE, until_some};
use crate::support_faults::{Leave, assert_closed_silently, at_rest, sealed, wait_until_taken};

for_each_policy!(
    a_peer_that_leaves_is_forgotten,
    nothing_is_left_of_two_hundred_faults,
    records_in_pieces_are_put_together,
    a_flipped_bit_ends_the_connection_with_an_alert,
    an_end_without_close_notify_is_counted,
    connections_leave_descriptors_for_files,
    without_descriptors_those_connected_are_served,
    a_panic_ends_its_own_connection_only,
    a_file_truncated_while_it_is_sent_cuts_its_connection,
    an_edited_file_is_fresh_within_a_second,
    a_cold_file_is_served_whole,
    an_overlay_leaks_no_descriptor,
);

/// How far a connection has come when its client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Connected,
    /// Half a ClientHello was sent.
    MidClientHello,
    /// The server's flight was read, the client's Finished was not sent.
    BeforeFinished,
    MidRecord,
    MidHead,
    MidBody,
    /// A response fills the connection, because the client does not read.
    MidResponse,
}

impl Step {
    const ALL: [Self; 7] = [
        Self::Connected,
        Self::MidClientHello,
        Self::BeforeFinished,
        Self::MidRecord,
        Self::MidHead,
        Self::MidBody,
        Self::MidResponse,
    ];

    /// Goes as far as this and leaves.
    fn leave(self, server: &Server, versions: Versions, leave: Leave) {
        let manner = Manner {
            versions,
            receive_buffer_bytes: (self == Self::MidResponse).then_some(16 * KIB),
            ..Manner::default()
        };
        let socket = match self {
            Self::Connected => manner.connect_tcp(server.address),
            Self::MidClientHello => {
                let mut socket = manner.connect_tcp(server.address);
                let hello = manner.client_hello();
                socket.write_all(&hello[..hello.len() / 2]).unwrap();
                wait_until_taken(&socket);
                socket
            }
            Self::BeforeFinished => before_finished(&manner, server),
            Self::MidRecord => {
                let mut client = manner.connect(server);
                let record = sealed(&mut client, b"GET /1k HTTP/1.1\r\n");
                client
                    .socket
                    .write_all(&record[..record.len() / 2])
                    .unwrap();
                wait_until_taken(&client.socket);
                client.socket
            }
            Self::MidHead => sending(&manner, server, b"GET /1k HTTP/1.1\r\nHost: loc"),
            Self::MidBody => sending(
                &manner,
                server,
                b"POST /1k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf ",
            ),
            Self::MidResponse => {
                let mut client = manner.connect(server);
                client.ask("/8m");
                client.wait_until_full();
                client.socket
            }
        };
        leave.end(socket);
    }

    /// What the server counts for it: failed handshakes, requests, errors of clients.
    fn counted(self, leave: Leave) -> [u64; 3] {
        match (self, leave) {
            (Self::Connected, _) => [0, 0, 0],
            (Self::MidClientHello | Self::BeforeFinished, _) => [1, 0, 1],
            // Not a byte of a request was there.
            (Self::MidRecord, _) => [0, 0, 0],
            (Self::MidHead, _) => [0, 0, 1],
            (Self::MidBody, _) => [0, 1, 1],
            // A client that has ended its direction still gets its response.
            (Self::MidResponse, Leave::Fin) => [0, 1, 0],
            (Self::MidResponse, Leave::Reset) => [0, 1, 1],
        }
    }
}

fn a_peer_that_leaves_is_forgotten(policy: Policy) {
    let server = fault_server(policy);
    let before = at_rest(&server, 0);
    for step in Step::ALL {
        for leave in Leave::ALL {
            for (versions, version) in [(TLS13, "1.3"), (TLS12, "1.2")] {
                let counters = server.counters();
                step.leave(&server, versions, leave);
                server.wait_for_counter("connections_closed", counters["connections_closed"] + 1);
                let now = server.counters();
                let found = ["handshakes_failed", "requests", "errors_client"]
                    .map(|name| now.since(&counters, name));
                let what = format!("{step:?} by {leave:?} in TLS {version}");
                assert_eq!(found, step.counted(leave), "{what}");
                assert_eq!(now["errors_us"], 0, "{what}");
                server.wait_for_holdings(before);
            }
        }
    }
    assert_eq!(Client::connect(&server).get("/1k").status(), 200);
}

fn nothing_is_left_of_two_hundred_faults(policy: Policy) {
    let mut server = fault_server(policy);
    server.expect_panics();
    // The first round fills pools and caches, which stay.
    mixed_faults(&server, FAULTS);
    let before = at_rest(&server, 0);
    let resident = server.resident_bytes();
    for _ in 0..2 {
        let counters = server.counters();
        mixed_faults(&server, FAULTS);
        server.wait_for_holdings(before);
        let now = server.counters();
        let faults = FAULTS as u64;
        assert_eq!(now.since(&counters, "connections_accepted"), faults);
        assert_eq!(now.since(&counters, "connections_closed"), faults);
    }
    let grown = server.resident_bytes().saturating_sub(resident);
    assert!(
        grown <= RESIDENT_GROWTH_BYTES_MAX,
        "{grown} bytes of memory are left of {} faults",
        2 * FAULTS
    );
    assert_eq!(Client::connect(&server).get("/1k").status(), 200);
}

/// `count` faults of every kind in turn, most of them over before the next begins.
fn mixed_faults(server: &Server, count: usize) {
    let kinds = Step::ALL.len() * Leave::ALL.len();
    for number in 0..count {
        let versions = if number.is_multiple_of(2) {
            TLS13
        } else {
            TLS12
        };
        match number % (kinds + 2) {
            0 if cfg!(debug_assertions) => {
                let mut client = Client::connect(server);
                client.ask(PANIC);
                client.read_to_ending();
            }
            0 | 1 => {
                flip_a_bit(server, versions);
            }
            kind => {
                let (step, leave) = ((kind - 2) / 2, (kind - 2) % 2);
                Step::ALL[step].leave(server, versions, Leave::ALL[leave]);
            }
        }
    }
}

fn records_in_pieces_are_put_together(policy: Policy) {
    let server = fault_server(policy);
    for versions in [TLS13, TLS12] {
        let manner = Manner {
            versions,
            ..Manner::default()
        };
        let mut slow = manner.connect(&server);
        let mut other = manner.connect(&server);
        let record = sealed(&mut slow, b"GET /1k HTTP/1.1\r\nHost: localhost\r\n\r\n");
        // Within the header, after it, and without the last byte.
        for piece in [0..1, 1..4, 4..5, 5..6, 6..record.len() - 1] {
            slow.socket.write_all(&record[piece]).unwrap();
            wait_until_taken(&slow.socket);
        }
        // A record that is not whole keeps nobody else waiting.
        assert_eq!(other.get("/1k").status(), 200);
        slow.socket.write_all(&record[record.len() - 1..]).unwrap();
        let response = slow.read_response();
        assert_same_bytes(&response.body, content(KIB), "after a record in pieces");
        // Two records and a half in one segment.
        let mut records = sealed(&mut slow, b"GET /1k HTTP/1.1\r\n");
        records.extend(sealed(&mut slow, b"Host: localhost\r\n\r\n"));
        let last = sealed(&mut slow, b"GET /1k HTTP/1.1\r\nHost: localhost\r\n\r\n");
        records.extend(&last[..last.len() / 2]);
        slow.socket.write_all(&records).unwrap();
        assert_eq!(slow.read_response().status(), 200);
        slow.socket.write_all(&last[last.len() / 2..]).unwrap();
        assert_eq!(slow.read_response().status(), 200);
        slow.close_notify();
        assert_eq!(slow.read_to_ending(), Ending::CloseNotify);
    }
    assert_eq!(server.counters()["errors_client"], 0);
}

/// RFC 8446 5.2, RFC 5246 7.2.2: a record that does not open is answered with bad_record_mac.
fn a_flipped_bit_ends_the_connection_with_an_alert(policy: Policy) {
    let server = fault_server(policy);
    let before = at_rest(&server, 0);
    for versions in [TLS13, TLS12] {
        let counters = server.counters();
        let alert = Ending::Alert(AlertDescription::BadRecordMac);
        assert_eq!(flip_a_bit(&server, versions), alert);
        server.wait_for_holdings(before);
        assert_eq!(server.counters().since(&counters, "errors_client"), 1);
    }
}

/// A request whose record has one bit wrong; how the server takes it.
fn flip_a_bit(server: &Server, versions: Versions) -> Ending {
    let manner = Manner {
        versions,
        ..Manner::default()
    };
    let mut client = manner.connect(server);
    assert_eq!(client.get("/1k").status(), 200);
    let mut record = sealed(&mut client, b"GET /1k HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let middle = record.len() / 2;
    record[middle] ^= 0x10;
    client.socket.write_all(&record).unwrap();
    client.read_to_ending()
}

fn an_end_without_close_notify_is_counted(policy: Policy) {
    let server = fault_server(policy);
    for versions in [TLS13, TLS12] {
        let manner = Manner {
            versions,
            ..Manner::default()
        };
        for (notifies, expected) in [(true, 0), (false, 1)] {
            let counters = server.counters();
            let mut client = manner.connect(&server);
            assert_eq!(client.get("/1k").status(), 200);
            if notifies {
                client.close_notify();
            }
            client.truncate();
            assert_eq!(client.read_to_ending(), Ending::CloseNotify);
            server.wait_for_counter("connections_closed", counters["connections_closed"] + 1);
            let now = server.counters();
            assert_eq!(now.since(&counters, "closed_without_notify"), expected);
            assert_eq!(now.since(&counters, "errors_client"), 0);
        }
    }
}

/// Connections are bounded so that files can still be opened for those there are.
fn connections_leave_descriptors_for_files(policy: Policy) {
    let server = Setup::new(policy)
        .workers(1)
        .descriptors_max(DESCRIPTORS_MAX)
        .start();
    server.write_content("1k", KIB);
    server.write_content("unknown", MIB);
    let mut connected = Client::connect(&server);
    assert_eq!(connected.get("/1k").status(), 200);
    let before = at_rest(&server, 1);
    let mut flood = Vec::new();
    until_some("the worker is full", || {
        flood.push(Manner::default().connect_tcp(server.address));
        (server.counters()["refused_worker_full"] > 0).then_some(())
    });
    assert_closed_silently(Manner::default().connect_tcp(server.address));
    assert_eq!(connected.get("/1k").status(), 200);
    assert_eq!(connected.get("/unknown").status(), 200);
    assert_eq!(server.counters()["accept_paused_descriptors"], 0);
    drop(flood);
    // The file stays open.
    let after = at_rest(&server, 1);
    assert_eq!(after.descriptors, before.descriptors + 1);
    assert_eq!(Client::connect(&server).get("/unknown").status(), 200);
}

/// They can run out all the same: the limit is lowered under the running server.
fn without_descriptors_those_connected_are_served(policy: Policy) {
    let server = fault_server(policy);
    server.write_content("unknown", MIB);
    let mut connected = Client::connect(&server);
    assert_eq!(connected.get("/1k").status(), 200);
    let before = at_rest(&server, 1);
    limit_descriptors(&server, free_behind_reserve(&server));
    // A connection made now is closed: its client learns that it is not served.
    assert_closed_silently(Manner::default().connect_tcp(server.address));
    server.wait_for_counter("accept_paused_descriptors", 1);
    // What needs a descriptor is refused for now, and not said to be missing. So is a cached file
    // once it has to be looked at again, which takes a descriptor too.
    assert_eq!(connected.get("/unknown").status(), 503);
    assert!(matches!(connected.get("/1k").status(), 200 | 503));
    limit_descriptors(&server, 1024);
    assert_eq!(connected.get("/1k").status(), 200);
    let response = Client::connect(&server).get("/unknown");
    assert_same_bytes(&response.body, content(MIB), "after the lack");
    // The file stays open; others were given up for want of descriptors.
    let after = at_rest(&server, 1);
    assert!(
        after.descriptors <= before.descriptors + 1,
        "{after:?} after {before:?}"
    );
}

/// The lowest free number behind the descriptor that a worker keeps in reserve. Those before it are taken,
/// one by a thread that waits in accept(2), where it does not show yet.
fn free_behind_reserve(server: &Server) -> usize {
    let folder = format!("/proc/{}/fd", server.id());
    let open: BTreeMap<usize, PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let number = entry.file_name().to_str().unwrap().parse().unwrap();
            (number, fs::read_link(entry.path()).unwrap())
        })
        .collect();
    let reserve = open
        .iter()
        .rfind(|(_, target)| *target == Path::new("/dev/null"));
    let (&reserve, _) = reserve.unwrap();
    (reserve..)
        .find(|number| !open.contains_key(number))
        .unwrap()
}

/// Sets how many descriptors `server` may have from now on.
fn limit_descriptors(server: &Server, count: usize) {
    let limit = format!("--nofile={count}:");
    PRLIMIT
        .run(["--pid", &server.id().to_string(), &limit])
        .success();
}

/// Only debug builds have the path that panics.
#[cfg(debug_assertions)]
fn a_panic_ends_its_own_connection_only(policy: Policy) {
    let mut server = fault_server(policy);
    server.expect_panics();
    let mut other = Client::connect(&server);
    assert_eq!(other.get("/1k").status(), 200);
    let mut downloading = Manner {
        receive_buffer_bytes: Some(16 * KIB),
        ..Manner::default()
    }
    .connect(&server);
    downloading.ask("/8m");
    downloading.wait_until_full();
    let before = at_rest(&server, 2);
    for panics in 1..=20 {
        let mut victim = Client::connect(&server);
        assert_eq!(victim.get("/1k").status(), 200);
        victim.ask(PANIC);
        let (bytes, ending) = victim.read_rest();
        assert!(bytes.is_empty());
        assert!(
            matches!(ending, Ending::Truncated | Ending::Reset),
            "{ending:?}"
        );
        assert_eq!(other.get("/1k").status(), 200);
        server.wait_for_counter("connection_panics", panics);
    }
    server.wait_for_holdings(before);
    let response = downloading.read_response();
    assert_same_bytes(&response.body, content(8 * MIB), "beside the panics");
}

#[cfg(not(debug_assertions))]
fn a_panic_ends_its_own_connection_only(policy: Policy) {
    let server = fault_server(policy);
    assert_eq!(Client::connect(&server).get(PANIC).status(), 404);
}

fn a_file_truncated_while_it_is_sent_cuts_its_connection(policy: Policy) {
    let server = fault_server(policy);
    server.write_content("shrinks", 64 * MIB);
    let before = at_rest(&server, 0);
    for (number, versions) in [TLS13, TLS12].into_iter().enumerate() {
        server.write_content("shrinks", 64 * MIB);
        let mut client = Manner {
            versions,
            receive_buffer_bytes: Some(16 * KIB),
            ..Manner::default()
        }
        .connect(&server);
        let mut bystander = Client::connect(&server);
        client.ask("/shrinks");
        client.wait_until_full();
        let file = OpenOptions::new()
            .write(true)
            .open(server.path("root/shrinks"))
            .unwrap();
        file.set_len(32 * MIB as u64 + 1).unwrap();
        let head = client.read_head();
        assert_eq!(content_length(&head), 64 * MIB);
        let (body, ending) = client.read_rest();
        assert!(
            matches!(ending, Ending::Truncated | Ending::Reset),
            "{ending:?}"
        );
        assert!(body.len() <= 32 * MIB + 1, "{} bytes", body.len());
        assert_same_bytes(&body, content(body.len()), "what is left of the file");
        assert_eq!(bystander.get("/1k").status(), 200);
        let counters = server.counters();
        assert_eq!(counters["files_truncated"], 1 + number as u64);
        assert_eq!(counters["errors_us"], 1 + number as u64);
        assert_eq!(counters["connection_panics"], 0);
    }
    // The cache may keep the file open.
    until_some("what the server holds", || {
        let after = server.holdings();
        let is_back =
            after.connections == before.connections && after.descriptors <= before.descriptors + 1;
        is_back.then_some(())
    });
}

fn an_edited_file_is_fresh_within_a_second(policy: Policy) {
    let server = fault_server(policy);
    // Cached content and a cached descriptor.
    for size in [KIB, 100 * KIB] {
        let name = format!("/edited-{size}");
        let path = server.path("root").join(&name[1..]);
        let mut edits = 0;
        let mut edit = |replaces: bool, length: usize| {
            edits += 1;
            let new = &content(length + edits)[edits..];
            if replaces {
                let beside = server.path("root/beside");
                fs::write(&beside, new).unwrap();
                fs::rename(&beside, &path).unwrap();
            } else {
                OpenOptions::new()
                    .write(true)
                    .open(&path)
                    .unwrap()
                    .write_all_at(new, 0)
                    .unwrap();
            }
            new.to_vec()
        };
        let mut old = edit(true, size);
        let mut client = Client::connect(&server);
        assert_same_bytes(&client.get(&name).body, &old, "the first content");
        for (replaces, length) in [(false, size), (true, size), (true, size / 2), (true, size)] {
            let new = edit(replaces, length);
            let what = format!("replaces: {replaces}, {length} bytes");
            wait_until_fresh(&mut client, &name, &old, &new, &what);
            old = new;
        }
        fs::remove_file(&path).unwrap();
        let start = Instant::now();
        while client.get(&name).status() != 404 {
            assert!(
                start.elapsed() < FRESH_WITHIN,
                "a removed file is still served"
            );
        }
    }
}

/// Asks until the answer is `new`; until then it is `old` and nothing between.
fn wait_until_fresh(client: &mut Client, name: &str, old: &[u8], new: &[u8], what: &str) {
    let edited = Instant::now();
    loop {
        let asked = edited.elapsed();
        let body = client.get(name).body;
        if body == new {
            return;
        }
        assert_same_bytes(&body, old, what);
        assert!(
            asked <= FRESH_WITHIN,
            "{what}: stale {asked:?} after the edit"
        );
    }
}

fn a_cold_file_is_served_whole(policy: Policy) {
    // Where memory is not the only store, as it is for what a lab kernel may write.
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).ok();
    let mut setup = Setup::new(policy).workers(1);
    if let Some(disk) = &disk {
        setup = setup.below(disk.path());
    }
    let server = setup.start();
    // Looking whether a file is cold begins to warm it, so another one tells.
    let probe = server.path("root/probe");
    write_cold(&probe, 10 * KIB);
    let is_cold = !is_in_memory(&probe);
    assert!(
        is_cold || disk.is_none(),
        "what is written to {probe:?} cannot be dropped from memory"
    );
    // What is kept as bytes is read by the open, and what is not, chunk by chunk; by sendfile the
    // kernel reads ahead of each chunk, and the worker may meet none that is cold.
    let large: &[&str] = match policy {
        Policy::Never => &["file_chunks_cold"],
        Policy::Auto | Policy::Always => &["file_opens_cold", "file_chunks_cold"],
    };
    for (name, size, counted) in [
        ("small", 10 * KIB, &["file_opens_cold"][..]),
        ("large", 8 * MIB + 1, large),
    ] {
        let path = server.path("root").join(name);
        write_cold(&path, size);
        let counters = server.counters();
        let mut client = Client::connect(&server);
        assert_same_bytes(&client.get(&format!("/{name}")).body, content(size), name);
        let now = server.counters();
        let cold: u64 = counted.iter().map(|name| now.since(&counters, name)).sum();
        assert_eq!(cold > 0, is_cold, "{name}: {cold} of {counted:?}");
        // The descriptor is cached; its pages go once more.
        drop_from_memory(&path);
        assert_same_bytes(&client.get(&format!("/{name}")).body, content(size), name);
    }
}

/// A file of which the page cache has nothing, as far as its file system has anything behind it.
fn write_cold(path: &Path, size: usize) {
    write_content(path, size);
    drop_from_memory(path);
}

#[expect(unsafe_code, reason = "posix_fadvise(2) has no equivalent in std")]
fn drop_from_memory(path: &Path) {
    let file = File::open(path).unwrap();
    // Pages that are not written yet stay.
    file.sync_all().unwrap();
    // SAFETY: posix_fadvise(2) takes an open descriptor and integers.
    let result = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    assert_eq!(result, 0);
}

#[expect(unsafe_code, reason = "preadv2(2) has no equivalent in std")]
fn is_in_memory(path: &Path) -> bool {
    let file = File::open(path).unwrap();
    let mut byte = 0_u8;
    let buffer = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    // SAFETY: one buffer of one byte, which is `byte` and outlives the call.
    let read =
        unsafe { libc::preadv2(file.as_raw_fd(), &raw const buffer, 1, 0, libc::RWF_NOWAIT) };
    read == 1
}

/// On overlayfs closing a file is an operation that can be cancelled, and a cancelled one leaks the
/// descriptor. The test starts itself again in a mount namespace of its own, where it may mount.
fn an_overlay_leaks_no_descriptor(policy: Policy) {
    if let Some(folder) = std::env::var_os(OVERLAY) {
        return open_many(policy, Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    // The upper layer's file system must have what an overlay needs of one, and tmpfs has.
    let script = "mount -t tmpfs upper \"$0\" && cd \"$0\" && mkdir lower upper work merged && \
                  mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged && \
                  cd / && exec \"$@\"";
    let mut command = UNSHARE.command();
    if !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
        .args(["--mount", "sh", "-c", script])
        .arg(folder.path());
    command.arg(std::env::current_exe().unwrap());
    command.args([
        &format!("faults::an_overlay_leaks_no_descriptor::{}", policy.name()),
        "--exact",
        "--nocapture",
    ]);
    command.env(OVERLAY, folder.path().join("merged"));
    let finished = UNSHARE.start(&mut command).finish().success();
    assert!(finished.text().contains("1 passed"), "{}", finished.text());
}

fn open_many(policy: Policy, folder: &Path) {
    let server = Setup::new(policy)
        .workers(1)
        .below(folder)
        .table(
            "limits",
            &format!("open_files_per_worker_max = {OPEN_FILES_MAX}"),
        )
        .start();
    // Half of them are kept as bytes, half as descriptors.
    let size = |number: usize| {
        if number.is_multiple_of(2) {
            KIB
        } else {
            20 * KIB
        }
    };
    for number in 0..OVERLAY_FILES {
        server.write_content(&number.to_string(), size(number));
    }
    let mut client = Client::connect(&server);
    assert_eq!(client.get("/0").status(), 200);
    let before = server.descriptors();
    for number in 0..OVERLAY_FILES {
        let response = client.get(&format!("/{number}"));
        assert_same_bytes(&response.body, content(size(number)), "from the overlay");
    }
    until_some("the descriptors are closed", || {
        (server.descriptors() <= before + OPEN_FILES_MAX).then_some(())
    });
    // Sockets are closed there as everywhere.
    let before = at_rest(&server, 1);
    for _ in 0..50 {
        assert_eq!(Client::connect(&server).get("/0").status(), 200);
    }
    server.wait_for_holdings(before);
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;

    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A server with one worker, so that all connections share it, whose file cache is warm.
fn fault_server(policy: Policy) -> Server {
    let server = Setup::new(policy).workers(1).start();
    server.write_content("1k", KIB);
    server.write_content("8m", 8 * MIB);
    let mut client = Client::connect(&server);
    assert_eq!(client.get("/1k").status(), 200);
    assert_eq!(client.get("/8m").status(), 200);
    client.close_notify();
    assert_eq!(client.read_to_ending(), Ending::CloseNotify);
    let is_idle =
        |counters: &Counters| counters["connections_accepted"] == counters["connections_closed"];
    until_some("the first connection is closed", || {
        is_idle(&server.counters()).then_some(())
    });
    server
}

/// A connection that has sent `bytes`, and a server that waits for more.
fn sending(manner: &Manner, server: &Server, bytes: &[u8]) -> std::net::TcpStream {
    let mut client = manner.connect(server);
    client.send(bytes);
    wait_until_taken(&client.socket);
    client.socket
}

/// A connection whose client has read the server's flight and not answered it.
fn before_finished(manner: &Manner, server: &Server) -> std::net::TcpStream {
    let name = manner.name.try_into().unwrap();
    let mut tls = rustls::ClientConnection::new(manner.config(), name).unwrap();
    let mut socket = manner.connect_tcp(server.address);
    while tls.wants_write() {
        tls.write_tls(&mut socket).unwrap();
    }
    // The library has its answer ready once the flight is whole.
    while !tls.wants_write() {
        tls.read_tls(&mut socket).unwrap();
        tls.process_new_packets().unwrap();
    }
    wait_until_taken(&socket);
    socket
}

/// The path at which debug builds panic.
const PANIC: &str = "/.portcullis-test/panic";

const FAULTS: usize = 200;

/// What the allocator keeps, here and there: pages of a few connections that were open at once, which
/// come and go by megabytes. A connection that stayed would hold descriptors and a slot as well.
const RESIDENT_GROWTH_BYTES_MAX: usize = 4 * MIB;

/// Enough for a server with one worker and a few connections.
const DESCRIPTORS_MAX: u64 = 96;

/// What is promised, and what a request may take on a busy machine.
const FRESH_WITHIN: Duration = Duration::from_millis(1000 + 250);

const OVERLAY_FILES: usize = 300;

const OPEN_FILES_MAX: usize = 16;

/// Where the overlay is, in the test that runs inside its namespace.
const OVERLAY: &str = "E2E_OVERLAY";

const _: () = assert!(PATIENCE.as_millis() > 10 * FRESH_WITHIN.as_millis());
