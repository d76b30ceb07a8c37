//! The same over HTTP/2: many requests at once on one connection of the client's.

use std::collections::BTreeMap;

use super::backend::Backend;
use super::passing_on;
use crate::support::Policy;
use crate::support::client::Manner;
use crate::support::files::{MIB, assert_same_bytes, content};
use crate::support::for_each_policy;
use crate::support::http2::Http2;
use crate::support::kernel::is_lab;

for_each_policy!(answers_come_back_whole, large_bodies_go_both_ways_at_once);

fn answers_come_back_whole(policy: Policy) {
    let backend = Backend::start();
    let server = passing_on(policy, &backend, "").start();
    let mut client = Http2::connect(&Manner::default(), &server, &[]);
    let bodies: [(&str, &[u8]); 5] = [
        ("/hello", b"hello"),
        ("/chunked", b"foobar"),
        ("/early", b"ok"),
        ("/big", content(4 * MIB)),
        ("/until-close", b"all of it"),
    ];
    let mut asked = Vec::new();
    for _ in 0..5 {
        for (path, body) in bodies {
            asked.push((client.ask(path), path, body));
        }
    }
    let early = asked[2].0;
    let head = client.ask_with(&[(":method", "HEAD"), (":path", "/head-only")], true);
    let unchanged = client.ask("/not-modified");
    client.flush().unwrap();
    client.hear_all();
    for (stream, path, body) in asked {
        let heard = &client.streams[&stream];
        assert_eq!((heard.status, heard.reset), (Some(200), None), "{path}");
        assert_same_bytes(&heard.body, body, path);
        let names = heard.fields.iter().map(|(name, _)| &**name);
        assert!(names.clone().any(|name| name == "date"), "{path}");
        assert!(!names.clone().any(|name| name == "transfer-encoding"));
        assert!(names.into_iter().all(|name| name.to_lowercase() == name));
    }
    let hints = (103, Some("</a>".to_owned()));
    assert_eq!(client.streams[&early].interims, [hints]);
    let length = |stream| {
        let fields = &client.streams[&stream].fields;
        fields.iter().find(|(name, _)| name == "content-length")
    };
    assert_eq!(length(head).map(|(_, value)| &**value), Some("1234"));
    assert_eq!(client.streams[&unchanged].status, Some(304));
    assert!(client.goaways.is_empty());
    assert!(
        backend
            .heads()
            .iter()
            .all(|head| head.contains(" HTTP/1.1\r\n"))
    );
}

/// More than all windows and buffers on the way hold, many times over.
fn large_bodies_go_both_ways_at_once(policy: Policy) {
    let backend = Backend::start();
    let server = passing_on(policy, &backend, "")
        .table("limits", "body_bytes_max = 1000000000")
        .start();
    let mut client = Http2::connect(&Manner::default(), &server, &[]);
    let length = if is_lab() { MIB } else { 4 * MIB };
    let mut sent = BTreeMap::new();
    for declared in [false, true, false] {
        let length = length.to_string();
        let mut fields = vec![(":method", "POST"), (":path", "/echo")];
        if declared {
            fields.push(("content-length", &length));
        }
        sent.insert(client.ask_with(&fields, false), 0);
    }
    client.echo_through(&mut sent, content(length));
    for stream in sent.keys() {
        let heard = &client.streams[stream];
        assert_eq!((heard.status, heard.reset), (Some(200), None));
        assert_same_bytes(&heard.body, content(length), "an echo");
    }
    assert!(client.goaways.is_empty());
}
