//! Files that lie in content codings beside themselves: `app.js.br` beside `app.js`.
//!
//! A sibling counts when it is a file that was modified no earlier than the file itself: an older one
//! was made from another state. Siblings are cached as every file is; the file itself remembers
//! which ones it has, for as long as an entry is believed, so that a hit asks the system nothing and
//! looks only for the sibling that is sent.

use std::cell::{Cell, OnceCell};
use std::ffi::{CStr, CString};
use std::rc::Rc;
use std::time::Instant;

use super::cache::{Found, OpenFile, REVALIDATE_AFTER, Refusal};
use super::file::FileSite;
use super::{FileThreads, describe};
use crate::message::{FieldBlock, Now, Request};
use crate::proto::content_coding::{Acceptable, Coding};

/// What a file knows of itself in other codings.
#[derive(Debug, Default)]
pub(crate) struct Siblings {
    /// For each coding, whether there is one, and when that was seen.
    seen: [Cell<Option<(bool, Instant)>>; Coding::COUNT],
    /// This file's own fields as a sibling. It is one of one file and coding only: that its path
    /// names.
    as_sibling: OnceCell<Rc<FieldBlock>>,
    /// This file's fields where it has siblings.
    as_original: OnceCell<Rc<FieldBlock>>,
}

/// What answers a request.
pub(crate) struct Variant {
    /// The bytes and their validators.
    pub(crate) file: Rc<OpenFile>,
    /// The fields that describe them.
    pub(crate) fields: Rc<FieldBlock>,
}

/// No coding in which the file is there is acceptable (RFC 9110 15.5.7).
pub(crate) struct NotAcceptable;

/// The variant of `file`, which lies at `path` beneath the root of `site`, that `request` prefers
/// among itself and the codings in which it is there.
pub(crate) async fn choose<T: FileThreads>(
    site: FileSite<'_, T>,
    path: &CStr,
    file: Rc<OpenFile>,
    request: &Request,
    now: Now,
) -> Result<Variant, NotAcceptable> {
    let codings = &site.files.precompressed;
    if codings.is_empty() {
        return Ok(itself(file, false));
    }
    let mut present = [false; Coding::COUNT];
    for &coding in codings {
        if let Some(place) = present.get_mut(coding.index()) {
            *place = is_present(site, path, &file, coding, now).await;
        }
    }
    let varies = present.contains(&true);
    loop {
        let Some(coding) = preferred(codings, present, request)? else {
            return Ok(itself(file, varies));
        };
        if let Ok(Some(sibling)) = find(site, path, &file, coding, now).await {
            return Ok(coded(&file, coding, sibling));
        }
        // Gone since it was seen, or not to be had now.
        if let Some(place) = present.get_mut(coding.index()) {
            *place = false;
        }
    }
}

/// As [`choose`], from what the cache knows; `None` where that is not enough.
pub(crate) fn choose_known<T: FileThreads>(
    site: FileSite<'_, T>,
    path: &[u8],
    file: Rc<OpenFile>,
    request: &Request,
    now: Now,
) -> Option<Result<Variant, NotAcceptable>> {
    let codings = &site.files.precompressed;
    if codings.is_empty() {
        return Some(Ok(itself(file, false)));
    }
    let mut present = [false; Coding::COUNT];
    for &coding in codings {
        *present.get_mut(coding.index())? = file.siblings.known(coding, now)?;
    }
    match preferred(codings, present, request) {
        Err(refusal) => Some(Err(refusal)),
        Ok(None) => Some(Ok(itself(file, present.contains(&true)))),
        Ok(Some(coding)) => {
            let path = [path, coding.suffix()].concat();
            match site.cache.find_known(site.index, &path, now)? {
                Ok(Found::File(sibling)) if counts(&sibling, &file) => {
                    Some(Ok(coded(&file, coding, sibling)))
                }
                Ok(Found::File(_) | Found::Directory) | Err(_) => None,
            }
        }
    }
}

/// The coding among those in `codings` that are `present` that `request` prefers; `None` for the file
/// itself.
fn preferred(
    codings: &[Coding],
    present: [bool; Coding::COUNT],
    request: &Request,
) -> Result<Option<Coding>, NotAcceptable> {
    let is_there = |coding: &Coding| present.get(coding.index()) == Some(&true);
    let there = codings.iter().copied().filter(is_there);
    Acceptable::parse(&request.fields)
        .choose(there)
        .ok_or(NotAcceptable)
}

fn itself(file: Rc<OpenFile>, varies: bool) -> Variant {
    let fields = match varies {
        true => Rc::clone(
            file.siblings
                .as_original
                .get_or_init(|| Rc::new(describe::uncoded(&file.fields))),
        ),
        false => Rc::clone(&file.fields),
    };
    Variant { file, fields }
}

fn coded(file: &OpenFile, coding: Coding, sibling: Rc<OpenFile>) -> Variant {
    let fields = Rc::clone(
        sibling
            .siblings
            .as_sibling
            .get_or_init(|| Rc::new(describe::coded(&file.fields, coding, &sibling.fields))),
    );
    Variant {
        file: sibling,
        fields,
    }
}

impl Siblings {
    /// Whether there is one in `coding`, where that was seen lately.
    fn known(&self, coding: Coding, now: Now) -> Option<bool> {
        let (present, at) = self.seen.get(coding.index())?.get()?;
        let is_fresh = now.monotonic.saturating_duration_since(at) < REVALIDATE_AFTER;
        is_fresh.then_some(present)
    }
}

async fn is_present<T: FileThreads>(
    site: FileSite<'_, T>,
    path: &CStr,
    file: &OpenFile,
    coding: Coding,
    now: Now,
) -> bool {
    if let Some(present) = file.siblings.known(coding, now) {
        return present;
    }
    let Some(seen) = file.siblings.seen.get(coding.index()) else {
        return false;
    };
    match find(site, path, file, coding, now).await {
        Ok(sibling) => {
            seen.set(Some((sibling.is_some(), now.monotonic)));
            sibling.is_some()
        }
        // What may be over in a moment is not remembered.
        Err(_) => false,
    }
}

/// The sibling in `coding`; `None` when there is none that counts.
async fn find<T: FileThreads>(
    site: FileSite<'_, T>,
    path: &CStr,
    file: &OpenFile,
    coding: Coding,
    now: Now,
) -> Result<Option<Rc<OpenFile>>, Refusal> {
    let Some(path) = sibling_path(path, coding) else {
        return Ok(None);
    };
    match site.cache.find(site.index, &path, now).await {
        Ok(Found::File(sibling)) => Ok(Some(sibling).filter(|sibling| counts(sibling, file))),
        Ok(Found::Directory) | Err(Refusal::NotFound | Refusal::Forbidden) => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

fn sibling_path(path: &CStr, coding: Coding) -> Option<CString> {
    CString::new([path.to_bytes(), coding.suffix()].concat()).ok()
}

fn counts(sibling: &OpenFile, file: &OpenFile) -> bool {
    sibling.modified >= file.modified
}
