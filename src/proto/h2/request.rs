//! Requests out of header lists (RFC 9113 8.1 to 8.3, RFC 8441 4).
//!
//! What is malformed is refused even where only an HTTP/1.1 server behind this one could read it
//! differently (RFC 9113 10.3).

use super::field::{self, Class};
use super::hpack::HeaderList;
use super::priority::Priority;
use crate::limits::METHOD_BYTES_MAX;
use crate::message::{BodyLength, Interims, Method, Request, RequestId, Status, Version};
use crate::proto::authority::{host_of, is_connect_target};
use crate::proto::syntax::{decimal, is_token};

/// What the listener allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The `:path`, in bytes: 414 beyond.
    pub target_bytes_max: usize,
    /// Whether this side sent SETTINGS_ENABLE_CONNECT_PROTOCOL (RFC 8441 3).
    pub extended_connect: bool,
}

/// A request, and what HTTP/2 says about it beyond the semantics.
#[derive(Debug)]
pub struct Head {
    /// The request.
    pub request: Request,
    /// `:protocol` of an extended CONNECT (RFC 8441 4), such as `websocket`.
    pub protocol: Option<Box<str>>,
    /// The priority that the client wishes.
    pub priority: Priority,
    /// Whether it takes fields behind the content (RFC 9110 6.5.1).
    pub takes_trailers: bool,
}

/// Why a request is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It breaks the protocol: a stream error of type PROTOCOL_ERROR (RFC 9113 8.1.1).
    Malformed(&'static str),
    /// It is to be answered with that status; the reason is for the log.
    Answer(Status, &'static str),
}

/// The request of a header list that opened a stream. `end_stream` says that no body follows.
///
/// # Errors
/// See [`Refusal`].
pub fn request(list: &HeaderList, end_stream: bool, bounds: &Bounds) -> Result<Head, Refusal> {
    if list.overflowed() {
        return Err(Refusal::Answer(Status(431), "too many or too large fields"));
    }
    let (pseudo, first_field) = Pseudo::read(list)?;
    let mut control = Control::default();
    control.read_from(list, first_field)?;
    let method = pseudo.method()?;
    let (target, protocol) = pseudo.target(&method, bounds)?;
    Ok(Head {
        request: Request {
            body_length: control.body_length(end_stream)?,
            expects_continue: control.expects_continue(end_stream)?,
            id: RequestId::default(),
            interims: Interims::default(),
            host: host(pseudo.authority, control.host)?,
            method,
            version: Version::Http2,
            target,
            fields: list.to_fields(first_field),
        },
        protocol,
        priority: control
            .priority
            .and_then(Priority::parse)
            .unwrap_or_default(),
        takes_trailers: control.takes_trailers,
    })
}

/// Checks the list that ended a body: fields without pseudo-header fields (RFC 9113 8.1).
///
/// # Errors
/// See [`Refusal`].
pub fn check_trailers(list: &HeaderList) -> Result<(), Refusal> {
    if list.overflowed() {
        return Err(Refusal::Malformed("too many or too large trailer fields"));
    }
    Control::default().read_from(list, 0)
}

/// The pseudo-header fields (RFC 9113 8.3.1), each at most once.
#[derive(Default)]
struct Pseudo<'a> {
    method: Option<&'a [u8]>,
    scheme: Option<&'a [u8]>,
    authority: Option<&'a [u8]>,
    path: Option<&'a [u8]>,
    protocol: Option<&'a [u8]>,
}

impl<'a> Pseudo<'a> {
    /// Those that the list begins with, and how many they are. One behind another field is found by
    /// [`field::check`], since no other name has a colon.
    fn read(list: &'a HeaderList) -> Result<(Self, usize), Refusal> {
        let mut pseudo = Self::default();
        let mut count = 0;
        for (name, value, class) in list.classified_from(0) {
            if class != Class::Pseudo {
                break;
            }
            let place = match name {
                b":method" => &mut pseudo.method,
                b":scheme" => &mut pseudo.scheme,
                b":authority" => &mut pseudo.authority,
                b":path" => &mut pseudo.path,
                b":protocol" => &mut pseudo.protocol,
                // RFC 9113 8.3: unknown ones, and those of responses, are malformed.
                _ => return Err(Refusal::Malformed("unknown pseudo-header field")),
            };
            let repeated = Refusal::Malformed("repeated pseudo-header field");
            once(place, value, repeated)?;
            count += 1;
        }
        Ok((pseudo, count))
    }

    fn method(&self) -> Result<Method, Refusal> {
        let method = self.method.ok_or(Refusal::Malformed("no :method"))?;
        if method == b"GET" {
            // What most are needs no look at its letters.
            return Ok(Method::Get);
        }
        if !is_token(method) {
            return Err(Refusal::Malformed("malformed :method"));
        }
        if method.len() > METHOD_BYTES_MAX {
            let reason = "the method is longer than any known";
            return Err(Refusal::Answer(Status(501), reason));
        }
        text(method).map(Method::from_token)
    }

    /// `:path`, and `:protocol` where it is allowed.
    fn target(
        &self,
        method: &Method,
        bounds: &Bounds,
    ) -> Result<(Box<str>, Option<Box<str>>), Refusal> {
        if *method == Method::Connect && self.protocol.is_none() {
            return Err(self.refuse_connect());
        }
        let protocol = match self.protocol {
            None => None,
            Some(protocol)
                if bounds.extended_connect && *method == Method::Connect && is_token(protocol) =>
            {
                Some(text(protocol)?.into())
            }
            Some(_) => return Err(Refusal::Malformed("unexpected :protocol")),
        };
        match self.scheme {
            Some(b"https" | b"http") => {}
            Some(_) => return Err(Refusal::Answer(Status(400), "another :scheme than http")),
            None => return Err(Refusal::Malformed("no :scheme")),
        }
        let path = self.path.ok_or(Refusal::Malformed("no :path"))?;
        let asterisk = *method == Method::Options && path == b"*";
        // The characters are those that a request line may have; white space would end it early.
        let valid = |valid, &byte| valid & matches!(byte, 0x21..=0x7e) & (byte != b'#');
        let valid = path.iter().fold(true, valid);
        if !valid || !(path.starts_with(b"/") || asterisk) {
            return Err(Refusal::Malformed("malformed :path"));
        }
        if path.len() > bounds.target_bytes_max {
            return Err(Refusal::Answer(Status(414), "the :path is too long"));
        }
        Ok((text(path)?.into(), protocol))
    }

    /// RFC 9113 8.5: CONNECT has `:authority` with a port, no `:scheme` and no `:path`. No tunnels
    /// are offered to anyone.
    fn refuse_connect(&self) -> Refusal {
        let has_target = self.authority.is_some_and(is_connect_target);
        if has_target && self.scheme.is_none() && self.path.is_none() {
            Refusal::Answer(Status(501), "CONNECT")
        } else {
            Refusal::Malformed("malformed CONNECT")
        }
    }
}

/// The fields that the connection itself obeys.
#[derive(Default)]
struct Control<'a> {
    host: Option<&'a [u8]>,
    content_length: Option<u64>,
    expect: Option<&'a [u8]>,
    priority: Option<&'a [u8]>,
    takes_trailers: bool,
}

impl<'a> Control<'a> {
    /// Checks the fields from the `first` on, and takes what is to be obeyed.
    fn read_from(&mut self, list: &'a HeaderList, first: usize) -> Result<(), Refusal> {
        for (name, value, class) in list.classified_from(first) {
            match class {
                Class::Plain => {}
                Class::Control => self.read(name, value)?,
                Class::Pseudo | Class::Malformed => {
                    field::check(name, value).map_err(Refusal::Malformed)?;
                }
            }
        }
        Ok(())
    }

    fn read(&mut self, name: &[u8], value: &'a [u8]) -> Result<(), Refusal> {
        match name {
            // RFC 9113 8.2.2: connection-specific fields make a message malformed.
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding"
            | b"upgrade" => return Err(Refusal::Malformed("a connection-specific field")),
            b"te" if !value.eq_ignore_ascii_case(b"trailers") => {
                return Err(Refusal::Malformed("te other than trailers"));
            }
            b"te" => self.takes_trailers = true,
            b"host" => once(&mut self.host, value, Refusal::Malformed("repeated host"))?,
            b"content-length" => {
                let length =
                    decimal(value).ok_or(Refusal::Malformed("malformed content-length"))?;
                // RFC 9110 8.6 lets identical values pass as one; nobody honest sends them.
                let repeated = Refusal::Malformed("repeated content-length");
                once(&mut self.content_length, length, repeated)?;
            }
            b"expect" => once(&mut self.expect, value, UNKNOWN_EXPECTATION)?,
            // Several fields would be one list; the last is a dictionary by itself and wins as in
            // RFC 8941 4.2.
            b"priority" => self.priority = Some(value),
            _ => {}
        }
        Ok(())
    }

    /// RFC 9113 8.1.1: a content-length that differs from what DATA carries is malformed.
    fn body_length(&self, end_stream: bool) -> Result<BodyLength, Refusal> {
        match (end_stream, self.content_length) {
            (true, None | Some(0)) => Ok(BodyLength::Known(0)),
            (true, Some(_)) => Err(Refusal::Malformed("content-length without content")),
            (false, Some(length)) => Ok(BodyLength::Known(length)),
            (false, None) => Ok(BodyLength::Delimited),
        }
    }

    /// Whether the client waits for 100 (Continue): not once it has ended the stream.
    fn expects_continue(&self, end_stream: bool) -> Result<bool, Refusal> {
        match self.expect {
            None => Ok(false),
            Some(value) if value.eq_ignore_ascii_case(b"100-continue") => Ok(!end_stream),
            Some(_) => Err(UNKNOWN_EXPECTATION),
        }
    }
}

/// The host of `:authority` and Host, which must not contradict each other (RFC 9113 8.3.1).
fn host(authority: Option<&[u8]>, host: Option<&[u8]>) -> Result<Box<str>, Refusal> {
    if let (Some(authority), Some(host)) = (authority, host)
        && !authority.eq_ignore_ascii_case(host)
    {
        return Err(Refusal::Malformed("host other than :authority"));
    }
    let authority = authority
        .or(host)
        .ok_or(Refusal::Malformed("neither :authority nor host"))?;
    host_of(authority).ok_or(Refusal::Malformed("malformed :authority or host"))
}

/// Puts `value` in its place, unless there is one.
fn once<T>(place: &mut Option<T>, value: T, refusal: Refusal) -> Result<(), Refusal> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(refusal),
    }
}

fn text(bytes: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(bytes).map_err(|_| Refusal::Malformed("not ASCII"))
}

const UNKNOWN_EXPECTATION: Refusal =
    Refusal::Answer(Status(417), "an expectation other than 100-continue");

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
