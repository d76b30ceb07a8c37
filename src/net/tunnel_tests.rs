use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Instant;

use super::*;
use crate::net::deadline::Deadlines;
use crate::net::stream::testing::{Peer, Setup, between_two, pattern};

const LONG: TunnelTimes = TunnelTimes {
    idle: Duration::from_secs(3600),
    lifetime: None,
};
const FIRST: &[u8] = b"first";
const BYTES: usize = 300_000;

/// Carries between two connections whose far ends `peers` plays, on each driver, and gives how each
/// tunnel ended. `turns`: time passes by the minute.
fn carried(
    (client, upstream): (&Setup, &Setup),
    times: TunnelTimes,
    turns: bool,
    peers: impl Fn(Peer, Peer) + Sync,
) -> Vec<Result<TunnelEnd, Error>> {
    let ends = RefCell::new(Vec::new());
    between_two(
        (client, upstream),
        async |client, upstream, deadlines| {
            let clock = deadlines.register();
            if turns {
                rt::spawn(pass_time(deadlines.clone()));
            }
            let end = carry(client, upstream, FIRST, times, &clock).await;
            ends.borrow_mut().push(end);
        },
        peers,
    );
    ends.into_inner()
}

/// A minute a turn, and no turn more than a test needs.
async fn pass_time(deadlines: Deadlines) {
    let mut now = Instant::now();
    for _ in 0..300 {
        rt::yield_turn().await;
        now += Duration::from_secs(60);
        deadlines.turn(now);
    }
}

#[test]
fn each_direction_ends_by_itself_and_nothing_is_lost() {
    let data = pattern(BYTES);
    for client in [Setup::user(0), Setup::user(5), Setup::plain()] {
        let is_tls = client.suite.is_some();
        let ends = carried(
            (&client, &Setup::plain()),
            LONG,
            false,
            |mut client, mut upstream| {
                assert_eq!(upstream.receive_exactly(FIRST.len()), FIRST);
                for part in data.chunks(10_000) {
                    client.send(part);
                }
                assert!(upstream.receive_exactly(BYTES) == data);
                match is_tls {
                    true => client.send_alert(1, 0),
                    false => client.socket.shutdown(Shutdown::Write).unwrap(),
                }
                assert_eq!(upstream.socket.read(&mut [0; 1]).unwrap(), 0);
                // The other direction goes on.
                upstream.socket.write_all(&data).unwrap();
                upstream.socket.shutdown(Shutdown::Write).unwrap();
                assert!(client.receive_exactly(BYTES) == data);
                match is_tls {
                    true => client.expect_close_notify(),
                    false => assert_eq!(client.socket.read(&mut [0; 1]).unwrap(), 0),
                }
            },
        );
        for end in ends {
            assert_eq!(end.unwrap(), TunnelEnd::Complete);
        }
    }
}

/// More than the socket takes at once, behind which nothing comes before the client has all of it.
#[test]
fn a_rest_does_not_wait_for_what_comes_next() {
    let data = pattern(BYTES);
    let ends = carried(
        (&Setup::user(0).with_small_buffers(), &Setup::plain()),
        LONG,
        false,
        |mut client, mut upstream| {
            assert_eq!(upstream.receive_exactly(FIRST.len()), FIRST);
            for _ in 0..4 {
                upstream.socket.write_all(&data).unwrap();
                assert!(client.receive_exactly(BYTES) == data);
            }
            client.send_alert(1, 0);
            upstream.socket.shutdown(Shutdown::Write).unwrap();
            client.expect_close_notify();
        },
    );
    for end in ends {
        assert_eq!(end.unwrap(), TunnelEnd::Complete);
    }
}

#[test]
fn without_a_record_layer_here_bytes_are_spliced() {
    let data = pattern(BYTES);
    let before = metrics::of_this_thread(Counter::TunnelBytesSpliced);
    let plain = Setup::plain();
    let ends = carried((&plain, &plain), LONG, false, |mut client, mut upstream| {
        client.socket.write_all(&data).unwrap();
        client.socket.shutdown(Shutdown::Write).unwrap();
        upstream.receive_exactly(FIRST.len());
        assert!(upstream.receive_exactly(BYTES) == data);
        upstream.socket.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.socket.read(&mut [0; 1]).unwrap(), 0);
    });
    let drivers = ends.len() as u64;
    let spliced = metrics::of_this_thread(Counter::TunnelBytesSpliced) - before;
    assert_eq!(spliced, drivers * BYTES as u64);
}

#[test]
fn a_cut_is_passed_on_as_one() {
    let ends = carried(
        (&Setup::user(0), &Setup::plain()),
        LONG,
        false,
        |client, mut upstream| {
            upstream.receive_exactly(FIRST.len());
            client.socket.shutdown(Shutdown::Write).unwrap();
            let error = upstream.socket.read(&mut [0; 1]).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        },
    );
    for end in ends {
        assert_eq!(end.unwrap(), TunnelEnd::Truncated);
    }
}

#[test]
fn an_upstream_that_vanishes_is_to_blame_and_the_client_is_told() {
    let ends = carried(
        (&Setup::user(0), &Setup::plain()),
        LONG,
        false,
        |mut client, mut upstream| {
            upstream.receive_exactly(FIRST.len());
            let socket = socket2::SockRef::from(&upstream.socket);
            socket.set_linger(Some(Duration::ZERO)).unwrap();
            drop(upstream);
            client.expect_last_alert(2, 80);
        },
    );
    for end in ends {
        assert_eq!(end.unwrap_err().side, Side::Upstream);
    }
}

#[test]
fn a_tunnel_in_which_nothing_moves_ends_and_so_does_an_old_one() {
    let idle = TunnelTimes {
        idle: Duration::from_secs(600),
        lifetime: None,
    };
    let old = TunnelTimes {
        lifetime: Some(Duration::from_secs(600)),
        ..LONG
    };
    for (times, wanted) in [(idle, TunnelEnd::Idle), (old, TunnelEnd::Lifetime)] {
        let ends = carried(
            (&Setup::user(0), &Setup::plain()),
            times,
            true,
            |mut client, mut upstream| {
                upstream.receive_exactly(FIRST.len());
                client.expect_last_alert(2, 80);
                let error = upstream.socket.read(&mut [0; 1]).unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            },
        );
        for end in ends {
            assert_eq!(end.unwrap(), wanted);
        }
    }
}

#[test]
fn who_has_no_upstream_is_told_by_an_alert_or_a_reset() {
    for setup in [Setup::user(0), Setup::plain()] {
        let is_tls = setup.suite.is_some();
        crate::net::stream::testing::on_each_driver(
            &setup,
            async |served| {
                let transport = Rc::clone(served.transport());
                abort(&transport);
            },
            |mut client| match is_tls {
                true => client.expect_last_alert(2, 80),
                false => {
                    let error = client.socket.read(&mut [0; 1]).unwrap_err();
                    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                }
            },
        );
    }
}
