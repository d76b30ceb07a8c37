//! A configuration that is exchanged while connections go on.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::Policy;
use crate::support::certificates::{self, KeyKind};
use crate::support::client::{Client, Ending, Manner};
use crate::support::files::{MIB, assert_same_bytes, content};
use crate::support::for_each_policy;
use crate::support::process::{Finished, OPENSSL, PORTCULLIS};
use crate::support::server::{Server, Setup};
use crate::support::wait::until_some;

for_each_policy!(a_reload_loses_no_connection);

/// Connections come and go, one stays, and one downloads, while the configuration changes and
/// changes again.
fn a_reload_loses_no_connection(policy: Policy) {
    let server = Setup::new(policy).start();
    server.write_content("1k", 1024);
    server.write_content("16m", 16 * MIB);
    let mut kept = Client::connect(&server);
    assert_eq!(kept.get("/1k").status(), 200);
    let mut download = Client::connect(&server);
    download.ask("/16m");
    let head = download.read_head();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");

    let is_over = AtomicBool::new(false);
    let served = std::thread::scope(|scope| {
        let connect_again_and_again = || {
            let mut served = 0;
            while !is_over.load(Ordering::Relaxed) {
                let mut client = Client::connect(&server);
                for _ in 0..3 {
                    assert_eq!(client.get("/1k").status(), 200);
                }
                served += 1;
            }
            served
        };
        let loops: Vec<_> = (0..3)
            .map(|_| scope.spawn(connect_again_and_again))
            .collect();
        for round in 0..RELOADS {
            let (old, new) = (Some(round).filter(|n| *n > 0), round + 1);
            edit(&server, |text| {
                let text = match old {
                    Some(old) => text.replace(&format!("max_age_s = {old}\n"), ""),
                    None => text.replace("[offload]", "[site.hsts]\n[offload]"),
                };
                text.replace(
                    "[site.hsts]\n",
                    &format!("[site.hsts]\nmax_age_s = {new}\n"),
                )
            });
            reload(&server).success();
        }
        is_over.store(true, Ordering::Relaxed);
        loops
            .into_iter()
            .map(|served| served.join().unwrap())
            .sum::<u64>()
    });
    assert!(served > 0);

    // The new configuration is for new connections: those from before keep theirs.
    let last = format!("max-age={RELOADS}");
    let fresh = Client::connect(&server).get("/1k");
    assert_eq!(fresh.field("strict-transport-security"), Some(&*last));
    let old = kept.get("/1k");
    assert_eq!(old.status(), 200);
    assert_eq!(old.field("strict-transport-security"), None);
    let mut body = Vec::new();
    download.read_into(&mut body, 16 * MIB);
    assert_same_bytes(&body, content(16 * MIB), "the download");
    let counters = server.counters();
    assert_eq!(counters["reloads"], RELOADS);
    assert_eq!(counters["errors_us"], 0);
    assert_eq!(counters["errors_client"], 0);
    // As few descriptors as one that was never reloaded: none of a generation that is gone is left.
    drop((kept, download));
    server.wait_for_counter("connections_closed", counters["connections_accepted"]);
}

#[test]
fn what_cannot_be_used_is_refused_as_check_refuses_it() {
    let server = Setup::new(Policy::Auto).start();
    server.write_content("1k", 1024);
    edit(&server, |text| text.replace("policy = ", "polcy = "));
    let refused = reload(&server);
    assert_eq!(refused.status.code(), Some(2), "{}", refused.errors());
    let config = config_file(&server);
    let checked = PORTCULLIS.run(["check", "--config", &config]);
    assert_eq!(refused.errors(), checked.errors());
    assert!(refused.errors().contains("did you mean `policy`?"));
    server.wait_for_log("did you mean `policy`?");
    assert_eq!(Client::connect(&server).get("/1k").status(), 200);

    edit(&server, |text| text.replace("polcy = ", "policy = "));
    edit(&server, |text| {
        // RFC 5737: no interface has it.
        text.replace(
            "[[site]]",
            "[[listener]]\naddress = \"192.0.2.1:443\"\n[[site]]",
        )
    });
    let refused = reload(&server);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.errors());
    assert!(refused.errors().contains("no interface of this machine"));
    assert_eq!(Client::connect(&server).get("/1k").status(), 200);
    let counters = server.counters();
    assert_eq!((counters["reloads"], counters["reloads_refused"]), (0, 2));
}

#[test]
fn sighup_reloads_too() {
    let server = Setup::new(Policy::Auto).start();
    server.write_content("1k", 1024);
    edit(&server, |text| {
        text.replace("[offload]", "[site.hsts]\n[offload]")
    });
    server.signal(libc::SIGHUP);
    server.wait_for_counter("reloads", 1);
    let response = Client::connect(&server).get("/1k");
    assert!(response.field("strict-transport-security").is_some());
}

#[test]
fn without_a_process_a_reload_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nobody.toml");
    let refused = PORTCULLIS.run(["reload", "--config", path.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.errors().contains("no process serves"));
}

#[test]
fn listeners_come_and_go() {
    let server = Setup::new(Policy::Auto).start();
    server.write_content("1k", 1024);
    let before = server.descriptors();
    let second = "[[listener]]\naddress = \"127.0.0.3:0\"\n";
    edit(&server, |text| {
        text.replacen("[[site]]", &format!("{second}[[site]]"), 1)
    });
    let report = reload(&server).success().text();
    let address = address_in(&report, "listening on https://127.0.0.3:");
    // The first listener has kept its port, which the kernel chose.
    assert_eq!(
        address_in(&report, "listening on https://127.0.0.1:"),
        server.address
    );
    let mut kept = connect_to(&server, address);
    assert_eq!(kept.get("/1k").status(), 200);

    edit(&server, |text| text.replace(second, ""));
    reload(&server).success();
    until_some("the vanished address refuses connections", || {
        std::net::TcpStream::connect(address).err()
    });
    // Who is connected is not concerned.
    assert_eq!(kept.get("/1k").status(), 200);
    assert_eq!(Client::connect(&server).get("/1k").status(), 200);
    drop(kept);
    until_some("its descriptors are closed", || {
        (server.descriptors() <= before).then_some(())
    });
}

#[test]
fn a_vanishing_listener_serves_those_in_its_queue() {
    let server = Setup::new(Policy::Auto).start();
    server.write_content("1k", 1024);
    let second = "[[listener]]\naddress = \"127.0.0.3:0\"\n";
    edit(&server, |text| {
        text.replacen("[[site]]", &format!("{second}[[site]]"), 1)
    });
    let report = reload(&server).success().text();
    let address = address_in(&report, "listening on https://127.0.0.3:");
    edit(&server, |text| text.replace(second, ""));
    // While the process stands still the kernel goes on to fill the queues.
    server.signal(libc::SIGSTOP);
    let manner = Manner::default();
    let queued: Vec<_> = (0..20).map(|_| manner.connect_tcp(address)).collect();
    server.signal(libc::SIGHUP);
    server.signal(libc::SIGCONT);
    for socket in queued {
        let mut client = manner.establish(socket).unwrap();
        assert_eq!(client.get("/1k").status(), 200);
    }
    server.wait_for_counter("reloads", 2);
}

#[test]
fn a_listener_changes_what_it_speaks() {
    let server = Setup::new(Policy::Auto).with_redirect().start();
    server.write_content("1k", 1024);
    let redirect = server.redirect.unwrap();
    edit(&server, |text| {
        text.replace("service = \"redirect\"\nredirect_port = 8443\n", "")
    });
    let report = reload(&server).success().text();
    assert_eq!(
        address_in(&report, "listening on https://127.0.0.2:"),
        redirect
    );
    assert_eq!(connect_to(&server, redirect).get("/1k").status(), 200);
}

#[test]
fn what_needs_a_restart_is_named() {
    let server = Setup::new(Policy::Auto).workers(2).start();
    edit(&server, |text| text.replace("count = 2", "count = 3"));
    let report = reload(&server).success().text();
    assert!(report.contains("workers.count"), "{report}");
    server.wait_for_log("workers.count has changed: it takes effect at the next start");
}

#[test]
fn sessions_outlive_a_reload() {
    let server = Setup::new(Policy::Auto).start();
    server.write_content("1k", 1024);
    let session = server.path("session.pem");
    let session = session.to_str().unwrap();
    let connect = |option| {
        let (address, authority) = (server.address.to_string(), server.authority());
        let mut command = OPENSSL.command();
        command
            .args(["s_client", "-connect", &address, "-CAfile", &authority])
            .args([
                "-servername",
                "localhost",
                "-tls1_3",
                "-ign_eof",
                option,
                session,
            ]);
        let mut running = OPENSSL.start(&mut command);
        running.write(b"GET /1k HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        running.finish().text()
    };
    assert!(connect("-sess_out").contains("New, TLSv1.3"));
    reload(&server).success();
    let next = connect("-sess_in");
    assert!(next.contains("Reused, TLSv1.3"), "{next}");
}

#[test]
fn certificates_follow_their_files() {
    let server = Setup::new(Policy::Auto).start();
    server.write_content("1k", 1024);
    let mut kept = Client::connect(&server);
    let first = leaf_of(&kept);
    assert_eq!(kept.get("/1k").status(), 200);

    let renewed = certificates::leaf(KeyKind::P256, &["localhost"]);
    // Without its key the certificate is no use, and the old pair stays.
    fs::write(server.path("0.pem"), &renewed.chain).unwrap();
    server.wait_for_counter("certificates_refused", 1);
    assert_eq!(leaf_of(&Client::connect(&server)), first);
    fs::write(server.path("0.key"), &renewed.key).unwrap();
    server.wait_for_counter("certificates_reloaded", 1);
    let second = until_some("the new certificate is served", || {
        Some(leaf_of(&Client::connect(&server))).filter(|leaf| *leaf != first)
    });
    assert_ne!(second, first);
    assert_eq!(kept.get("/1k").status(), 200);
    kept.close_notify();
    assert_eq!(kept.read_to_ending(), Ending::CloseNotify);
    let counters = server.counters();
    assert_eq!(counters["certificates_reloaded"], 1);
    assert_eq!(counters["certificates_refused"], 1);
}

/// Rewrites the configuration file in one step.
pub(crate) fn edit(server: &Server, change: impl FnOnce(String) -> String) {
    let file = server.path("portcullis.toml");
    let before = fs::read_to_string(&file).unwrap();
    let after = change(before.clone());
    assert_ne!(after, before, "the edit changes nothing");
    let new = server.path("portcullis.new");
    fs::write(&new, after).unwrap();
    fs::rename(new, file).unwrap();
}

pub(crate) fn reload(server: &Server) -> Finished {
    let mut command: Command = PORTCULLIS.command();
    command.args(["reload", "--config", &config_file(server)]);
    PORTCULLIS.start(&mut command).finish()
}

fn config_file(server: &Server) -> String {
    let path = server.path("portcullis.toml");
    path.into_os_string().into_string().unwrap()
}

fn connect_to(server: &Server, address: SocketAddr) -> Client {
    let manner = Manner::default();
    let client = manner.establish(manner.connect_tcp(address));
    client.unwrap_or_else(|error| panic!("{address} of process {}: {error}", server.id()))
}

/// The address in the line of `report` that begins with `label`, of which its IP is a part.
fn address_in(report: &str, label: &str) -> SocketAddr {
    let line = report.lines().find(|line| line.starts_with(label));
    let line = line.unwrap_or_else(|| panic!("no {label:?} in {report}"));
    let (_, address) = line.split_once("://").unwrap();
    let address = address.split_ascii_whitespace().next().unwrap();
    address.parse().unwrap()
}

fn leaf_of(client: &Client) -> Vec<u8> {
    client.tls.peer_certificates().unwrap()[0].to_vec()
}

const RELOADS: u64 = 20;
