//! `[[site.headers]]`, `[[site.error_pages]]` and the codings of precompressed files.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use toml::Spanned;

use super::Checker;
use crate::config::files::interned;
use crate::config::raw::{RawErrorPage, RawHeaders, Value};
use crate::config::{ErrorPage, HeaderRule, range};
use crate::limits::HEADER_RULE_FIELD_BYTES_MAX;
use crate::message::Status;
use crate::proto::content_coding::Coding;
use crate::proto::syntax::{is_field_value_byte, is_token, trim_ows};

impl Checker<'_> {
    pub(super) fn precompressed(&mut self, raw: Value<Vec<Spanned<String>>>) -> Vec<Coding> {
        let mut codings = Vec::new();
        for written in raw.map(Spanned::into_inner).unwrap_or_default() {
            let Some(coding) = self.choice("precompressed", &written, &CODINGS) else {
                continue;
            };
            if codings.contains(&coding) {
                self.problem(
                    written.span(),
                    format!("{:?} is there twice", written.get_ref()),
                    "remove it",
                );
                continue;
            }
            codings.push(coding);
        }
        codings
    }

    pub(super) fn header_rules(&mut self, raw: Vec<Spanned<RawHeaders>>) -> Arc<[HeaderRule]> {
        let rules = raw.into_iter().map(|raw| {
            let header = raw.span();
            let raw = raw.into_inner();
            if raw.fields.is_none() && raw.content_type.is_none() {
                self.problem(
                    header,
                    "this [[site.headers]] sets nothing",
                    "add fields = [\"cache-control: max-age=3600\"] or a content_type",
                );
            }
            HeaderRule {
                path: self.rule_path(raw.path),
                extensions: self.extensions(raw.extensions),
                fields: self.fields(raw.fields),
                content_type: self.content_type(raw.content_type),
            }
        });
        rules.collect()
    }

    /// Each page is looked at here, where a mistake can still be told: when it is missing, the
    /// built-in page stands in for it. `root` is `None` when there is a problem with it.
    pub(super) fn error_pages(
        &mut self,
        raw: Vec<Spanned<RawErrorPage>>,
        root: Option<&Path>,
    ) -> Vec<ErrorPage> {
        let mut pages: Vec<ErrorPage> = Vec::new();
        for raw in raw {
            let header = raw.span();
            let raw = raw.into_inner();
            let statuses = self.statuses(raw.statuses, &header, &pages);
            let Some(file) = raw.file else {
                self.problem(
                    header,
                    "this [[site.error_pages]] has no `file`",
                    "add file = \"/errors/404.html\", a file beneath the site's root",
                );
                continue;
            };
            if let Some(file) = self.error_page_file(&file, root) {
                pages.push(ErrorPage { statuses, file });
            }
        }
        pages
    }

    fn statuses(
        &mut self,
        raw: Value<Vec<Spanned<i64>>>,
        header: &std::ops::Range<usize>,
        pages: &[ErrorPage],
    ) -> Vec<Status> {
        let span = raw.as_ref().map_or_else(|| header.clone(), Spanned::span);
        let raw = raw.map(Spanned::into_inner).unwrap_or_default();
        if raw.is_empty() {
            self.problem(
                span,
                "this [[site.error_pages]] has no `statuses`",
                "add statuses = [404]",
            );
        }
        let mut statuses: Vec<Status> = Vec::new();
        for written in &raw {
            let before = self.problems.len();
            let number = self.number("statuses", written, &range::ERROR_STATUS, 500_u16);
            let status = Status(number);
            let taken = pages.iter().flat_map(|page| &page.statuses);
            if self.problems.len() > before {
                continue;
            }
            if taken.chain(&statuses).any(|&taken| taken == status) {
                self.problem(
                    written.span(),
                    format!("{number} has an error page already"),
                    "keep one page for each status",
                );
                continue;
            }
            statuses.push(status);
        }
        statuses
    }

    fn error_page_file(&mut self, file: &Spanned<String>, root: Option<&Path>) -> Option<String> {
        let written = file.get_ref().as_str();
        let relative = written.strip_prefix('/').unwrap_or(written);
        let is_plain = |name: &str| !matches!(name, "" | "." | "..") && !name.contains('\0');
        if !relative.split('/').all(is_plain) {
            self.problem(
                file.span(),
                format!("{written:?} is no file beneath the root"),
                "write its path from the site's root, as \"/errors/404.html\"",
            );
            return None;
        }
        if let Some(root) = root
            && !root.join(relative).is_file()
        {
            self.problem(
                file.span(),
                format!("there is no file {:?}", root.join(relative)),
                "create it, or correct the path, which starts at the site's root",
            );
            return None;
        }
        Some(relative.to_owned())
    }

    fn rule_path(&mut self, raw: Value<String>) -> String {
        let Some(raw) = raw else {
            return RULE_PATH_DEFAULT.to_owned();
        };
        let written = raw.get_ref().as_str();
        let is_plain = |name: &str| !matches!(name, "" | "." | "..") && !name.contains('\0');
        let names = written.strip_prefix('/').map(|rest| {
            let rest = rest.strip_suffix('/').unwrap_or(rest);
            rest.is_empty() || rest.split('/').all(is_plain)
        });
        if names != Some(true) || written == "//" {
            self.problem(
                raw.span(),
                format!("{written:?} is no path of the site"),
                "write \"/assets/\" for all files beneath a directory, \"/robots.txt\" for one file",
            );
        }
        raw.into_inner()
    }

    fn extensions(&mut self, raw: Value<Vec<Spanned<String>>>) -> Vec<String> {
        let mut extensions = Vec::new();
        for written in raw.map(Spanned::into_inner).unwrap_or_default() {
            let text = written.get_ref();
            if text.is_empty() || text.contains(['.', '/', '\0', '*']) {
                self.problem(
                    written.span(),
                    format!("{text:?} is no extension"),
                    "write what follows a name's last dot, as \"css\"",
                );
                continue;
            }
            extensions.push(text.to_ascii_lowercase());
        }
        extensions
    }

    fn fields(&mut self, raw: Value<Vec<Spanned<String>>>) -> Vec<(&'static str, Bytes)> {
        let mut fields = Vec::new();
        for written in raw.map(Spanned::into_inner).unwrap_or_default() {
            match field(written.get_ref()) {
                Ok(field) => fields.push(field),
                Err((message, remedy)) => self.problem(written.span(), message, remedy),
            }
        }
        fields
    }

    fn content_type(&mut self, raw: Value<String>) -> Option<Bytes> {
        let raw = raw?;
        let written = raw.get_ref().as_str();
        let (media_type, parameters) = written.split_once(';').unwrap_or((written, ""));
        let is_type = media_type
            .trim_end()
            .split_once('/')
            .is_some_and(|(kind, subtype)| {
                is_token(kind.as_bytes()) && is_token(subtype.as_bytes())
            });
        let is_text = parameters
            .bytes()
            .all(|b| b.is_ascii_graphic() || b == b' ');
        if !is_type || !is_text || written.len() > HEADER_RULE_FIELD_BYTES_MAX {
            self.problem(
                raw.span(),
                format!("{written:?} is no media type"),
                "write one, as \"text/plain; charset=utf-8\"",
            );
        }
        Some(raw.into_inner().into())
    }
}

/// The field that `written` is, as "name: value". Or what is wrong with it, and what to do.
fn field(written: &str) -> Result<(&'static str, Bytes), (String, String)> {
    let Some((name, value)) = written.split_once(':') else {
        return Err((
            format!("{written:?} is no header field"),
            "write a name, a colon and a value, as \"cache-control: max-age=3600\"".to_owned(),
        ));
    };
    if !is_token(name.as_bytes()) {
        return Err((
            format!("{name:?} is no name of a header field"),
            "use letters, digits and hyphens".to_owned(),
        ));
    }
    let name = name.to_ascii_lowercase();
    if let Some((_, remedy)) = RESERVED.iter().find(|(names, _)| names.contains(&&*name)) {
        return Err((format!("`{name}` cannot be set here"), (*remedy).to_owned()));
    }
    let value = trim_ows(value.as_bytes());
    if value.is_empty() || !value.iter().copied().all(is_field_value_byte) {
        return Err((
            format!("`{name}` has no value that can be sent"),
            "write text without control characters behind the colon".to_owned(),
        ));
    }
    if name.len() + value.len() > HEADER_RULE_FIELD_BYTES_MAX {
        return Err((
            format!("`{name}` is longer than {HEADER_RULE_FIELD_BYTES_MAX} bytes"),
            "shorten it: clients and proxies refuse long heads".to_owned(),
        ));
    }
    Ok((interned(&name), Bytes::copy_from_slice(value)))
}

const RULE_PATH_DEFAULT: &str = "/";

const CODINGS: [(&str, Coding); 3] = [
    (Coding::Brotli.token(), Coding::Brotli),
    (Coding::Zstd.token(), Coding::Zstd),
    (Coding::Gzip.token(), Coding::Gzip),
];

/// Fields that are not the operator's, and what to do instead.
const RESERVED: [(&[&str], &str); 4] = [
    (
        &[
            "connection",
            "content-length",
            "date",
            "keep-alive",
            "proxy-connection",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
        ],
        "remove it: it belongs to the framing of each response",
    ),
    (
        &[
            "accept-ranges",
            "allow",
            "content-encoding",
            "content-range",
            "etag",
            "last-modified",
            "location",
            "vary",
        ],
        "remove it: it follows from the file and the request",
    ),
    (&["content-type"], "set `content_type` instead"),
    (
        &["strict-transport-security"],
        "add the table [site.hsts] instead",
    ),
];
