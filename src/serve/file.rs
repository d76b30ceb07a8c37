//! Files of a site: which one a request names, and what of it is sent.

use std::ffi::CStr;
use std::rc::Rc;
use std::sync::Arc;

use aws_lc_rs::rand;
use bytes::Bytes;

use super::cache::{ACCEPT_RANGES, Cache, Content, Found, OpenFile, Refusal};
use super::error_page;
use super::path::RelativePath;
use super::{FileThreads, Now};
use crate::config::Files;
use crate::message::{Body, FileRange, Method, Part, Request, Response, Status};
use crate::proto::conditional::{self, EntityTag, Validators, Verdict};
use crate::proto::range::{self, Selection};

/// The response of the site with index `site`, which serves `files`, to `request`.
///
/// GET and HEAD have the same response (the driver leaves a HEAD's body out). A directory is
/// served by its index file; without its closing '/' it is redirected (308), so that relative links
/// in the index resolve; without an index it is not found. OPTIONS is answered with the methods;
/// other methods are not allowed (405), or unknown (501, RFC 9110 9.1).
pub async fn respond<T: FileThreads>(
    cache: &Cache<T>,
    site: usize,
    files: &Files,
    request: &Request,
    now: Now,
) -> Response {
    match &request.method {
        Method::Get | Method::Head => {}
        Method::Options => return Response::new(Status(204)).with("allow", ALLOW),
        Method::Other(_) => return error_page::page(Status(501)),
        Method::Post
        | Method::Put
        | Method::Delete
        | Method::Patch
        | Method::Connect
        | Method::Trace => return error_page::page(Status(405)).with("allow", ALLOW),
    }
    let path = match RelativePath::parse(request.path(), files.dotfiles) {
        Ok(path) => path,
        Err(status) => return error_page::page(status),
    };
    let found = if path.directory {
        find_index(cache, site, &path, &files.index, now).await
    } else {
        cache.find(site, &path.beneath, now).await
    };
    match found {
        Ok(Found::File(file)) => represent(request, &file, now),
        Ok(Found::Directory) => {
            let target = path.directory_target(request.query());
            error_page::page(Status(308)).with("location", Bytes::from(target))
        }
        Err(refusal) => error_page::page(match refusal {
            Refusal::NotFound => Status(404),
            Refusal::Forbidden => Status(403),
            Refusal::Overloaded => Status(503),
            Refusal::Failed => Status(500),
        }),
    }
}

/// The first index file that is there.
async fn find_index<T: FileThreads>(
    cache: &Cache<T>,
    site: usize,
    directory: &RelativePath,
    index: &[String],
    now: Now,
) -> Result<Found, Refusal> {
    for name in index {
        let Ok(path) = directory.join(name) else {
            continue;
        };
        match cache.find(site, CStr::as_ref(&path), now).await {
            Ok(Found::Directory) | Err(Refusal::NotFound) => {}
            outcome => return outcome,
        }
    }
    Err(Refusal::NotFound)
}

/// The response with `file`, after the request's preconditions and range.
fn represent(request: &Request, file: &OpenFile, now: Now) -> Response {
    if !conditional::may_decide(&request.fields) {
        return describe(Status(200), file).with_body(body(file, 0, file.size));
    }
    let validators = Validators {
        etag: EntityTag::parse(&file.etag),
        last_modified: Some(file.modified),
    };
    match conditional::evaluate(request, Some(&validators)) {
        Verdict::Failed => return error_page::page(Status(412)),
        // RFC 9110 15.4.5: the fields that would update a stored response, and no others.
        Verdict::NotModified => {
            return Response::new(Status(304))
                .with("etag", file.etag.clone())
                .with("last-modified", file.last_modified.clone())
                .with_body(body(file, 0, file.size));
        }
        Verdict::Proceed => {}
    }
    match range::select(request, &validators, file.size, now.wall) {
        Selection::Full => describe(Status(200), file).with_body(body(file, 0, file.size)),
        Selection::Partial { offset, length } => describe(Status(206), file)
            .with(
                "content-range",
                range::content_range(offset, length, file.size),
            )
            .with_body(body(file, offset, length)),
        Selection::Several(parts) => multipart(file, &parts),
        Selection::Unsatisfiable => error_page::page(Status(416))
            .with("accept-ranges", ACCEPT_RANGES)
            .with("content-range", range::content_range_unsatisfied(file.size)),
    }
}

/// The response with several parts of `file`, as (offset, length) (RFC 9110 14.6, 15.3.7.2).
fn multipart(file: &OpenFile, parts: &[(u64, u64)]) -> Response {
    let Some(boundary) = boundary() else {
        return error_page::page(Status(500));
    };
    let mut body_parts = Vec::with_capacity(2 * parts.len() + 1);
    let mut text = Vec::new();
    for &(offset, length) in parts {
        for piece in [
            b"\r\n--",
            boundary.as_bytes(),
            b"\r\ncontent-type: ",
            &*file.content_type,
            b"\r\ncontent-range: ",
            &*range::content_range(offset, length, file.size),
            b"\r\n\r\n",
        ] {
            text.extend_from_slice(piece);
        }
        body_parts.push(Part::Bytes(std::mem::take(&mut text).into()));
        body_parts.push(match &file.content {
            Content::Bytes(bytes) => Part::Bytes(part(bytes, offset, length)),
            Content::File(descriptor) => Part::File(FileRange {
                file: Arc::clone(descriptor),
                offset,
                length,
            }),
        });
    }
    body_parts.push(Part::Bytes(format!("\r\n--{boundary}--\r\n").into()));
    // RFC 9110 15.3.7.2: the type is that of the whole, and there is no Content-Range beside those
    // of the parts.
    let content_type = format!("multipart/byteranges; boundary={boundary}");
    let described = file.fields.fields().iter();
    let mut response = Response::new(Status(206)).with("content-type", content_type);
    let other_fields = described.filter(|(name, _)| *name != "content-type");
    response.fields.extend(other_fields.cloned());
    response.with_body(Body::Parts(body_parts))
}

/// A boundary that nobody can have put into a file: 128 random bits. `None` when there are none.
fn boundary() -> Option<String> {
    let mut random = [0; BOUNDARY_BYTES];
    rand::fill(&mut random).ok()?;
    let mut text = String::with_capacity(2 * random.len());
    for byte in random {
        for nibble in [byte >> 4, byte & 0xf] {
            text.push(char::from_digit(u32::from(nibble), 16)?);
        }
    }
    Some(text)
}

fn describe(status: Status, file: &OpenFile) -> Response {
    Response::new(status).with_block(Rc::clone(&file.fields))
}

fn body(file: &OpenFile, offset: u64, length: u64) -> Body {
    match &file.content {
        _ if length == 0 => Body::Empty,
        Content::Bytes(bytes) => Body::Bytes(part(bytes, offset, length)),
        Content::File(descriptor) => Body::File(FileRange {
            file: Arc::clone(descriptor),
            offset,
            length,
        }),
    }
}

/// A part of `bytes`, sharing them.
fn part(bytes: &Bytes, offset: u64, length: u64) -> Bytes {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
    match bytes.get(start..end) {
        Some(part) => bytes.slice_ref(part),
        None => Bytes::new(),
    }
}

const BOUNDARY_BYTES: usize = 16;

const ALLOW: Bytes = Bytes::from_static(b"GET, HEAD, OPTIONS");
