use std::time::Duration;

use super::*;
use crate::config::{Balance, Ejection, HealthCheck};

fn shared(servers: usize, change: impl FnOnce(&mut Upstream)) -> Arc<Shared> {
    let server = |index: usize| UpstreamServer {
        address: UpstreamAddress::Ip(([192, 0, 2, u8::try_from(index).unwrap()], 80).into()),
        weight: 1,
        connections_max: None,
    };
    let mut config = Upstream {
        name: "app".to_owned(),
        balance: Balance::RoundRobin,
        servers: (0..servers).map(server).collect(),
        connect: Upstream::CONNECT_DEFAULT,
        slow_start: Duration::ZERO,
        ejection: Ejection::default(),
        resolve: Upstream::RESOLVE_DEFAULT,
        hash_key: Default::default(),
        proxy_protocol: None,
        tls: None,
        http: Default::default(),
        health: Some(HealthCheck::default()),
    };
    change(&mut config);
    Arc::new(Shared::new(Arc::new(config), None))
}

fn go_down(shared: &Shared, server: usize, now: Instant) {
    for _ in 0..HealthCheck::default().fall {
        shared.on_check(server, false, now);
    }
}

fn servers(group: &Group, now: Instant, times: usize) -> Vec<usize> {
    let mut counts = vec![0; group.config().servers.len()];
    for _ in 0..times {
        counts[group.pick(None, &[], now).unwrap().server()] += 1;
    }
    counts
}

#[test]
fn places_are_counted_over_workers_and_given_back() {
    let shared = shared(1, |config| config.servers[0].connections_max = Some(2));
    let (one, other) = (Group::new(shared.clone()), Group::new(shared.clone()));
    let now = Instant::now();
    let first = one.pick(None, &[], now).unwrap();
    let second = other.pick(None, &[], now).unwrap();
    assert_eq!(shared.open(0), 2);
    assert_eq!(one.pick(None, &[], now).unwrap_err(), NoServer::Full);
    drop(first);
    let third = other.pick(None, &[], now).unwrap();
    drop((second, third));
    assert_eq!(shared.open(0), 0);
}

#[test]
fn places_are_never_more_than_allowed_however_many_threads_want_them() {
    let shared = shared(2, |config| {
        config.servers[0].connections_max = Some(3);
        config.servers[1].connections_max = Some(4);
    });
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let group = Group::new(shared.clone());
                let now = Instant::now();
                for round in 0..2000 {
                    let leases: Vec<_> = (0..round % 5)
                        .filter_map(|_| group.pick(None, &[], now).ok())
                        .collect();
                    for lease in &leases {
                        let held = leases
                            .iter()
                            .filter(|l| l.server() == lease.server())
                            .count();
                        assert!(held <= 3 + lease.server());
                    }
                }
            });
        }
    });
    assert_eq!((shared.open(0), shared.open(1)), (0, 0));
}

#[test]
fn a_server_that_checks_say_is_down_gets_nothing() {
    let shared = shared(3, |_| {});
    let group = Group::new(shared.clone());
    let now = Instant::now();
    go_down(&shared, 1, now);
    assert!(!shared.is_up(1));
    let counts = servers(&group, now, 30);
    assert_eq!(counts, [15, 0, 15]);
    go_down(&shared, 0, now);
    go_down(&shared, 2, now);
    assert_eq!(group.pick(None, &[], now).unwrap_err(), NoServer::Down);
    assert_eq!(metrics::of_this_thread(Counter::UpstreamServersDown), 3);
    for _ in 0..HealthCheck::default().rise {
        shared.on_check(1, true, now);
    }
    assert_eq!(servers(&group, now, 3), [0, 3, 0]);
}

#[test]
fn a_failing_server_is_left_out_for_a_while_and_then_tried() {
    let shared = shared(2, |_| {});
    let group = Group::new(shared.clone());
    let now = Instant::now();
    let failing = loop {
        let lease = group.pick(None, &[], now).unwrap();
        if lease.server() == 0 {
            break lease;
        }
    };
    for _ in 0..3 {
        failing.its_server().report_failure(Step::Connect, now, now);
    }
    assert!(shared.is_ejected(0, now));
    assert_eq!(servers(&group, now, 10), [0, 10]);
    let later = now + Duration::from_secs(11);
    assert_eq!(servers(&group, later, 10), [5, 5]);
    failing
        .its_server()
        .report_failure(Step::Connect, later, later);
    assert!(shared.is_ejected(0, later + Duration::from_secs(19)));
    failing
        .its_server()
        .report_success(Step::Connect, later, later);
    assert!(!shared.is_ejected(0, later));
}

#[test]
fn servers_that_fail_are_better_than_none() {
    let shared = shared(1, |_| {});
    let group = Group::new(shared.clone());
    let now = Instant::now();
    let lease = group.pick(None, &[], now).unwrap();
    for _ in 0..3 {
        lease.its_server().report_failure(Step::Connect, now, now);
    }
    assert!(shared.is_ejected(0, now));
    assert!(group.pick(None, &[], now).is_ok());
}

#[test]
fn a_server_that_is_only_full_is_waited_for_before_a_failing_one_is_used() {
    let shared = shared(2, |config| config.servers[0].connections_max = Some(1));
    let group = Group::new(shared.clone());
    let now = Instant::now();
    let failing = group.pick(None, &[0], now).unwrap();
    for _ in 0..3 {
        failing
            .its_server()
            .report_failure(Step::Exchange, now, now);
    }
    let place = group.pick(None, &[], now).unwrap();
    assert_eq!(place.server(), 0);
    assert_eq!(group.pick(None, &[], now).unwrap_err(), NoServer::Full);
    assert_eq!(group.pick(None, &[0], now).unwrap().server(), 1);
}

#[test]
fn what_was_tried_is_not_tried_again() {
    let group = Group::new(shared(3, |_| {}));
    let now = Instant::now();
    let mut tried = Vec::new();
    for _ in 0..3 {
        let lease = group.pick(Some(b"key"), &tried, now).unwrap();
        assert!(!tried.contains(&lease.server()));
        tried.push(lease.server());
    }
    let none = group.pick(Some(b"key"), &tried, now).unwrap_err();
    assert_eq!(none, NoServer::Tried);
}

#[test]
fn a_server_that_comes_back_starts_slowly() {
    let shared = shared(2, |config| config.slow_start = Duration::from_secs(10));
    let group = Group::new(shared.clone());
    let now = Instant::now();
    assert_eq!(servers(&group, now, 20), [10, 10], "nobody was away");
    go_down(&shared, 0, now);
    for _ in 0..HealthCheck::default().rise {
        shared.on_check(0, true, now);
    }
    let share = |seconds| servers(&group, now + Duration::from_secs(seconds), 110)[0];
    let (first, half, full) = (share(0), share(5), share(10));
    assert!((8..=12).contains(&first), "{first}");
    assert!((34..=38).contains(&half), "{half}");
    assert_eq!(full, 55);
}

#[test]
fn a_name_without_an_address_is_not_used_until_it_has_one() {
    let shared = shared(1, |config| {
        config.servers[0].address = UpstreamAddress::Name("a.test".to_owned(), 80);
    });
    let group = Group::new(shared.clone());
    let now = Instant::now();
    assert_eq!(group.pick(None, &[], now).unwrap_err(), NoServer::Down);
    shared.set_addresses(0, vec![([192, 0, 2, 1], 80).into()]);
    let lease = group.pick(None, &[], now).unwrap();
    assert_eq!(*lease.addresses(), [([192, 0, 2, 1], 80).into()]);
}
