use super::*;
use crate::config::{Config, Passthrough};
use crate::serve::testing;
use crate::tls::client_hello::{ClientHelloReader, FirstBytes};

/// A ClientHello with this name and these protocols, as a client sends it.
fn hello(name: Option<&str>, alpn: &[&str], has_ech: bool) -> ClientHello {
    let vector16 = |content: Vec<u8>| {
        let mut bytes = u16::try_from(content.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend(content);
        bytes
    };
    let extension = |kind: u16, content: Vec<u8>| {
        let mut bytes = kind.to_be_bytes().to_vec();
        bytes.extend(vector16(content));
        bytes
    };
    let mut extensions = Vec::new();
    if let Some(name) = name {
        let mut entry = vec![0];
        entry.extend(vector16(name.as_bytes().to_vec()));
        extensions.extend(extension(0, vector16(entry)));
    }
    if !alpn.is_empty() {
        let entry = |name: &&str| [&[u8::try_from(name.len()).unwrap()], name.as_bytes()].concat();
        let list = alpn.iter().flat_map(entry).collect();
        extensions.extend(extension(16, vector16(list)));
    }
    if has_ech {
        extensions.extend(extension(0xfe0d, vec![0; 8]));
    }
    let mut body = vec![3, 3];
    body.extend([0; 32]);
    body.push(0);
    body.extend(vector16(vec![0x13, 0x01]));
    body.extend([1, 0]);
    body.extend(vector16(extensions));
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[1], &length[1..], &body].concat();
    let record = [&[22, 3, 1][..], &vector16(message)].concat();
    let outcome = ClientHelloReader::new().read(&record);
    let FirstBytes::Hello(hello) = outcome else {
        panic!("{outcome:?}");
    };
    hello
}

fn passthrough(names: &[&str], alpn: &[&str], upstream: usize) -> Passthrough {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    Passthrough {
        names: owned(names),
        alpn: owned(alpn),
        upstream,
    }
}

fn table(default: Option<usize>) -> Table {
    let sites = vec![testing::site("/", &["a.test", "*.site.test"])];
    Table::new(&Config {
        passthroughs: vec![
            passthrough(&["a.test"], &["acme-tls/1"], 7),
            passthrough(&["raw.test", "*.raw.test", "x.site.test"], &[], 8),
            passthrough(&["other.test"], &[], 9),
        ],
        default_passthrough: default,
        ..testing::config(sites, None)
    })
}

#[test]
fn names_and_protocols_decide_who_terminates() {
    let table = table(None);
    for (name, alpn, upstream) in [
        (Some("a.test"), &["h2"][..], None),
        (Some("a.test"), &["h2", "acme-tls/1"], Some(7)),
        (Some("raw.test"), &[], Some(8)),
        (Some("b.raw.test"), &["h2"], Some(8)),
        (Some("x.site.test"), &[], Some(8)),
        (Some("y.site.test"), &[], None),
        (Some("other.test"), &["acme-tls/1"], Some(9)),
        (Some("unknown.test"), &[], None),
        (None, &["acme-tls/1"], None),
    ] {
        let found = table.passthrough(&hello(name, alpn, false));
        assert_eq!(found, upstream, "{name:?} {alpn:?}");
    }
}

#[test]
fn what_nobody_has_goes_to_the_default() {
    let table = table(Some(2));
    assert_eq!(table.passthrough(&hello(None, &[], false)), Some(9));
    assert_eq!(
        table.passthrough(&hello(Some("public.test"), &[], true)),
        Some(9)
    );
    assert_eq!(
        table.passthrough(&hello(Some("a.test"), &[], true)),
        None,
        "GREASE"
    );
    assert_eq!(
        table.passthrough(&hello(Some("raw.test"), &[], false)),
        Some(8)
    );
}
