//! What a server behind this one is asked: the request as it came, without what belonged to its
//! connection, and with what we know of its sender.

use std::net::IpAddr;

use super::websocket::{is_websocket, new_key};
use crate::config::{FieldEdits, Route, RouteProxy, UpstreamProtocol};
use crate::message::{BodyLength, Method, Request, Version};
use crate::proto::authority::host_of;
use crate::proto::forwarded::{self, Origin};
use crate::proto::h1::encode::{push_field_line, push_lines, push_list_line};
use crate::proto::h1::request_head::{self, Connection, Framing};
use crate::proto::hop_by_hop::ConnectionOptions;
use crate::proto::syntax::{NameSet, list_members};

/// A request head, ready to be sent.
pub(super) struct Outgoing {
    pub(super) head: Vec<u8>,
    pub(super) framing: Framing,
    /// The protocols that it asks for instead of this one; empty where it asks for none.
    pub(super) upgrade: Vec<u8>,
    /// The key that was made for it, which the answer must know.
    pub(super) websocket_key: Option<String>,
    /// It asks whether its body is wanted (RFC 9110 10.1.1).
    pub(super) expects_continue: bool,
}

/// Why a request is not passed on, as a status.
pub(super) type Refused = u16;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Visitor<'a> {
    pub(super) address: IpAddr,
    pub(super) is_trusted: bool,
    pub(super) is_secure: bool,
    /// The field that carries the request's id, and the id.
    pub(super) id: Option<(&'a str, &'a str)>,
}

/// The head for `request`, which `route` passes on as `proxy` says, to ask for `target` of a server that is
/// spoken to in `protocol`.
pub(super) fn outgoing(
    request: &Request,
    (target, protocol): (&str, UpstreamProtocol),
    route: &Route,
    proxy: &RouteProxy,
    visitor: &Visitor<'_>,
) -> Result<Outgoing, Refused> {
    // RFC 9110 9.3.8: it would send back what a proxy adds.
    if request.method == Method::Trace {
        return Err(405);
    }
    let options = ConnectionOptions::of(&request.fields).map_err(|_| 400_u16)?;
    let length = match request.body_length {
        BodyLength::Known(length) => Some(length),
        BodyLength::Delimited => None,
    };
    let framing = Framing::new(&request.method, length);
    let upgrade = upgrade_passed_on(request, &options)?;
    let mut head = Vec::with_capacity(HEAD_BYTES_USUAL);
    if !request_head::push_request_line(&mut head, &request.method, target) {
        return Err(400);
    }
    let received_host = received_host(request);
    let host = proxy.host.as_deref().map_or(received_host, str::as_bytes);
    push_field_line(&mut head, b"host", host);
    let edits = &route.request_fields;
    let id = visitor
        .id
        .filter(|(name, _)| !edits.replaces(name.as_bytes()));
    push_passed_on(&mut head, request, &options, edits, id);
    let expects_continue = request.expects_continue
        && protocol == UpstreamProtocol::Http11
        && !edits.replaces(b"expect");
    if expects_continue {
        push_field_line(&mut head, b"expect", b"100-continue");
    }
    push_origin(&mut head, request, proxy, visitor, received_host);
    // RFC 8441 5: HTTP/2 has no key.
    let needs_key = request.version == Version::Http2 && is_websocket(&upgrade);
    let websocket_key = needs_key.then(|| new_key().ok_or(500_u16)).transpose()?;
    if let Some(key) = &websocket_key {
        push_field_line(&mut head, b"sec-websocket-key", key.as_bytes());
    }
    if let Some((name, id)) = id {
        push_field_line(&mut head, name.as_bytes(), id.as_bytes());
    }
    for (name, value) in route.request_fields.put() {
        push_field_line(&mut head, name.as_bytes(), value.as_bytes());
    }
    let connection = Connection {
        close: false,
        upgrade: Some(&upgrade[..]).filter(|names| !names.is_empty()),
        trailers: takes_trailers(request),
    };
    request_head::push_request_end(&mut head, framing, &connection);
    Ok(Outgoing {
        head,
        framing,
        upgrade,
        websocket_key,
        expects_continue,
    })
}

/// The protocols that the server may change to, as a list, or none.
fn upgrade_passed_on(request: &Request, options: &ConnectionOptions) -> Result<Vec<u8>, Refused> {
    // RFC 9110 7.8: not in 1.0, and what comes before the answer to it would be a body.
    // HTTP/2 asks with extended CONNECT, which its driver has made one of.
    let may_upgrade = request.version != Version::Http10 && request.body_length.is_none();
    let asked = options.upgrade(&request.fields).filter(|_| may_upgrade);
    let upgrade = asked.map(tunnelled).unwrap_or_default();
    if request.version == Version::Http2 && asked.is_some() && upgrade.is_empty() {
        // RFC 8441 4: it asks for the tunnel and for nothing else.
        return Err(501);
    }
    Ok(upgrade)
}

/// The fields that say whom the request comes from, and by which way.
fn push_origin(
    head: &mut Vec<u8>,
    request: &Request,
    proxy: &RouteProxy,
    visitor: &Visitor<'_>,
    host: &[u8],
) {
    let origin = Origin {
        client: visitor.address,
        is_trusted: visitor.is_trusted,
        scheme: if visitor.is_secure { "https" } else { "http" },
        host,
    };
    forwarded::push_fields(head, proxy.forwarded, &origin, &request.fields);
    push_via(head, request);
}

/// RFC 9110 10.1.4
fn takes_trailers(request: &Request) -> bool {
    let mut codings = request.fields.all("te").flat_map(list_members);
    codings.any(|coding| coding.eq_ignore_ascii_case(b"trailers"))
}

/// Those of `protocols` that may follow, as a list: what is a tunnel from then on. HTTP itself, in whatever
/// version and over whatever else, is none: the requests in it would pass by the routes, the limits and the
/// log.
fn tunnelled(protocols: &[u8]) -> Vec<u8> {
    let names = list_members(protocols).filter(|protocol| {
        let name = protocol_name(protocol);
        !NOT_TUNNELLED
            .iter()
            .any(|never| name.eq_ignore_ascii_case(never.as_bytes()))
    });
    names.collect::<Vec<_>>().join(&b", "[..])
}

/// A protocol's name without its version (RFC 9110 7.8).
fn protocol_name(protocol: &[u8]) -> &[u8] {
    let end = memchr::memchr(b'/', protocol).unwrap_or(protocol.len());
    protocol.get(..end).unwrap_or_default().trim_ascii()
}

/// Whether all of the protocols that a server changes to are among those that it was `asked` for (RFC 9110
/// 7.8: it must not choose another).
pub(super) fn was_asked(asked: &[u8], chosen: &[u8]) -> bool {
    list_members(chosen).all(|chosen| {
        let name = protocol_name(chosen);
        list_members(asked).any(|asked| protocol_name(asked).eq_ignore_ascii_case(name))
    })
}

/// The host with its port as the client sent it, unless the target named another (RFC 9112 3.2.2).
fn received_host(request: &Request) -> &[u8] {
    let host = request.host.as_bytes();
    let names_it = |field: &&[u8]| match field.strip_prefix(host) {
        // Nearly always it is spelled alike, and what follows can only be a port.
        Some([]) => true,
        Some([b':', port @ ..]) if port.len() < 5 && port.iter().all(u8::is_ascii_digit) => true,
        Some(_) | None => host_of(field).as_deref() == Some(&*request.host),
    };
    request.fields.only("host").filter(names_it).unwrap_or(host)
}

fn push_passed_on(
    head: &mut Vec<u8>,
    request: &Request,
    options: &ConnectionOptions,
    edits: &FieldEdits,
    id: Option<(&str, &str)>,
) {
    let mut cookies = 0;
    let passed_on = request.fields.lines(|name| {
        let ends_here = NOT_PASSED_ON.contains(name)
            || options.is_hop_by_hop(name)
            || forwarded::is_forwarding_field(name)
            || id.is_some_and(|(field, _)| name.eq_ignore_ascii_case(field.as_bytes()))
            || edits.replaces(name);
        let is_cookie = !ends_here && name.eq_ignore_ascii_case(b"cookie");
        cookies += usize::from(is_cookie);
        !ends_here && !is_cookie
    });
    push_lines(head, passed_on);
    if cookies > 0 {
        // RFC 9113 8.2.3: the pieces that HTTP/2 may carry apart are one field again.
        let pieces: Vec<&[u8]> = request.fields.all("cookie").collect();
        push_field_line(head, b"cookie", &pieces.join(&b"; "[..]));
    }
}

/// RFC 9110 7.6.3
fn push_via(head: &mut Vec<u8>, request: &Request) {
    let own: &[u8] = match request.version {
        Version::Http10 => b"1.0 portcullis",
        Version::Http11 => b"1.1 portcullis",
        Version::Http2 => b"2.0 portcullis",
    };
    push_list_line(head, b"via", request.fields.all("via").chain([own]));
}

/// Written anew, taken for something else by CGI (`Proxy` becomes HTTP_PROXY), or for an upgrade that is not passed on (RFC 7540 3.2.1).
static NOT_PASSED_ON: NameSet<5> =
    NameSet::new(["host", "expect", "http2-settings", "proxy", "via"]);

/// RFC 7540 3.2, RFC 2817 3, and the names of both protocols in general.
const NOT_TUNNELLED: [&str; 6] = ["h2", "h2c", "h3", "http", "https", "tls"];

const HEAD_BYTES_USUAL: usize = 1024;

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
