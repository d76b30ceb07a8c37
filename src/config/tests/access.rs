//! `allow`, `deny`, `[proxies]`, `[rate_limit]` and `[site.rate_limit]`.

use super::*;

fn listener_with(text: &str) -> String {
    format!("{LISTENER}{text}\n{SITE}")
}

#[test]
fn networks_that_are_none() {
    for key in ["allow", "deny"] {
        refused(
            &with_site(&format!("{key} = [«\"a\"»]")),
            "no network",
            "192.0.2.0/24",
        );
        refused(
            &listener_with(&format!("{key} = [\"::1\", «\"10.0.0.1/8\"»]")),
            "beyond its prefix",
            "first address",
        );
    }
    refused(
        &with_site("[rate_limit]\nrequests = 1\nexempt = [«\"10.0.0\"»]"),
        "no network",
        "2001:db8::/32",
    );
    refused(
        &with_site("[proxies]\nclient_field = «\"x-forwarded-fro\"»"),
        "does not know",
        "did you mean \"x-forwarded-for\"?",
    );
}

#[test]
fn a_network_is_in_one_of_the_lists() {
    refused(
        &listener_with("allow = [\"::/0\", \"10.0.0.0/8\"]\ndeny = [«\"10.0.0.0/8\"»]"),
        "in `allow` too",
        "one of the two",
    );
    let nested = with_site("allow = [\"10.0.0.0/8\"]\ndeny = [\"10.1.0.0/16\"]");
    let loaded = parse_text(&nested).unwrap();
    let access = &loaded.config.sites[0].access;
    assert!(access.allows("10.2.0.1".parse().unwrap()));
    assert!(!access.allows("10.1.0.1".parse().unwrap()));
    assert!(!access.allows("192.0.2.1".parse().unwrap()));
}

#[test]
fn more_networks_than_a_list_holds() {
    let some = vec!["\"10.0.0.1\""; crate::limits::NETWORKS_PER_LIST_MAX].join(",");
    let full = listener_with(&format!("deny = [{some}]"));
    assert!(parse_text(&full).is_ok());
    let error = parse_text(&full.replace("deny = [", "deny = [\"::1\",")).unwrap_err();
    let [problem] = error.problems() else {
        panic!("one problem");
    };
    assert!(
        problem
            .message
            .contains("more than 65536 networks in `deny`")
    );
}

#[test]
fn lists_of_a_site_whose_connections_go_through_a_tunnel_would_do_nothing() {
    let upstream = "[[upstream]]\nname = \"app\"\n[[upstream.server]]\n\
                    address = \"tcp://127.0.0.1:1\"\n";
    for marked in ["allow = «[\"10.0.0.0/8\"]»", "deny = «[\"10.0.0.0/8\"]»"] {
        let site = site_without("root", &format!("tunnel = \"app\"\n{marked}\n{upstream}"));
        refused(
            &site,
            "goes through a tunnel".replace("goes", "go").as_str(),
            "remove `",
        );
    }
}

#[test]
fn the_client_is_whom_trusted_proxies_tell_of() {
    let text = with_site("[proxies]\ntrusted = [\"10.0.0.0/8\"]\nclient_field = \"forwarded\"");
    let proxies = parse_text(&text).unwrap().config.proxies;
    let fields = |peer: &str| {
        let request = crate::proto::testing::request(
            crate::message::Method::Get,
            &[
                ("Forwarded", "for=192.0.2.7"),
                ("X-Forwarded-For", "192.0.2.8"),
            ],
        );
        proxies
            .client(peer.parse().unwrap(), &request.fields)
            .to_string()
    };
    assert_eq!(fields("10.0.0.1"), "192.0.2.7");
    assert_eq!(fields("::ffff:10.0.0.1"), "192.0.2.7");
    assert_eq!(fields("11.0.0.1"), "11.0.0.1");
}

#[test]
fn a_rate_is_read_with_its_defaults() {
    let text = with_site(
        "[site.rate_limit]\nrequests = 10\nper_s = 60\nburst = 3\nexempt = [\"10.0.0.0/8\"]\n\
         [rate_limit]\nrequests = 50",
    );
    let config = parse_text(&text).unwrap().config;
    let all = config.rate_limit.clone().unwrap();
    assert_eq!((all.token, all.burst), (Duration::from_millis(20), 50));
    assert_eq!(&*all.scope, "");
    let own = config.sites[0].rate_limit.clone().unwrap();
    assert_eq!((own.token, own.burst), (Duration::from_secs(6), 3));
    assert_eq!(&*own.scope, "a.test");
    assert!(own.exempt.find("10.9.9.9".parse().unwrap()).is_some());
}

#[test]
fn a_log_of_a_site_is_somewhere_or_off() {
    refused(
        &with_site("«[site.access_log]»"),
        "has no `path`",
        "enabled = false",
    );
    refused(
        &with_site("[site.access_log]\nformat = «\"json\"»"),
        "`format` without",
        "path = \"access.log\"",
    );
    let error = parse_text(&with_site(
        "[site.access_log]\npath = \"a\"\n[access_log]\npath = \"a\"\nformat = \"json\"",
    ));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("\"a.test\" is another's too"), "{error}");
    let off = parse_text(&with_site("[site.access_log]\nenabled = false")).unwrap();
    assert_eq!(off.config.sites[0].access_log, SiteLog::Off);
}

#[test]
fn the_field_of_an_id_is_one_that_may_be_sent() {
    refused(
        &with_site("[request_id]\nfield = «\"content-length\"»"),
        "cannot change",
        "made anew",
    );
    refused(
        &with_site("[request_id]\nfield = «\"a b\"»"),
        "no field name",
        "letters",
    );
    let loaded = parse_text(&with_site("[request_id]\nfield = \"X-Trace\"")).unwrap();
    assert_eq!(loaded.config.request_id.field, "x-trace");
}
