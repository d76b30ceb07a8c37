//! Files of a site: which one a request names, and what of it is sent.

use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::rc::Rc;
use std::sync::Arc;

use aws_lc_rs::rand;
use bytes::Bytes;

use super::cache::{Cache, Content, Found, OpenFile, Refusal};
use super::coded::{self, NotAcceptable, Variant};
use super::path::{self, RelativePath};
use super::{FileThreads, describe, error_page};
use crate::config::Files;
use crate::message::{Body, FileRange, Method, Now, Part, Request, Response, Status};
use crate::proto::conditional::{self, EntityTag, Validators, Verdict};
use crate::proto::range::{self, Selection};

/// One site, as far as its files go.
pub struct FileSite<'a, T> {
    /// Its files.
    pub cache: &'a Cache<T>,
    /// Its index among the sites of the cache.
    pub index: usize,
    /// How they are served.
    pub files: &'a Files,
}

// Not derived: that would ask the same of the threads.
impl<T> Clone for FileSite<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for FileSite<'_, T> {}

/// What a path leads to, and where it is.
enum Target<'a> {
    File(Rc<OpenFile>, Cow<'a, CStr>),
    Listing(Rc<OpenFile>),
    /// A directory that was named without its closing '/'.
    Directory,
}

impl<T: FileThreads> FileSite<'_, T> {
    /// The response to `request`.
    ///
    /// GET and HEAD have the same response (the driver leaves a HEAD's body out). A directory is
    /// served by its index file; without its closing '/' it is redirected (308), so that relative
    /// links in the index resolve; without an index it is listed or not found. OPTIONS is answered
    /// with the methods; other methods are not allowed (405), or unknown (501, RFC 9110 9.1).
    ///
    /// Where the site has a page for the status of an error, that page is its body.
    pub async fn respond(self, request: &Request, now: Now) -> Response {
        let response = match &request.method {
            Method::Get | Method::Head => self.read(request, now).await,
            Method::Options => Response::new(Status(204)).with("allow", ALLOW),
            Method::Other(_) => error_page::page(Status(501)),
            Method::Post
            | Method::Put
            | Method::Delete
            | Method::Patch
            | Method::Connect
            | Method::Trace => error_page::page(Status(405)).with("allow", ALLOW),
        };
        self.with_own_page(response, now).await
    }

    /// As [`FileSite::respond`], for files that the cache knows; `None` for all else.
    pub fn respond_known(self, request: &Request, now: Now) -> Option<Response> {
        if !matches!(request.method, Method::Get | Method::Head) {
            return None;
        }
        let variant = match path::plain(&request.target) {
            Some(at) => match self.cache.find_known(self.index, at, now)? {
                Ok(Found::File(file)) => coded::choose_known(self, at, file, request, now)?,
                Ok(Found::Directory) | Err(_) => return None,
            },
            None => {
                let path = RelativePath::parse(request.path(), self.files.dotfiles).ok()?;
                let (file, at) = self.find_known(&path, now)?;
                coded::choose_known(self, at.to_bytes(), file, request, now)?
            }
        };
        let response = represent(request, &variant.ok()?, now);
        // The site may have a page for an error.
        if response.status >= Status(400) {
            return None;
        }
        Some(response)
    }

    async fn read(self, request: &Request, now: Now) -> Response {
        let path = match RelativePath::parse(request.path(), self.files.dotfiles) {
            Ok(path) => path,
            Err(status) => return error_page::page(status),
        };
        match self.find(&path, now).await {
            Ok(Target::File(file, at)) => {
                let chosen = coded::choose(self, &at, file, request, now).await;
                match chosen {
                    Ok(variant) => represent(request, &variant, now),
                    Err(NotAcceptable) => error_page::page(Status(406))
                        .with(describe::VARY, describe::ACCEPT_ENCODING),
                }
            }
            Ok(Target::Listing(file)) => {
                let fields = Rc::clone(&file.fields);
                represent(request, &Variant { file, fields }, now)
            }
            Ok(Target::Directory) => {
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

    /// The file that `path` leads to, and where it is, if the cache knows.
    fn find_known<'p>(
        self,
        path: &'p RelativePath,
        now: Now,
    ) -> Option<(Rc<OpenFile>, Cow<'p, CStr>)> {
        let find = |at: &CStr| self.cache.find_known(self.index, at.to_bytes(), now);
        if !path.directory {
            return match find(&path.beneath)? {
                Ok(Found::File(file)) => Some((file, Cow::Borrowed(&path.beneath))),
                Ok(Found::Directory) | Err(_) => None,
            };
        }
        for name in &self.files.index {
            let at = path.join(name).ok()?;
            match find(&at)? {
                Ok(Found::File(file)) => return Some((file, Cow::Owned(at))),
                Ok(Found::Directory) | Err(Refusal::NotFound) => {}
                Err(_) => return None,
            }
        }
        None
    }

    async fn find<'p>(self, path: &'p RelativePath, now: Now) -> Result<Target<'p>, Refusal> {
        let (cache, site) = (self.cache, self.index);
        if !path.directory {
            return Ok(match cache.find(site, &path.beneath, now).await? {
                Found::File(file) => Target::File(file, Cow::Borrowed(&path.beneath)),
                Found::Directory => Target::Directory,
            });
        }
        // The first index file that is there.
        for name in &self.files.index {
            let Ok(at) = path.join(name) else {
                continue;
            };
            match cache.find(site, &at, now).await {
                Ok(Found::File(file)) => return Ok(Target::File(file, Cow::Owned(at))),
                Ok(Found::Directory) | Err(Refusal::NotFound) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        match self.files.listing {
            true => {
                let page = Box::pin(cache.list(site, &path.beneath, now)).await?;
                Ok(Target::Listing(page))
            }
            false => Err(Refusal::NotFound),
        }
    }

    /// `response` with the site's page for its status, if there is one.
    pub(super) async fn with_own_page(self, response: Response, now: Now) -> Response {
        let mut pages = self.files.error_pages.iter();
        match pages.find(|page| page.statuses.contains(&response.status)) {
            None => response,
            Some(page) => Box::pin(self.with_page(response, &page.file, now)).await,
        }
    }

    /// `response` with the page in `file`, if it is there. Its other fields stay: they say what is
    /// wrong (Allow, Content-Range).
    async fn with_page(self, response: Response, file: &str, now: Now) -> Response {
        let Ok(path) = CString::new(file) else {
            return response;
        };
        let found = self.cache.find(self.index, &path, now).await;
        let Ok(Found::File(file)) = found else {
            return response;
        };
        let mut own = Response::new(response.status).with_body(body(&file, 0, file.size));
        let replaced = |name: &str| name == describe::CONTENT_TYPE;
        let kept = response.fields.into_iter();
        own.fields = kept.filter(|(name, _)| !replaced(name)).collect();
        let described = file.fields.fields().iter();
        own.fields
            .extend(described.filter(|(name, _)| replaced(name)).cloned());
        own
    }
}

/// The response with `variant`, after the request's preconditions and range.
fn represent(request: &Request, variant: &Variant, now: Now) -> Response {
    let file = &*variant.file;
    let describe = |status| Response::new(status).with_block(Rc::clone(&variant.fields));
    if !conditional::may_decide(&request.fields) {
        return Response {
            block: Some(Rc::clone(&variant.fields)),
            body: body(file, 0, file.size),
            ..Response::new(Status(200))
        };
    }
    let validators = Validators {
        etag: EntityTag::parse(&file.etag),
        last_modified: file.modified,
    };
    match conditional::evaluate(request, Some(&validators)) {
        Verdict::Failed => return error_page::page(Status(412)),
        Verdict::NotModified => {
            let mut response = Response::new(Status(304)).with_body(body(file, 0, file.size));
            response.fields = describe::not_modified(&variant.fields);
            return response;
        }
        Verdict::Proceed => {}
    }
    match range::select(request, &validators, file.size, now.wall) {
        Selection::Full => describe(Status(200)).with_body(body(file, 0, file.size)),
        Selection::Partial { offset, length } => describe(Status(206))
            .with(
                "content-range",
                range::content_range(offset, length, file.size),
            )
            .with_body(body(file, offset, length)),
        Selection::Several(parts) => multipart(variant, &parts),
        Selection::Unsatisfiable => error_page::page(Status(416))
            .with(describe::ACCEPT_RANGES, describe::BYTES)
            .with("content-range", range::content_range_unsatisfied(file.size)),
    }
}

/// The response with several parts of `variant`, as (offset, length) (RFC 9110 14.6, 15.3.7.2).
fn multipart(variant: &Variant, parts: &[(u64, u64)]) -> Response {
    let file = &*variant.file;
    let content_type = describe::value(&variant.fields, describe::CONTENT_TYPE);
    let Some(boundary) = boundary() else {
        return error_page::page(Status(500));
    };
    let mut body_parts = Vec::with_capacity(2 * parts.len() + 1);
    let mut text = Vec::new();
    for &(offset, length) in parts {
        for piece in [
            &b"\r\n--"[..],
            boundary.as_bytes(),
            b"\r\ncontent-type: ",
            content_type.map_or(&b""[..], |value| value),
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
                is_remote: file.is_remote,
            }),
        });
    }
    body_parts.push(Part::Bytes(format!("\r\n--{boundary}--\r\n").into()));
    // RFC 9110 15.3.7.2: the type is that of the whole, and there is no Content-Range beside those
    // of the parts.
    let own_type = format!("multipart/byteranges; boundary={boundary}");
    let described = variant.fields.fields().iter();
    let mut response = Response::new(Status(206)).with(describe::CONTENT_TYPE, own_type);
    let other_fields = described.filter(|(name, _)| *name != describe::CONTENT_TYPE);
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

fn body(file: &OpenFile, offset: u64, length: u64) -> Body {
    match &file.content {
        _ if length == 0 => Body::Empty,
        Content::Bytes(bytes) => Body::Bytes(part(bytes, offset, length)),
        Content::File(descriptor) => Body::File(FileRange {
            file: Arc::clone(descriptor),
            offset,
            length,
            is_remote: file.is_remote,
        }),
    }
}

/// A part of `bytes`, sharing them.
fn part(bytes: &Bytes, offset: u64, length: u64) -> Bytes {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
    match bytes.get(start..end) {
        Some(part) if part.len() == bytes.len() => bytes.clone(),
        Some(part) => bytes.slice_ref(part),
        None => Bytes::new(),
    }
}

const BOUNDARY_BYTES: usize = 16;

const ALLOW: Bytes = Bytes::from_static(b"GET, HEAD, OPTIONS");
