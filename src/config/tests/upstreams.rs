//! Upstreams, tunnels and passthroughs.

use super::*;

const UPSTREAM: &str =
    "[[upstream]]\nname = \"app\"\n[[upstream.server]]\naddress = \"tcp://127.0.0.1:80\"\n";

#[test]
fn upstreams_that_cannot_be() {
    for (marked, what, remedy) in [
        (
            "«[[upstream]]»\n[[upstream.server]]\naddress = \"tcp://127.0.0.1:80\"".to_owned(),
            "no `name`",
            "name = ",
        ),
        (
            UPSTREAM.replace("\"app\"", "«\"a b\"»"),
            "no name for an upstream",
            "letters",
        ),
        (
            format!("{UPSTREAM}{}", UPSTREAM.replace("\"app\"", "«\"app\"»")),
            "another [[upstream]]",
            "of its own",
        ),
        (
            "«[[upstream]]»\nname = \"app\"".to_owned(),
            "has 0 servers",
            "[[upstream.server]]",
        ),
        (
            format!("{UPSTREAM}«[[upstream.server]]»\nweight = 2"),
            "no `address`",
            "unix:",
        ),
        (
            UPSTREAM.replace("\"tcp://127.0.0.1:80\"", "«\"127.0.0.1:80\"»"),
            "no server's address",
            "tcp://host:port",
        ),
    ] {
        if what == "does not know" {
            // The group has no server either: two problems, of which the first is looked at.
            let error = parse_text(&with_site(&marked.replace(['«', '»'], ""))).unwrap_err();
            assert!(error.problems()[0].message.contains(what), "{error}");
            assert!(error.problems()[0].remedy.contains(remedy), "{error}");
            continue;
        }
        refused(&with_site(&marked), what, remedy);
    }
}

#[test]
fn servers_and_checks_that_cannot_be() {
    for (marked, what, remedy) in [
        (
            UPSTREAM.replace("\"tcp://127.0.0.1:80\"", "«\"tcp://app\"»"),
            "no server's address",
            "tcp://app:8080",
        ),
        (
            UPSTREAM.replace(
                "\"tcp://127.0.0.1:80\"",
                &format!("«\"unix:{}\"»", "x".repeat(93)),
            ),
            "at most 107 bytes",
            "shorter",
        ),
        (
            format!("{UPSTREAM}[[upstream.server]]\naddress = «\"tcp://127.0.0.1:80\"»"),
            "already",
            "remove",
        ),
        (
            format!("{UPSTREAM}balance = «\"hsah\"»")
                .replace("[[upstream.server]]", "")
                .replace("address = \"tcp://127.0.0.1:80\"\n", ""),
            "does not know",
            "did you mean \"hash\"",
        ),
        (
            format!("{UPSTREAM}[upstream.health]\npath = «\"/\"»"),
            "does not speak HTTP",
            "kind = \"http\"",
        ),
        (
            format!("{UPSTREAM}[upstream.health]\nkind = \"http\"\npath = «\"x\"»"),
            "cannot be",
            "'/'",
        ),
        (
            format!("{UPSTREAM}[upstream.health]\nkind = \"http\"\nhost = «\"a b\"»"),
            "cannot be",
            "ASCII",
        ),
    ] {
        if what == "does not know" {
            // The group has no server either: two problems, of which the first is looked at.
            let error = parse_text(&with_site(&marked.replace(['«', '»'], ""))).unwrap_err();
            assert!(error.problems()[0].message.contains(what), "{error}");
            assert!(error.problems()[0].remedy.contains(remedy), "{error}");
            continue;
        }
        refused(&with_site(&marked), what, remedy);
    }
}

#[test]
fn upstreams_are_read_whole() {
    let text = with_site(
        "[[upstream]]\nname = \"app\"\nbalance = \"two-choices\"\nconnect_ms = 750\n\
         slow_start_ms = 1000\neject_failures = 0\neject_ms = 500\nresolve_s = 9\n\
         [[upstream.server]]\naddress = \"tcp://App.test:80\"\nweight = 3\nconnections_max = 5\n\
         [[upstream.server]]\naddress = \"unix:run/app.sock\"\n\
         [upstream.health]\nkind = \"http\"\npath = \"/x\"\nrise = 4\n\
         [[upstream]]\nname = \"b\"\n[[upstream.server]]\naddress = \"tcp://[::1]:1\"",
    );
    let loaded = parse_text(&text).unwrap();
    let [app, other] = &loaded.config.upstreams[..] else {
        panic!("{:?}", loaded.config.upstreams);
    };
    assert_eq!((app.name.as_str(), other.name.as_str()), ("app", "b"));
    assert_eq!(app.balance, Balance::TwoChoices);
    assert_eq!(app.connect, Duration::from_millis(750));
    assert_eq!(app.ejection.failures, None);
    assert_eq!(
        app.servers[0].address,
        UpstreamAddress::Name("app.test".to_owned(), 80)
    );
    assert_eq!(
        (app.servers[0].weight, app.servers[0].connections_max),
        (3, Some(5))
    );
    let UpstreamAddress::Unix(path) = &app.servers[1].address else {
        panic!("{:?}", app.servers[1]);
    };
    assert!(path.is_absolute() && path.ends_with("run/app.sock"));
    let health = app.health.as_ref().unwrap();
    let kind = HealthCheckKind::Http {
        path: "/x".to_owned(),
        host: "localhost".to_owned(),
    };
    assert_eq!((&health.kind, health.rise, health.fall), (&kind, 4, 3));
    assert_eq!(other.health, None);
    assert_eq!(other.servers[0].connections_max, None);
}

#[test]
fn tunnels_and_passthroughs_that_cannot_be() {
    let tunnel_site = |text: &str| site_without("root", &format!("{text}\n{UPSTREAM}"));
    for (marked, what, remedy) in [
        (
            tunnel_site("tunnel = «\"ap\"»"),
            "no [[upstream]]",
            "did you mean \"app\"?",
        ),
        (
            tunnel_site("tunnel = «\"zzz\"»"),
            "no [[upstream]]",
            "name = \"zzz\"",
        ),
        (
            tunnel_site("tunnel = \"app\"\nroot = «\"site\"»"),
            "through a tunnel",
            "remove `root`",
        ),
        (
            tunnel_site("tunnel = \"app\"\nindex = «[]»"),
            "through a tunnel",
            "remove `index`",
        ),
        (
            tunnel_site("tunnel = \"app\"\nalpn = [\"a\", «\"a\"»]"),
            "no further protocol",
            "once",
        ),
        (
            tunnel_site("tunnel = \"app\"\nalpn = [«\"\"»]"),
            "no further protocol",
            "255 bytes",
        ),
        (
            with_site("alpn = «[\"mqtt\"]»"),
            "speaks HTTP",
            "add `tunnel`",
        ),
        (
            format!(
                "{SITE}{UPSTREAM}[[listener]]\naddress = \"0.0.0.0:80\"\n\
                     service = \"redirect\"\ntunnel = «\"app\"»"
            ),
            "redirects",
            "remove `tunnel`",
        ),
    ] {
        refused(&marked, what, remedy);
    }
}

#[test]
fn passthroughs_that_cannot_be() {
    let with_passthrough = |text: &str| with_site(&format!("{UPSTREAM}[[passthrough]]\n{text}"));
    for (marked, what, remedy) in [
        (
            with_passthrough("names = [«\"a.test\"»]\nupstream = \"app\""),
            "a name in line 4 already",
            "remove",
        ),
        (
            with_passthrough("names = [\"b.test\"]\nupstream = «\"b\"»"),
            "no [[upstream]]",
            "add [[upstream]]",
        ),
        (
            with_passthrough("names = [\"b.test\"]")
                .replace("[[passthrough]]", "«[[passthrough]]»"),
            "no `upstream`",
            "upstream = \"app\"",
        ),
        (
            with_passthrough("names = «[]»\nupstream = \"app\""),
            "no `names`",
            "names = ",
        ),
        (
            with_passthrough(
                "names = [\"b.test\"]\nupstream = \"app\"\nalpn = [\"x\"]\ndefault = «true»",
            ),
            "only takes certain protocols",
            "remove `alpn`",
        ),
        (
            with_site(&format!(
                "default = true\n{UPSTREAM}[[passthrough]]\nnames = [\"b.test\"]\n\
                               upstream = \"app\"\ndefault = «true»"
            )),
            "is the default already",
            "one site or passthrough",
        ),
    ] {
        refused(&marked, what, remedy);
    }
}

#[test]
fn tunnels_and_passthroughs_are_read_whole() {
    let text = format!(
        "[[listener]]\naddress = \"0.0.0.0:1\"\ntunnel = \"b\"\nalpn = [\"x\"]\n{}{}\
         [[upstream]]\nname = \"b\"\n[[upstream.server]]\naddress = \"unix:/b\"\n\
         [[passthrough]]\nnames = [\"a.test\"]\nalpn = [\"acme-tls/1\"]\nupstream = \"app\"\n\
         [[passthrough]]\nnames = [\"c.test\"]\nupstream = \"b\"\ndefault = true\n\
         [timeouts]\ntunnel_lifetime_ms = 0\n",
        SITE.replace("root = \"site\"", "tunnel = \"app\"\nalpn = [\"mqtt\"]"),
        UPSTREAM,
    );
    let config = parse_text(&text).unwrap().config;
    let tunnel = Service::Tunnel {
        upstream: 1,
        alpn: vec!["x".to_owned()],
    };
    assert_eq!(config.listeners[0].service, tunnel);
    assert_eq!(config.sites[0].tunnel, Some(0));
    assert_eq!(config.sites[0].tls.alpn, Some(vec!["mqtt".to_owned()]));
    assert_eq!(config.passthroughs.len(), 2);
    assert_eq!(config.passthroughs[0].alpn, ["acme-tls/1"]);
    assert_eq!(
        (config.default_site, config.default_passthrough),
        (None, Some(1))
    );
    assert_eq!(config.timeouts.tunnel_lifetime, None);
    let only =
        format!("{LISTENER}{UPSTREAM}[[passthrough]]\nnames = [\"c.test\"]\nupstream = \"app\"");
    assert!(parse_text(&only).unwrap().config.sites.is_empty());
}

#[test]
fn tls_that_cannot_be() {
    let tls = |lines: &str| format!("{UPSTREAM}[upstream.tls]\n{lines}");
    let over_socket = UPSTREAM.replace("tcp://127.0.0.1:80", "unix:/run/app.sock");
    for (marked, what, remedy) in [
        (
            format!("{over_socket}«[upstream.tls]»"),
            "no name",
            "server_name = ",
        ),
        (
            tls("server_name = «\"*.a.test\"»"),
            "no server's name",
            "wildcard",
        ),
        (tls("server_name = «\"a.test:443\"»"), "has a port", "alone"),
        (tls("ca = «\"\"»"), "no path", "ca.pem"),
        (
            tls("certificate = «\"a.pem\"»"),
            "without its `key`",
            "add key",
        ),
        (
            tls("key = «\"a.key\"»"),
            "without its `certificate`",
            "add certificate",
        ),
        (tls("version_min = «\"1.1\"»"), "does not know", "known are"),
        (
            tls("alpn = [\"a\", «\"a\"»]"),
            "no further protocol",
            "once",
        ),
        (
            tls("ca = «\"a.pem\"»\ndanger_accept_any_certificate = true"),
            "takes no notice",
            "verified",
        ),
    ] {
        refused(&with_site(&marked), what, remedy);
    }
}

#[test]
fn tls_is_read_whole_and_carelessness_is_warned_of() {
    let text = with_site(&format!(
        "{UPSTREAM}[[upstream.server]]\naddress = \"tcp://App.test:1\"\n\
         [upstream.tls]\nca = \"ca.pem\"\ncertificate = \"c.pem\"\nkey = \"k.pem\"\n\
         version_min = \"1.3\"\nalpn = [\"mqtt\"]\n"
    ));
    let loaded = parse_text(&text).unwrap();
    let upstream = &loaded.config.upstreams[0];
    let tls = upstream.tls.as_ref().unwrap();
    let names: Vec<_> = upstream
        .servers
        .iter()
        .map(|server| tls.name_of(&server.address).unwrap())
        .collect();
    assert_eq!(names, ["127.0.0.1", "app.test"]);
    assert!(tls.verifies);
    assert_eq!(tls.alpn, ["mqtt"]);
    assert_eq!(tls.version_min, TlsVersion::Tls13);
    assert!(tls.identity.is_some());
    assert!(loaded.places.upstream(0).unwrap().authorities.is_some());
    assert_eq!(loaded.warnings, []);

    let careless = with_site(&format!(
        "{UPSTREAM}[upstream.tls]\ndanger_accept_any_certificate = true\n"
    ));
    let loaded = parse_text(&careless).unwrap();
    assert!(!loaded.config.upstreams[0].tls.as_ref().unwrap().verifies);
    let [warning] = &loaded.warnings[..] else {
        panic!("{:?}", loaded.warnings);
    };
    assert!(warning.to_string().contains("pretend"), "{warning}");
}

#[test]
fn http2_goes_by_whether_tls_is_spoken() {
    let with = |tls: &str, protocol: &str| {
        with_site(&format!(
            "{UPSTREAM}{tls}[upstream.http]\nprotocol = {protocol}\n"
        ))
    };
    let tls = "[upstream.tls]\nca = \"ca.pem\"\n";
    for (tls, protocol, expected) in [
        ("", "\"http/1.1\"", UpstreamProtocol::Http11),
        ("", "\"h2c\"", UpstreamProtocol::Http2),
        (tls, "\"http/1.1\"", UpstreamProtocol::Http11),
        (tls, "\"h2\"", UpstreamProtocol::Http2),
    ] {
        let config = parse_text(&with(tls, protocol)).unwrap().config;
        assert_eq!(config.upstreams[0].http.protocol, expected);
    }
    refused(&with("", "«\"h2\"»"), "in a TLS handshake", "\"h2c\"");
    refused(&with(tls, "«\"h2c\"»"), "without TLS", "\"h2\"");
    let introduced = UPSTREAM.replace(
        "[[upstream.server]]",
        "send_proxy_protocol = «\"v2\"»\n[[upstream.server]]",
    );
    let both = format!("{introduced}[upstream.http]\nprotocol = \"h2c\"\n");
    refused(&with_site(&both), "one client", "forwarded");
}

#[test]
fn proxies_in_front_that_cannot_be() {
    let listener = |lines: &str| {
        let text = with_site(UPSTREAM);
        text.replacen("[[listener]]\n", &format!("[[listener]]\n{lines}\n"), 1)
    };
    for (marked, what, remedy) in [
        (
            listener("proxy_protocol = «true»"),
            "whose word is taken",
            "proxy_protocol_from = ",
        ),
        (
            listener("proxy_protocol = «true»"),
            "whose word is taken",
            "proxy_protocol_from = ",
        ),
        (
            listener("proxy_protocol = true\nproxy_protocol_from = [«\"192.0.2.1/24\"»]"),
            "beyond its prefix",
            "first address",
        ),
        (
            with_site(&UPSTREAM.replace(
                "[[upstream.server]]",
                "send_proxy_protocol = «\"v3\"»\n[[upstream.server]]",
            )),
            "does not know",
            "v2",
        ),
    ] {
        refused(&marked, what, remedy);
    }
}

#[test]
fn proxies_on_a_listener_that_does_not_read_headers_are_warned_of() {
    let text = with_site(UPSTREAM).replacen(
        "[[listener]]\n",
        "[[listener]]\nproxy_protocol_from = [\"192.0.2.1\"]\n",
        1,
    );
    let loaded = parse_text(&text).unwrap();
    let [warning] = &loaded.warnings[..] else {
        panic!("{:?}", loaded.warnings);
    };
    assert!(
        warning.to_string().contains("proxy_protocol = true"),
        "{warning}"
    );
}

#[test]
fn hash_keys_are_read_and_refused() {
    let with = |key: &str, balance: &str| {
        with_site(&UPSTREAM.replace(
            "[[upstream.server]]",
            &format!("balance = \"{balance}\"\nhash_key = {key}\n[[upstream.server]]"),
        ))
    };
    for (key, read) in [
        ("\"client\"", HashKey::Client),
        ("\"header:X-User\"", HashKey::Header("x-user".to_owned())),
        ("\"cookie:Id\"", HashKey::Cookie("Id".to_owned())),
    ] {
        let loaded = parse_text(&with(key, "hash")).unwrap();
        assert_eq!(loaded.config.upstreams[0].hash_key, read);
        assert_eq!(loaded.warnings, []);
        let unused = parse_text(&with(key, "two-choices")).unwrap();
        assert_eq!(unused.warnings.len(), 1, "{key}");
    }
    for key in ["«\"header:\"»", "«\"header:a b\"»", "«\"path\"»", "«\"\"»"] {
        refused(&with(key, "hash"), "cannot be", "cookie:session");
    }
}

#[test]
fn fewer_http2_connections_than_workers_are_warned_of() {
    let text = |workers: usize, protocol: &str, max: usize| {
        with_site(&format!(
            "[workers]\ncount = {workers}\n[[upstream]]\nname = \"app\"\n\
             [[upstream.server]]\naddress = \"tcp://127.0.0.1:8080\"\nconnections_max = {max}\n\
             [upstream.http]\nprotocol = \"{protocol}\"\n"
        ))
    };
    for (workers, protocol, max, warnings) in [
        (4, "h2c", 3, 1),
        (4, "h2c", 4, 0),
        (4, "h2c", 0, 0),
        (4, "http/1.1", 3, 0),
    ] {
        let loaded = parse_text(&text(workers, protocol, max)).unwrap();
        assert_eq!(loaded.warnings.len(), warnings, "{protocol} {max}");
    }
}
