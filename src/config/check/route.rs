//! `[[site.route]]` and `[upstream.http]`.

use std::ops::Range as Span;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;

use super::Checker;
use crate::config::raw::{RawRoute, RawUpstreamHttp, Value};
use crate::config::{
    FieldEdits, Files, Route, RouteAction, RouteFiles, RoutePath, RouteProxy, Upstream,
    UpstreamHttp, range, suggest,
};
use crate::limits::ROUTES_PER_SITE_MAX;
use crate::proto::forwarded::Style;
use crate::proto::syntax::{is_field_value_byte, is_token, trim_ows};

impl Checker<'_> {
    /// The routes of one site. `upstreams` has all groups; `files` the site's own settings.
    pub(super) fn routes(
        &mut self,
        raw: Vec<Spanned<RawRoute>>,
        files: &Files,
        upstreams: &[Arc<Upstream>],
    ) -> Vec<Route> {
        if let Some(first) = raw.get(ROUTES_PER_SITE_MAX) {
            self.problem(
                first.span(),
                format!("more than {ROUTES_PER_SITE_MAX} routes of one site"),
                "use prefixes that more requests share",
            );
            return Vec::new();
        }
        let mut routes: Vec<Route> = Vec::with_capacity(raw.len());
        for raw in raw {
            let header = raw.span();
            let Some(route) = self.route(raw.into_inner(), &header, files, upstreams) else {
                continue;
            };
            if routes.iter().any(|known| known.path == route.path) {
                self.problem(
                    header,
                    "another route of this site has the same path",
                    "keep one of the two",
                );
                continue;
            }
            routes.push(route);
        }
        routes
    }

    fn route(
        &mut self,
        raw: RawRoute,
        header: &Span<usize>,
        files: &Files,
        upstreams: &[Arc<Upstream>],
    ) -> Option<Route> {
        let strip_written = raw.strip_prefix.as_ref().map(Spanned::span);
        let strip_prefix = raw
            .strip_prefix
            .as_ref()
            .is_some_and(|strip| *strip.get_ref());
        let request_fields = FieldEdits {
            remove: self.field_names("request_remove", raw.request_remove.clone()),
            set: self.field_lines("request_set", raw.request_set.clone()),
            add: self.field_lines("request_add", raw.request_add.clone()),
        };
        let response_fields = FieldEdits {
            remove: self.field_names("response_remove", raw.response_remove.clone()),
            set: self.field_lines("response_set", raw.response_set.clone()),
            add: self.field_lines("response_add", raw.response_add.clone()),
        };
        let path = self.route_path(&raw, header);
        let action = self.route_action(&raw, header, files, upstreams, strip_prefix);
        let path = path?;
        if let (RoutePath::Exact(_), Some(span), true) = (&path, strip_written, strip_prefix) {
            self.problem(
                span,
                "`strip_prefix` on a route that has none",
                "write `prefix` instead of `path`, or remove `strip_prefix`",
            );
        }
        let action = action?;
        if !matches!(action, RouteAction::Proxy(_)) && !request_fields.is_empty() {
            self.problem(
                header.clone(),
                "this [[site.route]] changes requests that it does not pass on",
                "remove `request_set`, `request_add` and `request_remove`, or name an `upstream`",
            );
        }
        Some(Route {
            path,
            action,
            request_fields,
            response_fields,
        })
    }

    fn route_path(&mut self, raw: &RawRoute, header: &Span<usize>) -> Option<RoutePath> {
        let (text, is_exact) = match (&raw.path, &raw.prefix) {
            (Some(path), None) => (path, true),
            (None, Some(prefix)) => (prefix, false),
            (Some(_), Some(prefix)) => {
                self.problem(
                    prefix.span(),
                    "this [[site.route]] has a `path` and a `prefix`",
                    "keep `path` for one path, or `prefix` for it and all below it",
                );
                return None;
            }
            (None, None) => {
                self.problem(
                    header.clone(),
                    "this [[site.route]] has no `prefix`",
                    "add prefix = \"/api/\", or path = \"/status\" for one path",
                );
                return None;
            }
        };
        let written = text.get_ref();
        let is_plain = written
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"?#%".contains(&byte));
        let has_dots = written
            .split('/')
            .any(|segment| matches!(segment, "." | ".."));
        if !written.starts_with('/') || !is_plain || has_dots || written.contains("//") {
            self.problem(
                text.span(),
                format!("{written:?} is no path to match"),
                "write it from '/' on, in ASCII, without query, percent signs, empty and dot segments",
            );
            return None;
        }
        Some(match is_exact {
            true => RoutePath::Exact(written.clone()),
            false => RoutePath::Prefix(written.clone()),
        })
    }

    fn route_action(
        &mut self,
        raw: &RawRoute,
        header: &Span<usize>,
        files: &Files,
        upstreams: &[Arc<Upstream>],
        strip_prefix: bool,
    ) -> Option<RouteAction> {
        if !self.says_one_thing(raw, header) {
            return None;
        }
        let has_redirect = raw.redirect.is_some();
        self.only_with(
            "body",
            &raw.body,
            "status",
            raw.status.is_some() && !has_redirect,
        );
        self.only_with("host", &raw.host, "upstream", raw.upstream.is_some());
        self.only_with(
            "forwarded",
            &raw.forwarded,
            "upstream",
            raw.upstream.is_some(),
        );
        if let Some(upstream) = &raw.upstream {
            return self.route_proxy(raw, upstream, upstreams, strip_prefix);
        }
        if let Some(redirect) = &raw.redirect {
            return self.route_redirect(redirect, raw.status.as_ref(), strip_prefix);
        }
        if let Some(root) = &raw.root {
            let path: PathBuf = self.base.join(root.get_ref());
            let root = self.directory(path, root.span())?;
            return Some(RouteAction::Files(RouteFiles {
                files: Files {
                    root,
                    ..files.clone()
                },
                strip_prefix,
            }));
        }
        let status = raw.status.as_ref()?;
        let status = self.number("status", status, &range::FIXED_STATUS, 200);
        let body = raw.body.as_ref().map(|body| body.get_ref().clone());
        Some(RouteAction::Fixed { status, body })
    }

    /// Whether exactly one of what a route can do is written.
    fn says_one_thing(&mut self, raw: &RawRoute, header: &Span<usize>) -> bool {
        let has_redirect = raw.redirect.is_some();
        let written = [
            raw.upstream.as_ref().map(Spanned::span),
            raw.root.as_ref().map(Spanned::span),
            raw.redirect.as_ref().map(Spanned::span),
            raw.status
                .as_ref()
                .filter(|_| !has_redirect)
                .map(Spanned::span),
        ];
        let mut given = written.into_iter().flatten();
        let first = given.next();
        if let Some(second) = given.next() {
            self.problem(
                second,
                "this [[site.route]] says twice what its requests get",
                "keep one of `upstream`, `root`, `redirect` and `status`",
            );
            return false;
        }
        if first.is_none() {
            self.problem(
                header.clone(),
                "this [[site.route]] says nothing about what its requests get",
                "add upstream = \"app\", root = \"directory\", redirect = \"https://...\" or \
                 status = 404",
            );
            return false;
        }
        true
    }

    fn only_with<T>(&mut self, key: &str, value: &Value<T>, other: &str, is_there: bool) {
        if let (Some(value), false) = (value, is_there) {
            self.problem(
                value.span(),
                format!("`{key}` on a route without `{other}`"),
                format!("remove `{key}`, or add `{other}`"),
            );
        }
    }

    fn route_proxy(
        &mut self,
        raw: &RawRoute,
        upstream: &Spanned<String>,
        upstreams: &[Arc<Upstream>],
        strip_prefix: bool,
    ) -> Option<RouteAction> {
        if let Some(host) = &raw.host {
            let written = host.get_ref();
            if crate::proto::authority::host_of(written.as_bytes()).is_none() {
                self.problem(
                    host.span(),
                    format!("{written:?} is no host"),
                    "write a name or an address, and a port after a colon where it is another one",
                );
            }
        }
        let style = self.choice_or(
            "forwarded",
            raw.forwarded.clone(),
            &STYLES,
            Style::default(),
        );
        let name = upstream.get_ref();
        let Some(index) = upstreams.iter().position(|known| known.name == *name) else {
            let known: Vec<&str> = upstreams.iter().map(|known| known.name.as_str()).collect();
            let remedy = match &*known {
                [] => format!("add a line [[upstream]] and below it name = {name:?}"),
                known => format!("known are {}", suggest::list(known)),
            };
            self.problem(
                upstream.span(),
                format!("there is no upstream {name:?}"),
                remedy,
            );
            return None;
        };
        Some(RouteAction::Proxy(RouteProxy {
            upstream: index,
            strip_prefix,
            host: raw.host.as_ref().map(|host| host.get_ref().clone()),
            forwarded: style,
        }))
    }

    fn route_redirect(
        &mut self,
        redirect: &Spanned<String>,
        status: Option<&Spanned<i64>>,
        strip_prefix: bool,
    ) -> Option<RouteAction> {
        let location = redirect.get_ref();
        let is_target = location.starts_with('/')
            || location.starts_with("https://")
            || location.starts_with("http://")
            || location == "$path";
        if !is_target || !location.bytes().all(|byte| byte.is_ascii_graphic()) {
            self.problem(
                redirect.span(),
                format!("{location:?} is no target of a redirect"),
                "write a URL, or a path from '/' on, in visible ASCII",
            );
            return None;
        }
        let status = match status {
            None => 308,
            Some(status) => match status.get_ref() {
                301 => 301,
                302 => 302,
                303 => 303,
                307 => 307,
                308 => 308,
                other => {
                    self.problem(
                        status.span(),
                        format!("{other} is no redirect"),
                        "write 301, 302, 303, 307 or 308",
                    );
                    return None;
                }
            },
        };
        Some(RouteAction::Redirect {
            status,
            location: location.clone(),
            strip_prefix,
        })
    }

    fn field_names(&mut self, key: &str, raw: Value<Vec<Spanned<String>>>) -> Vec<String> {
        let raw = raw.map(Spanned::into_inner).unwrap_or_default();
        let mut names = Vec::with_capacity(raw.len());
        for name in raw {
            if self.may_be_changed(key, name.get_ref(), &name) {
                names.push(name.get_ref().to_ascii_lowercase());
            }
        }
        names
    }

    fn field_lines(
        &mut self,
        key: &str,
        raw: Value<Vec<Spanned<String>>>,
    ) -> Vec<(String, String)> {
        let raw = raw.map(Spanned::into_inner).unwrap_or_default();
        let mut lines = Vec::with_capacity(raw.len());
        for line in raw {
            let written = line.get_ref();
            let Some((name, value)) = written.split_once(':') else {
                self.problem(
                    line.span(),
                    format!("{written:?} in `{key}` is no field"),
                    "write its name, a colon and its value, as \"x-frame-options: DENY\"",
                );
                continue;
            };
            if !value.bytes().all(is_field_value_byte) {
                self.problem(
                    line.span(),
                    format!("the value in {written:?} has control characters"),
                    "remove them (RFC 9110 5.5)",
                );
                continue;
            }
            if self.may_be_changed(key, name, &line) {
                let value = String::from_utf8_lossy(trim_ows(value.as_bytes())).into_owned();
                lines.push((name.to_ascii_lowercase(), value));
            }
        }
        lines
    }

    /// Framing, routing and the connection are not an operator's to change: a mistake there would
    /// let one message be read as two.
    pub(super) fn may_be_changed(&mut self, key: &str, name: &str, at: &Spanned<String>) -> bool {
        if !is_token(name.as_bytes()) {
            self.problem(
                at.span(),
                format!("{name:?} in `{key}` is no field name"),
                "write letters, digits and hyphens",
            );
            return false;
        }
        if FIXED_FIELDS
            .iter()
            .any(|fixed| name.eq_ignore_ascii_case(fixed))
        {
            self.problem(
                at.span(),
                format!("`{key}` cannot change {name:?}"),
                "it belongs to the connection and is made anew; `host` has a key of its own",
            );
            return false;
        }
        true
    }

    pub(super) fn upstream_http(&mut self, raw: RawUpstreamHttp) -> UpstreamHttp {
        let default = UpstreamHttp::default();
        let mut ms = |key, value, default| {
            self.optional_number(key, value, &range::IDLE_MS)
                .map_or(default, Duration::from_millis)
        };
        let first_byte = ms("first_byte_ms", raw.first_byte_ms, default.first_byte);
        let between_bytes = ms(
            "between_bytes_ms",
            raw.between_bytes_ms,
            default.between_bytes,
        );
        let upgraded_idle = ms(
            "upgraded_idle_ms",
            raw.upgraded_idle_ms,
            default.upgraded_idle,
        );
        let idle = ms("idle_connection_ms", raw.idle_connection_ms, default.idle);
        let age = ms("connection_age_ms", raw.connection_age_ms, default.age);
        let queue = ms("queue_ms", raw.queue_ms, default.queue);
        UpstreamHttp {
            first_byte,
            between_bytes,
            upgraded_idle,
            idle_connections_max: self.number_or(
                "idle_connections_max",
                raw.idle_connections_max,
                &range::IDLE_CONNECTIONS,
                default.idle_connections_max,
            ),
            idle,
            age,
            queue_max: self.number_or("queue_max", raw.queue_max, &range::QUEUE, default.queue_max),
            queue,
        }
    }
}

const STYLES: [(&str, Style); 4] = [
    ("x-forwarded", Style::XForwarded),
    ("forwarded", Style::Forwarded),
    ("both", Style::Both),
    ("none", Style::None),
];

const FIXED_FIELDS: [&str; 12] = [
    "connection",
    "content-length",
    "date",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];
