//! `[[site.route]]`, `[upstream.http]` and `[proxies]`.

use super::*;

const APP: &str =
    "[[upstream]]\nname = \"app\"\n[[upstream.server]]\naddress = \"tcp://127.0.0.1:80\"\n";

fn with_route(route: &str) -> String {
    with_site(&format!("{APP}[[site.route]]\n{route}"))
}

#[test]
fn paths_that_no_route_can_have() {
    for (route, what, remedy) in [
        (
            "prefix = «\"api\"»\nstatus = 404",
            "no path to match",
            "from '/' on",
        ),
        (
            "prefix = «\"/a/../b\"»\nstatus = 404",
            "no path to match",
            "dot segments",
        ),
        (
            "prefix = «\"/%61\"»\nstatus = 404",
            "no path to match",
            "percent signs",
        ),
        (
            "path = \"/a\"\nprefix = «\"/b\"»\nstatus = 404",
            "a `path` and a `prefix`",
            "keep",
        ),
    ] {
        refused(&with_route(route), what, remedy);
    }
}

#[test]
fn targets_that_no_route_can_have() {
    for (route, what, remedy) in [
        (
            "prefix = \"/\"\nupstream = \"app\"\nstatus = «404»",
            "says twice",
            "keep one",
        ),
        (
            "prefix = \"/\"\nupstream = «\"ap\"»",
            "no upstream \"ap\"",
            "known are `app`",
        ),
        (
            "prefix = \"/\"\nstatus = 404\nhost = «\"a\"»",
            "`host` on a route",
            "add `upstream`",
        ),
        (
            "prefix = \"/\"\nupstream = \"app\"\nhost = «\"a b\"»",
            "is no host",
            "a name",
        ),
        (
            "prefix = \"/\"\nupstream = \"app\"\nbody = «\"x\"»",
            "`body` on a route",
            "`status`",
        ),
        (
            "path = \"/a\"\nredirect = \"/b\"\nstrip_prefix = «true»",
            "that has none",
            "`prefix`",
        ),
        (
            "prefix = \"/\"\nredirect = «\"b\"»",
            "no target of a redirect",
            "a URL",
        ),
        (
            "prefix = \"/\"\nredirect = \"/b\"\nstatus = «200»",
            "200 is no redirect",
            "308",
        ),
        (
            "prefix = \"/\"\nstatus = «199»",
            "`status` is 199",
            "from 200 to 599",
        ),
    ] {
        refused(&with_route(route), what, remedy);
    }
}

#[test]
fn changes_of_fields_that_cannot_be() {
    for (route, what, remedy) in [
        (
            "prefix = \"/\"\nupstream = \"app\"\nrequest_set = [«\"x\"»]",
            "is no field",
            "a colon",
        ),
        (
            "prefix = \"/\"\nupstream = \"app\"\nrequest_set = [«\"Host: a\"»]",
            "cannot change \"Host\"",
            "made anew",
        ),
        (
            "prefix = \"/\"\nstatus = 404\nresponse_remove = [«\"content-length\"»]",
            "cannot change",
            "made anew",
        ),
        (
            "prefix = \"/\"\nstatus = 404\nresponse_add = [«\"a: b\\nc: d\"»]",
            "control characters",
            "remove",
        ),
    ] {
        refused(&with_route(route), what, remedy);
    }
}

#[test]
fn routes_that_say_too_little_or_too_much() {
    for (route, what, remedy) in [
        ("status = 404", "has no `prefix`", "prefix ="),
        ("prefix = \"/\"", "says nothing", "add upstream"),
        (
            "prefix = \"/\"\nstatus = 404\nrequest_add = [\"a: b\"]",
            "does not pass on",
            "upstream",
        ),
        (
            "prefix = \"/a\"\nstatus = 404\n[[site.route]]\nprefix = \"/a\"\nstatus = 403",
            "the same path",
            "keep one",
        ),
    ] {
        let error = parse_text(&with_route(route)).expect_err(route).to_string();
        assert!(error.contains(what) && error.contains(remedy), "{error}");
    }
}

#[test]
fn a_route_for_everything_stands_in_for_a_root() {
    let route = format!("{APP}[[site.route]]\nprefix = \"/\"\nupstream = \"app\"");
    let loaded = parse_text(&site_without("root", &route)).unwrap();
    let [route] = &loaded.config.sites[0].routes[..] else {
        panic!("{:?}", loaded.config.sites[0].routes);
    };
    let RouteAction::Proxy(proxy) = &route.action else {
        panic!("{route:?}");
    };
    assert_eq!((proxy.upstream, proxy.strip_prefix), (0, false));
    let part = format!("{APP}[[site.route]]\nprefix = \"/a\"\nupstream = \"app\"");
    let error = parse_text(&site_without("root", &part))
        .unwrap_err()
        .to_string();
    assert!(error.contains("no `root`"), "{error}");
}

#[test]
fn fields_are_read_into_names_and_values() {
    let text = with_route(
        "prefix = \"/\"\nupstream = \"app\"\nrequest_set = [\"X-A:  b: c \"]\n\
         response_remove = [\"Server\"]",
    );
    let loaded = parse_text(&text).unwrap();
    let route = &loaded.config.sites[0].routes[0];
    assert_eq!(
        route.request_fields.set,
        [("x-a".to_owned(), "b: c".to_owned())]
    );
    assert_eq!(route.response_fields.remove, ["server"]);
}

#[test]
fn networks_that_cannot_be_trusted() {
    for (marked, what, remedy) in [
        (
            "[proxies]\ntrusted = [«\"a\"»]",
            "no network",
            "192.0.2.0/24",
        ),
        (
            "[proxies]\ntrusted = [«\"10.0.0.1/8\"»]",
            "beyond its prefix",
            "first address",
        ),
    ] {
        refused(&with_site(marked), what, remedy);
    }
    let loaded = parse_text(&with_site("[proxies]\ntrusted = [\"10.0.0.0/8\"]")).unwrap();
    assert!(loaded.config.proxies.trusts("10.1.2.3".parse().unwrap()));
    assert!(!loaded.config.proxies.trusts("11.1.2.3".parse().unwrap()));
}
