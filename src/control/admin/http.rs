//! A request head and the response to it, as bytes: enough HTTP/1.1 for curl, browsers and Prometheus.
//! Every connection ends with its response.

use std::net::IpAddr;

/// Whom a request may be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hosts {
    /// Addresses and "localhost" only. A page of another name that resolves to this address (DNS
    /// rebinding) must not read the numbers through somebody's browser.
    Local,
    /// Anybody.
    Any,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn new(status: u16, content_type: &'static str, body: String) -> Self {
        Self {
            status,
            content_type,
            body,
        }
    }

    pub(super) fn text(status: u16, body: &str) -> Self {
        Self::new(status, "text/plain; charset=utf-8", body.to_owned())
    }

    pub(super) fn html(body: &str) -> Self {
        Self::new(200, "text/html; charset=utf-8", body.to_owned())
    }
}

/// The whole response to a request head, as far as it was read.
pub(super) fn response(head: &[u8], hosts: Hosts, answer: impl FnOnce(&str) -> Answer) -> Vec<u8> {
    let (answer, sends_body) = respond(head, hosts, answer);
    let head = format!(
        "HTTP/1.1 {} {}\r\ncontent-type: {}\r\ncontent-length: {}\r\nconnection: close\r\n\
         cache-control: no-store\r\nx-content-type-options: nosniff\r\n\
         content-security-policy: {CONTENT_SECURITY_POLICY}\r\n\r\n",
        answer.status,
        crate::message::Status(answer.status).reason(),
        answer.content_type,
        answer.body.len(),
    );
    let mut bytes = head.into_bytes();
    if sends_body {
        bytes.extend_from_slice(answer.body.as_bytes());
    }
    bytes
}

/// Whether a head has come to its end, or grown as large as is read at most.
pub(super) fn is_whole(head: &[u8]) -> bool {
    head.len() >= HEAD_BYTES_MAX || memchr::memmem::find(head, b"\r\n\r\n").is_some()
}

/// The answer to a request head, and whether its body is sent.
fn respond(head: &[u8], hosts: Hosts, answer: impl FnOnce(&str) -> Answer) -> (Answer, bool) {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => {
            return (Answer::text(431, "the request head is too long\n"), true);
        }
        Err(error) => return (Answer::text(400, &format!("{error}\n")), true),
    }
    let sends_body = match request.method {
        Some("GET") => true,
        Some("HEAD") => false,
        _ => return (Answer::text(405, "GET and HEAD only\n"), true),
    };
    let mut host = request
        .headers
        .iter()
        .filter(|field| field.name.eq_ignore_ascii_case("host"));
    let is_allowed = match hosts {
        Hosts::Any => true,
        Hosts::Local => host.all(|field| is_local(field.value)),
    };
    if !is_allowed {
        let text = "ask for this address or for localhost\n";
        return (Answer::text(421, text), sends_body);
    }
    let target = request.path.unwrap_or_default();
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    (answer(path), sends_body)
}

/// Whether a Host field names an address or localhost, with or without a port.
fn is_local(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else {
        return false;
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    name.eq_ignore_ascii_case("localhost") || address.unwrap_or(name).parse::<IpAddr>().is_ok()
}

/// The page's own script and styles, and this server's numbers; nothing else, and in no frame.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src \
                                       'unsafe-inline'; connect-src 'self'; img-src data:; \
                                       frame-ancestors 'none'; base-uri 'none'";

const HEAD_BYTES_MAX: usize = 8 * 1024;

const FIELDS_MAX: usize = 64;
