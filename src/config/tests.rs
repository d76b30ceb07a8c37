//! The file's whole way: text in, configuration or messages out.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

mod access;
mod files;
mod routes;
mod upstreams;

/// A directory that a root can name as "site", and a file as "file".
fn base() -> tempfile::TempDir {
    let base = tempfile::tempdir().unwrap();
    std::fs::create_dir(base.path().join("site")).unwrap();
    std::fs::write(base.path().join("site/page"), "").unwrap();
    std::fs::write(base.path().join("file"), "").unwrap();
    base
}

fn parse_text(text: &str) -> Result<Loaded, ConfigError> {
    parse(text.as_bytes(), Path::new("p.toml"), base().path())
}

const LISTENER: &str = "[[listener]]\naddress = \"0.0.0.0:443\"\n";
const SITE: &str = "[[site]]\nnames = [\"a.test\"]\ncertificate = \"c.pem\"\nkey = \"k.pem\"\n\
                    root = \"site\"\n";

/// Text that is complete but for `text`, which may begin with keys of the site.
fn with_site(text: &str) -> String {
    format!("{LISTENER}{SITE}{text}\n")
}

/// A site without the key that starts with `prefix`, and `text` in its place.
fn site_without(prefix: &str, text: &str) -> String {
    let kept: Vec<&str> = SITE
        .lines()
        .filter(|line| !line.starts_with(prefix))
        .collect();
    format!("{LISTENER}{}\n{text}\n", kept.join("\n"))
}

/// Asserts that `marked`, whose wrong part stands between « and », is refused once: there, showing
/// it, and with `what` and `remedy`.
#[track_caller]
fn refused(marked: &str, what: &str, remedy: &str) {
    let start = marked.find('«').unwrap();
    let text = marked.replace(['«', '»'], "");
    let wrong = &marked[start + '«'.len_utf8()..marked.find('»').unwrap()];
    let line = text[..start].matches('\n').count() + 1;
    let column = start - text[..start].rfind('\n').map_or(0, |newline| newline + 1) + 1;
    let error = parse_text(&text).expect_err(&text);
    let shown = error.to_string();
    assert_eq!(error.problems().len(), 1, "{shown}");
    assert!(
        shown.starts_with(&format!("p.toml:{line}:{column}: error: ")),
        "{shown}"
    );
    let place = error.problems()[0].place.clone().unwrap();
    let marked_text: String = place
        .text
        .chars()
        .skip(place.indent)
        .take(place.width)
        .collect();
    assert_eq!(marked_text, wrong, "{shown}");
    assert!(
        error.problems()[0].message.contains(what),
        "{what:?} in\n{shown}"
    );
    assert!(
        error.problems()[0].remedy.contains(remedy),
        "{remedy:?} in\n{shown}"
    );
    for part in [&error.problems()[0].message, &error.problems()[0].remedy] {
        assert_eq!(shown.matches(part.as_str()).count(), 1, "{shown}");
    }
}

#[test]
fn what_toml_itself_refuses() {
    for (marked, what, remedy) in [
        (
            "[workers]\n«cuont» = 1",
            "unknown key `cuont`",
            "did you mean `count`?",
        ),
        (
            "[«worker»]\ncount = 1",
            "unknown key `worker`",
            "did you mean `workers`?",
        ),
        (
            "[limits]\n«idle_ms» = 1000",
            "unknown key `idle_ms`",
            "belongs in [timeouts]",
        ),
        (
            "[workers]\n«colour» = 1",
            "unknown key `colour`",
            "known here: `count`",
        ),
        (
            "[timeouts]\n«idle» = 1",
            "unknown key `idle`",
            "did you mean `idle_ms`?",
        ),
    ] {
        refused(marked, what, remedy);
    }
}

#[test]
fn values_of_the_wrong_type() {
    for (marked, what, remedy) in [
        (
            "workers = «4»",
            "integer `4` stands where a table belongs",
            "[limits]",
        ),
        (
            "[workers]\ncount = «\"4\"»",
            "where a whole number belongs",
            "without quotes",
        ),
        (
            "[workers]\ncount = «1.5»",
            "where a whole number belongs",
            "without quotes",
        ),
        (
            "[workers]\ncount = «99999999999999999999»",
            "where a whole number belongs",
            "1024",
        ),
        (
            "[tcp]\nnodelay = «1»",
            "where true or false belongs",
            "true or false",
        ),
        ("[offload]\npolicy = «3»", "where text belongs", "in quotes"),
        (
            "[tls]\nsuites = «\"aes-128-gcm\"»",
            "where an array belongs",
            "[\"a\", \"b\"]",
        ),
        ("[tls]\nsuites = [«1»]", "where text belongs", "in quotes"),
        (
            "«[site]»\nroot = \"site\"",
            "where an array belongs",
            "[[site]]",
        ),
        (
            "[tcp]\nnodelay = true\n«nodelay» = true",
            "`nodelay` is set twice",
            "keep one",
        ),
        ("[tcp]\n[«tcp»]", "`tcp` is set twice", "keep one"),
    ] {
        refused(marked, what, remedy);
    }
}

#[test]
fn broken_syntax_is_shown_where_it_breaks() {
    for (text, line) in [
        ("[[listener]\n", 1),
        ("[workers]\ncount =\n", 2),
        ("\n\na = \"\n", 3),
        ("= 1", 1),
        ("[tcp]\nnodelay = yes\n", 2),
    ] {
        let error = parse_text(text).unwrap_err();
        let shown = error.to_string();
        assert!(shown.starts_with(&format!("p.toml:{line}:")), "{shown}");
        assert!(shown.contains("this is not TOML: "), "{shown}");
        assert!(shown.contains("help: "), "{shown}");
    }
}

#[test]
fn text_that_is_not_utf8() {
    let error = parse(
        b"a = 1\nb = \"\xff\"\n",
        Path::new("p.toml"),
        Path::new("/"),
    )
    .unwrap_err();
    let shown = error.to_string();
    assert!(
        shown.starts_with("p.toml:2:6: error: the file is not UTF-8"),
        "{shown}"
    );
    assert!(shown.contains("save it as UTF-8"), "{shown}");
}

#[test]
fn numbers_out_of_range() {
    for (marked, key, range) in [
        ("[workers]\ncount = «0»", "count", "from 1 to 1024"),
        (
            "[offload]\nfile_bytes_min = «-1»",
            "file_bytes_min",
            "from 0 to",
        ),
        (
            "[timeouts]\nhandshake_ms = «1»",
            "handshake_ms",
            "from 250 to 3600000",
        ),
        (
            "[timeouts]\nidle_ms = «86400001»",
            "idle_ms",
            "from 250 to 86400000",
        ),
        (
            "[limits]\nheader_bytes_max = «10»",
            "header_bytes_max",
            "from 1024 to 1048576",
        ),
        (
            "[limits]\nrecords_per_key_max = «16777217»",
            "records_per_key_max",
            "to 16777216",
        ),
        (
            "[tcp]\nkeepalive_idle_s = «32768»",
            "keepalive_idle_s",
            "from 0 to 32767",
        ),
        (
            "[session]\ntickets_per_handshake = «17»",
            "tickets_per_handshake",
            "from 0 to 16",
        ),
    ] {
        refused(&with_site(marked), &format!("`{key}` is "), range);
    }
    refused(
        &with_site("[limits]\ntarget_bytes_max = «4096»\nheader_bytes_max = 2048"),
        "does not fit",
        "below `header_bytes_max`",
    );
    refused(
        &with_site("[limits]\nheader_bytes_max = «2048»"),
        "a target of 8192 bytes does not fit a header of 2048",
        "below `header_bytes_max`",
    );
}

#[test]
fn listeners_that_cannot_be() {
    let listener = |text: &str| format!("{SITE}[[listener]]\n{text}\n");
    for (marked, what, remedy) in [
        (
            format!("«[»{}", &SITE[1..]),
            "no [[listener]]",
            "[[listener]]",
        ),
        (
            format!("{SITE}«[[listener]]»\nbacklog = 5"),
            "no `address`",
            "address = ",
        ),
        (
            listener("address = «\":443\"»"),
            "no address",
            "\"[::]:443\"",
        ),
        (
            listener("address = «\"443\"»"),
            "no address",
            "\"[::]:443\"",
        ),
        (
            listener("address = «\"0.0.0.0\"»"),
            "no address",
            "\"0.0.0.0:443\"",
        ),
        (
            listener("address = «\"::1\"»"),
            "no address",
            "\"[::1]:443\"",
        ),
        (
            listener("address = «\"localhost:443\"»"),
            "no address",
            "host names are not looked up",
        ),
        (
            listener("address = «\"0.0.0.0:99999\"»"),
            "no address",
            "IP address and a port",
        ),
        (
            listener("address = «\"[::ffff:192.0.2.1]:443\"»"),
            "no address",
            "\"192.0.2.1:443\"",
        ),
    ] {
        refused(&marked, what, remedy);
    }
}

#[test]
fn listener_settings_that_cannot_be() {
    let listener = |text: &str| format!("{SITE}[[listener]]\n{text}\n");
    for (marked, what, remedy) in [
        (
            listener("address = \"0.0.0.0:443\"\nipv6_only = «true»"),
            "on the IPv4 address",
            "remove `ipv6_only`",
        ),
        (
            listener("address = \"0.0.0.0:443\"\nservice = «\"redirct\"»"),
            "does not know \"redirct\"",
            "did you mean \"redirect\"?",
        ),
        (
            listener("address = \"0.0.0.0:443\"\nredirect_port = «443»"),
            "does not redirect",
            "service = \"redirect\"",
        ),
        (
            listener("address = \"0.0.0.0:443\"\nbacklog = «0»"),
            "`backlog` is 0",
            "from 1 to 65535",
        ),
    ] {
        refused(&marked, what, remedy);
    }
}

#[test]
fn listeners_that_overlap() {
    let after =
        |first: &str, text: &str| format!("{SITE}[[listener]]\n{first}\n[[listener]]\n{text}\n");
    for (marked, what, remedy) in [
        (
            after("address = \"0.0.0.0:443\"", "address = «\"0.0.0.0:443\"»"),
            "in line 7",
            "remove one of the two",
        ),
        (
            after("address = \"0.0.0.0:443\"", "address = «\"127.0.0.1:443\"»"),
            "0.0.0.0:443 in line 7",
            "unspecified address",
        ),
        (
            after("address = \"0.0.0.0:443\"", "address = «\"[::]:443\"»"),
            "0.0.0.0:443 in line 7",
            "ipv6_only = true",
        ),
        (
            after("address = \"[::]:443\"", "address = «\"192.0.2.1:443\"»"),
            "[::]:443 in line 7",
            "ipv6_only = true",
        ),
        (
            after("address = \"[::1]:443\"", "address = «\"[::]:443\"»"),
            "[::1]:443 in line 7",
            "unspecified address",
        ),
    ] {
        refused(&marked, what, remedy);
    }
}

#[test]
fn listeners_side_by_side() {
    let text = format!(
        "{SITE}[[listener]]\naddress = \"0.0.0.0:443\"\nbacklog = 7\n\
         [[listener]]\naddress = \"[::]:443\"\nipv6_only = true\n\
         [[listener]]\naddress = \"0.0.0.0:80\"\nservice = \"redirect\"\nredirect_port = 8443\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
         [[listener]]\naddress = \"[::1]:444\"\n[[listener]]\naddress = \"127.0.0.1:444\"\n"
    );
    let loaded = parse_text(&text).unwrap();
    let listeners = loaded.config.listeners;
    assert_eq!(listeners.len(), 7);
    assert_eq!(
        (listeners[0].backlog, listeners[1].backlog),
        (7, Listener::BACKLOG_DEFAULT)
    );
    assert!(listeners[1].ipv6_only && !listeners[0].ipv6_only);
    assert_eq!(
        listeners[2].service,
        Service::RedirectToHttps { port: 8443 }
    );
    assert_eq!(loaded.warnings, []);
}

#[test]
fn sites_that_cannot_be() {
    for (marked, what, remedy) in [
        (
            format!("«[»{}", &LISTENER[1..]),
            "there is no [[site]]",
            "`certificate`, `key` and `root`",
        ),
        (
            with_site("colour = 1").replace("colour", "«colour»"),
            "unknown key",
            "`names`",
        ),
        (with_site("«handshake_ms» = 1"), "unknown key", "[timeouts]"),
        (
            site_without("names", "names = «[]»"),
            "no `names`",
            "names = [\"example.org\"]",
        ),
        (
            site_without("names", "names = [\"b.test\", «\"a.test:443\"»]"),
            "has a port",
            "\"a.test\"",
        ),
        (
            site_without("names", "names = [\"a.test\", «\"A.Test.\"»]"),
            "is a name in line 7 already",
            "one site",
        ),
        (
            with_site(&SITE.replace("[\"a.test\"]", "[«\"a.test\"»]")),
            "is a name in line 4 already",
            "one site",
        ),
        (
            site_without("names", "names = [«\"bücher.test\"»]"),
            "not ASCII",
            "punycode",
        ),
    ] {
        refused(&marked, what, remedy);
    }
}

#[test]
fn site_settings_that_cannot_be() {
    for (marked, what, remedy) in [
        (
            site_without("certificate", "certificate = «\"\"»"),
            "no path",
            "chain.pem",
        ),
        (
            site_without("key", "key = «\"a\\u0000b\"»"),
            "no path",
            "key.pem",
        ),
        (
            site_without("root", "root = «\"nowhere\"»"),
            "cannot be served",
            "mkdir -p",
        ),
        (
            site_without("root", "root = «\"file\"»"),
            "not a directory",
            "name the directory",
        ),
        (
            with_site("index = [«\"a/b\"»]"),
            "no file name",
            "index.html",
        ),
        (
            with_site("index = [«\"..\"»]"),
            "no file name",
            "index.html",
        ),
        (
            with_site("symlinks = «\"beneth\"»"),
            "`symlinks` does not know",
            "did you mean \"beneath\"?",
        ),
        (
            with_site("symlinks = «\"yes\"»"),
            "does not know",
            "`deny`, `beneath` and `follow`",
        ),
        (
            with_site(&format!(
                "default = true\n{}default = «true»",
                SITE.replace("a.test", "b.test")
            )),
            "the site in line 8 is the default already",
            "one site",
        ),
        (
            with_site("[site.hsts]\nmax_age_s = «-1»"),
            "`max_age_s` is -1",
            "from 0 to 2147483647",
        ),
    ] {
        refused(&marked, what, remedy);
    }
    for key in ["names", "certificate", "key", "root"] {
        let text = site_without(key, "").replace("[[site]]", "«[[site]]»");
        refused(&text, &format!("no `{key}`"), &format!("add {key} = "));
    }
}

#[test]
fn policies_that_cannot_be() {
    for (marked, what, remedy) in [
        (
            "[tls]\nversion_min = «\"1.1\"»",
            "does not know \"1.1\"",
            "`1.2` and `1.3`",
        ),
        (
            "[tls]\nversion_min = «\"1.3\"»\nversion_max = \"1.2\"",
            "`version_min` is above `version_max`",
            "raise `version_max`",
        ),
        (
            "[site.tls]\nversion_max = «\"1.2\"»\n[tls]\nversion_min = \"1.3\"",
            "`version_min` is above `version_max`",
            "takes over what [tls] sets",
        ),
        (
            "[tls]\nsuites = [«\"TLS_AES_128_GCM_SHA256\"»]",
            "does not know",
            "did you mean \"aes-128-gcm\"?",
        ),
        (
            "[tls]\nsuites = «[]»",
            "`suites` is empty",
            "name at least one",
        ),
        (
            "[tls]\ngroups = [\"x25519\", «\"x25519\"»]",
            "twice",
            "order of preference",
        ),
        (
            "[tls]\ngroups = [«\"P-256\"»]",
            "does not know",
            "`secp256r1`",
        ),
        (
            "[tls]\nsuite_order = «\"sever\"»",
            "does not know",
            "did you mean \"server\"?",
        ),
        (
            "[tls]\ngroups = «[\"x25519mlkem768\"]»",
            "no group that it can use",
            "add \"x25519\"",
        ),
        (
            "[site.tls]\nversion_min = «\"1.2\"»\n[tls]\nversion_min = \"1.3\"\n\
             groups = [\"x25519mlkem768\"]",
            "no group that it can use",
            "version_min = \"1.3\"",
        ),
        (
            "[offload]\npolicy = «\"atuo\"»",
            "does not know",
            "did you mean \"auto\"?",
        ),
    ] {
        refused(&with_site(marked), what, remedy);
    }
}

#[test]
fn independent_problems_are_reported_together_each_once() {
    let text = with_site("[timeouts]\nidle_ms = 1\n[tls]\nversion_min = \"1.0\"\n[tcp]\n");
    let error = parse_text(&text.replace("\"site\"", "\"nowhere\"")).unwrap_err();
    let lines: Vec<usize> = error
        .problems()
        .iter()
        .map(|problem| problem.place.as_ref().unwrap().line)
        .collect();
    assert_eq!(lines, [11, 7, 9], "{error}");
    assert_eq!(error.to_string().matches("error:").count(), 3);
}

#[test]
fn a_site_inherits_what_it_leaves_open() {
    let text = with_site(
        "[site.tls]\nversion_min = \"1.3\"\nsuite_order = \"server\"\nclient_certificate = \"optional\"\n\
         [tls]\nsuites = [\"chacha20-poly1305\", \"aes-256-gcm\"]\ngroups = [\"x25519\"]\n\
         client_ca = \"/etc/clients.pem\"",
    );
    let config = parse_text(&text).unwrap().config;
    let expected = TlsPolicy {
        version_min: TlsVersion::Tls13,
        version_max: TlsVersion::Tls13,
        suites: vec![Suite::Chacha20Poly1305, Suite::Aes256Gcm],
        suite_order: SuiteOrder::Server,
        groups: vec![Group::X25519],
        protocols: vec![Protocol::H2, Protocol::Http11],
        alpn: None,
        client_auth: Some(ClientAuth {
            authorities_file: "/etc/clients.pem".into(),
            is_required: false,
        }),
    };
    assert_eq!(config.sites[0].tls, expected);
}

#[test]
fn clients_are_asked_for_certificates_where_authorities_are_named() {
    let wanted = |text: &str| {
        let config = parse_text(&with_site(text)).unwrap().config;
        let auth = config.sites[0].tls.client_auth.clone();
        auth.map(|auth| auth.is_required)
    };
    for (text, is_required) in [
        ("", None),
        ("[site.tls]\nclient_ca = \"ca.pem\"", Some(true)),
        ("[tls]\nclient_ca = \"ca.pem\"", Some(true)),
        (
            "[site.tls]\nclient_certificate = \"none\"\n[tls]\nclient_ca = \"ca.pem\"",
            None,
        ),
        (
            "[site.tls]\nclient_ca = \"b.pem\"\n\
             [tls]\nclient_ca = \"ca.pem\"\nclient_certificate = \"optional\"",
            Some(false),
        ),
    ] {
        assert_eq!(wanted(text), is_required, "{text}");
    }
    let text = with_site("[site.tls]\nclient_certificate = «\"required\"»");
    refused(&text, "without authorities", "client_ca");
}

#[test]
fn paths_start_at_the_files_directory_and_places_point_into_it() {
    let base = base();
    let path = base.path().join("p.toml");
    let absolute = with_site("default = true").replace("c.pem", "/etc/c.pem");
    std::fs::write(&path, absolute).unwrap();
    let loaded = load(&path).unwrap();
    let site = &loaded.config.sites[0];
    assert_eq!(site.certificate_file, Path::new("/etc/c.pem"));
    assert_eq!(site.key_file, base.path().join("k.pem"));
    assert_eq!(site.files.root, base.path().join("site"));
    assert_eq!(loaded.config.default_site, Some(0));
    let places = loaded.places.site(0).unwrap();
    assert_eq!((places.certificate.line, places.key.line), (5, 6));
    assert_eq!(places.certificate.file.as_ref(), path);
    assert_eq!(places.names.len(), 1);
}

#[test]
fn a_file_that_cannot_be_read_names_itself_and_a_remedy() {
    let base = base();
    for (path, remedy) in [
        (base.path().join("missing.toml"), "existing file"),
        (base.path().join("site"), "regular file"),
    ] {
        let shown = load(&path).unwrap_err().to_string();
        assert!(shown.contains(&path.display().to_string()), "{shown}");
        assert!(shown.contains(remedy), "{shown}");
    }
    let shown = load(Path::new("/dev/zero")).unwrap_err().to_string();
    assert!(shown.contains("longer than"), "{shown}");
}

#[test]
fn warnings_leave_the_configuration_usable() {
    let hsts = "[site.hsts]\npreload = true";
    let text = with_site(hsts).replace("443\"", "80\"\nservice = \"redirect\"");
    let loaded = parse_text(&text).unwrap();
    let shown: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert!(
        shown[0].starts_with("p.toml:2:11: warning: no listener speaks TLS"),
        "{shown:?}"
    );
    assert!(
        shown[1].starts_with("p.toml:10:11: warning: browsers' preload lists"),
        "{shown:?}"
    );
    assert_eq!(shown.len(), 2);
}

#[test]
fn zero_turns_off_what_can_be_off() {
    let text = "[tcp]\nnotsent_low_water_bytes = 0\nuser_timeout_ms = 0\nkeepalive_idle_s = 0";
    let tcp = parse_text(&with_site(text)).unwrap().config.tcp;
    assert_eq!(tcp.notsent_low_water_bytes, None);
    assert_eq!((tcp.user_timeout, tcp.keepalive_idle), (None, None));
    let text = "[tcp]\nkeepalive_idle_s = 7\nkeepalive_interval_s = 8";
    let tcp = parse_text(&with_site(text)).unwrap().config.tcp;
    assert_eq!(tcp.keepalive_idle, Some(Duration::from_secs(7)));
    assert_eq!(tcp.keepalive_interval, Duration::from_secs(8));
}

#[test]
fn nesting_is_bounded() {
    let text = format!("a = {}", "[".repeat(100_000));
    assert!(parse_text(&text).is_err());
}

/// Text that gets further into the checks than noise does.
fn fragments() -> impl Strategy<Value = String> {
    let lines: Vec<String> = super::raw::tables()
        .into_iter()
        .flat_map(|(table, keys)| {
            let values = [
                "0",
                "-1",
                "9223372036854775807",
                "true",
                "\"*.a\"",
                "[\"\u{e9}\"]",
                "{}",
            ];
            std::iter::once(table.to_owned()).chain(
                keys.iter()
                    .flat_map(move |key| values.map(|value| format!("{key} = {value}"))),
            )
        })
        .chain(LISTENER.lines().chain(SITE.lines()).map(str::to_owned))
        .collect();
    proptest::collection::vec(proptest::sample::select(lines), 0..40)
        .prop_map(|lines| lines.join("\n"))
}

fn survives(text: &[u8]) {
    let outcome = parse(text, Path::new("p.toml"), Path::new("/nonexistent"));
    let Err(error) = outcome else { return };
    let lines = text.split(|&b| b == b'\n').count();
    for problem in error.problems() {
        let place = problem.place.as_ref().expect("every problem has a place");
        assert!((1..=lines).contains(&place.line), "{error}");
        assert!(!problem.message.is_empty() && !problem.remedy.is_empty());
        assert!(place.indent <= place.text.chars().count());
    }
    assert!(
        !error
            .to_string()
            .chars()
            .any(|c| c.is_control() && c != '\n'),
        "{error:?}"
    );
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(text in proptest::collection::vec(any::<u8>(), 0..512)) {
        survives(&text);
    }

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}") {
        survives(text.as_bytes());
    }

    #[test]
    fn arbitrary_keys_and_values_never_panic(text in fragments()) {
        survives(text.as_bytes());
    }

    #[test]
    fn a_damaged_file_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut text = with_site("[timeouts]\nidle_ms = 5000\n").into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        survives(&text);
        text.truncate(at);
        survives(&text);
    }
}

#[test]
fn an_admin_listener_is_for_this_machine() {
    let admin = |text: &str| {
        let text = with_site(&format!("[admin]\n{text}"));
        parse_text(&text).unwrap().config.admin
    };
    assert_eq!(admin(""), None);
    for (text, address) in [
        ("address = \"127.0.0.1:9\"", "127.0.0.1:9"),
        ("address = \"[::1]:9\"", "[::1]:9"),
        ("address = \"0.0.0.0:9\"\nallow_remote = true", "0.0.0.0:9"),
    ] {
        let expected = AdminAddress::Tcp(address.parse().unwrap());
        assert_eq!(admin(text).unwrap().address, expected, "{text}");
    }
    let unix = admin("address = \"unix:/run/a.sock\"").unwrap().address;
    assert_eq!(unix, AdminAddress::Unix("/run/a.sock".into()));
    for (marked, what, remedy) in [
        (
            "[admin]\naddress = «\"0.0.0.0:9\"»",
            "other machines reach",
            "allow_remote = true",
        ),
        (
            "[admin]\naddress = «\"192.0.2.1:9\"»",
            "other machines reach",
            "127.0.0.1:9443",
        ),
        ("[admin]\naddress = «\"9443\"»", "no address", "unix:"),
        (
            "[admin]\naddress = «\"unix:\"»",
            "no path",
            "unix:admin.sock",
        ),
        (
            "[admin]\nallow_remote = «true»",
            "without an `address`",
            "add address",
        ),
    ] {
        refused(&with_site(marked), what, remedy);
    }
    let long = format!("[admin]\naddress = \"unix:/{}\"", "a".repeat(107));
    let error = parse_text(&with_site(&long)).unwrap_err().to_string();
    assert!(error.contains("at most 107 bytes"), "{error}");
}

#[test]
fn an_access_log_goes_to_a_file_or_to_standard_output() {
    let log = |text: &str| {
        let text = with_site(&format!("[access_log]\n{text}"));
        parse_text(&text).unwrap().config.access_log
    };
    assert_eq!(log(""), None);
    let stdout = log("path = \"-\"").unwrap();
    assert_eq!(stdout.destination, LogDestination::Stdout);
    assert_eq!(stdout.format, LogFormat::Combined);
    let file = log("path = \"/a.log\"\nformat = \"json\"").unwrap();
    assert_eq!(file.destination, LogDestination::File("/a.log".into()));
    assert_eq!(file.format, LogFormat::Json);
    for (marked, what, remedy) in [
        ("[access_log]\npath = «\"\"»", "no path", "access.log"),
        (
            "[access_log]\nformat = «\"json\"»",
            "without a `path`",
            "add path",
        ),
        (
            "[access_log]\npath = \"-\"\nformat = «\"jsn\"»",
            "does not know",
            "did you mean \"json\"",
        ),
    ] {
        refused(&with_site(marked), what, remedy);
    }
}
