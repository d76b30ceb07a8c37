//! A site's routes: which one a path belongs to, and what is left of the path behind it.

use std::borrow::Cow;

use crate::config::{FieldEdits, Route, RouteAction, RoutePath};
use crate::message::{Request, Response};

/// The routes of one site, ready to be looked up.
#[derive(Debug, Default)]
pub struct Rules {
    /// By what they are compared by, byte for byte, and where a prefix and an exact path have the same,
    /// the prefix first: of those that cover a path, the last is the one that it belongs to.
    rules: Vec<Rule>,
}

/// One route.
#[derive(Debug)]
pub struct Rule {
    /// As it is configured.
    pub route: Route,
    /// Where its directory is among the cache's roots.
    pub root: Option<usize>,
    /// The longest prefix that this one's text begins with, be it at a segment's end or not.
    within: Option<usize>,
}

/// A path that cannot be understood: a malformed escape, a control character, a way out of the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPath;

/// What a path is compared by: decoded, without dot segments and empty ones. Borrowed where it was so
/// already.
pub type Normal<'a> = Cow<'a, [u8]>;

impl Rules {
    /// The routes of one site. `next_root` gives a place among the cache's roots to each directory.
    pub fn new(routes: &[Route], mut next_root: impl FnMut(&Route) -> usize) -> Self {
        let rule = |route: &Route| Rule {
            route: route.clone(),
            root: matches!(route.action, RouteAction::Files(_)).then(|| next_root(route)),
            within: None,
        };
        let mut rules: Vec<Rule> = routes.iter().map(rule).collect();
        rules.sort_by(|a, b| a.order().cmp(&b.order()));
        // Those that the text at hand may begin with: each begins with the one before it.
        let mut open: Vec<(usize, Vec<u8>)> = Vec::new();
        for (index, rule) in rules.iter_mut().enumerate() {
            while open
                .pop_if(|(_, text)| !rule.text().starts_with(text))
                .is_some()
            {}
            rule.within = open.last().map(|&(index, _)| index);
            if matches!(rule.route.path, RoutePath::Prefix(_)) {
                open.push((index, rule.text().to_vec()));
            }
        }
        Self { rules }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rule for `path`.
    pub fn find(&self, path: &Normal<'_>) -> Option<&Rule> {
        let path = path.as_ref();
        if self.rules.len() <= RULES_FEW {
            return self.rules.iter().rev().find(|rule| rule.covers(path));
        }
        // The last that is not behind the path begins with every prefix that the path begins with.
        let behind = self.rules.partition_point(|rule| rule.text() <= path);
        let mut nearest = behind.checked_sub(1);
        loop {
            let rule = self.rules.get(nearest?)?;
            if rule.covers(path) {
                return Some(rule);
            }
            nearest = rule.within;
        }
    }

    /// What the server of `rule` is asked for, its query included: as the client spelled it, where each
    /// server finds by it what is found here. One that takes `%2F` for a byte of a segment, or an empty
    /// segment for one, may find another rule's; and what dot segments leave depends on both. It is asked
    /// for the normal form then.
    pub fn target_passed_on<'r>(
        &self,
        request: &'r Request,
        normal: &Normal<'_>,
        rule: &Rule,
        strip_prefix: bool,
    ) -> Cow<'r, str> {
        if strip_prefix {
            return target_behind(request, normal, &rule.route).into();
        }
        let is_plain = matches!(normal, Cow::Borrowed(_));
        match is_plain || self.is_found_by_all(request.path(), rule) {
            true => Cow::Borrowed(&request.target),
            false => with_query(escaped(normal, false), request).into(),
        }
    }

    /// Whether every way to read `path` leads to `rule`.
    fn is_found_by_all(&self, path: &str, rule: &Rule) -> bool {
        let Ok(decoded) = decode(path.as_bytes()) else {
            return false;
        };
        let mut segments = decoded.split(|&byte| byte == b'/');
        if segments.any(|segment| matches!(segment, b"." | b"..")) {
            return false;
        }
        let pieces = || path.split("%2f").flat_map(|piece| piece.split("%2F"));
        if pieces().nth(1).is_none() && !path.contains("//") {
            return true;
        }
        let pieces: Option<Vec<_>> = pieces()
            .map(|piece| decode(piece.as_bytes()).ok())
            .collect();
        let Some(pieces) = pieces else {
            return false;
        };
        let slash_kept = pieces.join(&b"%2F"[..]);
        let merged = [merge_slashes(&decoded), merge_slashes(&slash_kept)];
        let mut readings = [decoded, slash_kept].into_iter().chain(merged);
        readings.all(|reading| {
            let reading = Cow::Owned(reading);
            let found = self.find(&reading);
            found.is_some_and(|found| std::ptr::eq(found, rule))
        })
    }
}

impl Rule {
    fn text(&self) -> &[u8] {
        let (RoutePath::Exact(text) | RoutePath::Prefix(text)) = &self.route.path;
        text.as_bytes()
    }

    fn order(&self) -> (&[u8], bool) {
        (self.text(), matches!(self.route.path, RoutePath::Exact(_)))
    }

    fn covers(&self, path: &[u8]) -> bool {
        match &self.route.path {
            RoutePath::Exact(exact) => path == exact.as_bytes(),
            RoutePath::Prefix(prefix) => is_below(path, prefix.as_bytes()),
        }
    }
}

/// Whether `path` is `prefix` or below it. A prefix that does not end in '/' ends at a segment's end.
fn is_below(path: &[u8], prefix: &[u8]) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| prefix.ends_with(b"/") || matches!(rest, [] | [b'/', ..]))
}

/// The path as it is compared.
///
/// # Errors
/// See [`BadPath`].
pub fn normalize(path: &str) -> Result<Normal<'_>, BadPath> {
    let bytes = path.as_bytes();
    let is_open = |pair: &[u8]| matches!(pair, b"//" | b"/.");
    let is_normal =
        path.starts_with('/') && !bytes.contains(&b'%') && !bytes.windows(2).any(is_open);
    if is_normal {
        return Ok(Cow::Borrowed(bytes));
    }
    let decoded = decode(bytes)?;
    if !decoded.starts_with(b"/") {
        return Err(BadPath);
    }
    let mut segments: Vec<&[u8]> = Vec::new();
    let mut parts = decoded.split(|&byte| byte == b'/').skip(1).peekable();
    let mut ends_open = false;
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        match part {
            b"" | b"." => ends_open = is_last,
            b".." => {
                segments.pop().ok_or(BadPath)?;
                ends_open = is_last;
            }
            part => segments.push(part),
        }
    }
    let mut normal = Vec::with_capacity(decoded.len());
    for segment in segments {
        normal.push(b'/');
        normal.extend_from_slice(segment);
    }
    if ends_open || normal.is_empty() {
        normal.push(b'/');
    }
    Ok(Cow::Owned(normal))
}

fn decode(path: &[u8]) -> Result<Vec<u8>, BadPath> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    loop {
        rest = match rest {
            [] => return Ok(decoded),
            [b'%', high, low, rest @ ..] => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                let value = digit(high).zip(digit(low)).ok_or(BadPath)?;
                let byte = u8::try_from(value.0 * 16 + value.1).map_err(|_| BadPath)?;
                if byte.is_ascii_control() {
                    return Err(BadPath);
                }
                decoded.push(byte);
                rest
            }
            [b'%', ..] => return Err(BadPath),
            [byte, rest @ ..] => {
                decoded.push(*byte);
                rest
            }
        };
    }
}

/// `path` without empty segments, but for the last.
fn merge_slashes(path: &[u8]) -> Vec<u8> {
    let mut merged = path.to_vec();
    merged.dedup_by(|byte, before| *byte == b'/' && *before == b'/');
    merged
}

/// What is left of `path`, whose normal form is `normal`, behind the route's prefix: from a '/' on, in
/// the client's own spelling where that is the normal form, and escaped anew where it is not: what it
/// names must not change by what is cut off.
pub fn behind_prefix(normal: &Normal<'_>, route: &Route) -> String {
    let prefix = match &route.path {
        RoutePath::Prefix(prefix) => prefix.trim_end_matches('/').as_bytes(),
        RoutePath::Exact(_) => b"",
    };
    let rest = normal.strip_prefix(prefix).unwrap_or(normal);
    escaped(rest, matches!(normal, Cow::Borrowed(_)))
}

/// `path` from a '/' on as it stands in a target; `keeps` the spelling of what could be escaped and need not
/// be.
fn escaped(path: &[u8], keeps: bool) -> String {
    let mut text = String::with_capacity(path.len() + 1);
    if !path.starts_with(b"/") {
        text.push('/');
    }
    for &byte in path {
        let is_plain = byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte);
        if is_plain || (keeps && byte.is_ascii_graphic()) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// The request's target as it is behind the route's prefix, its query included.
pub fn target_behind(request: &Request, normal: &Normal<'_>, route: &Route) -> String {
    with_query(behind_prefix(normal, route), request)
}

fn with_query(mut target: String, request: &Request) -> String {
    if let Some(query) = request.query() {
        target.push('?');
        target.push_str(query);
    }
    target
}

/// A response that was made behind the route's prefix, for clients before it: a directory's redirect
/// leads there.
pub fn put_prefix_back(mut response: Response, route: &Route) -> Response {
    let RoutePath::Prefix(prefix) = &route.path else {
        return response;
    };
    for (name, value) in &mut response.fields {
        if *name == "location" && value.starts_with(b"/") {
            let mut whole = prefix.trim_end_matches('/').as_bytes().to_vec();
            whole.extend_from_slice(value);
            *value = whole.into();
        }
    }
    response
}

/// Makes the changes `edits` to `response`.
pub fn edit_response(response: &mut Response, edits: &FieldEdits) {
    if edits.is_empty() {
        return;
    }
    let is_replaced = |name: &str| edits.replaces(name.as_bytes());
    if let Some(block) = response.block.take() {
        if block.fields().iter().any(|(name, _)| is_replaced(name)) {
            let kept = block.fields().iter().filter(|(name, _)| !is_replaced(name));
            response.fields.splice(0..0, kept.cloned());
        } else {
            response.block = Some(block);
        }
    }
    response.fields.retain(|(name, _)| !is_replaced(name));
    response.relayed.retain(|name, _| !edits.replaces(name));
    let put = edits
        .put()
        .map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    response.relayed = response.relayed.extended(put);
}

/// So many are looked at one by one faster than they are searched.
const RULES_FEW: usize = 8;

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::message::{FieldBlock, Status};

    fn route(path: RoutePath, status: u16) -> Route {
        Route {
            path,
            action: RouteAction::Fixed { status, body: None },
            request_fields: FieldEdits::default(),
            response_fields: FieldEdits::default(),
        }
    }

    fn prefix(text: &str, status: u16) -> Route {
        route(RoutePath::Prefix(text.to_owned()), status)
    }

    fn normal(path: &str) -> Result<String, BadPath> {
        normalize(path).map(|normal| String::from_utf8(normal.into_owned()).unwrap())
    }

    #[test]
    fn exact_paths_go_before_prefixes_and_long_ones_before_short_ones() {
        let routes = [
            prefix("/", 201),
            prefix("/api", 202),
            prefix("/api/v2/", 203),
            route(RoutePath::Exact("/api/v2/x".to_owned()), 204),
        ];
        let rules = Rules::new(&routes, |_| panic!("no directory"));
        for (path, expected) in [
            ("/", 201),
            ("/apix", 201),
            ("/api", 202),
            ("/api/", 202),
            ("/api/v2", 202),
            ("/api/v2/", 203),
            ("/api/v2/xy", 203),
            ("/api/v2/x", 204),
            ("/%61pi/x", 202),
            ("//api/x", 202),
            ("/x/../api/x", 202),
            ("/x/%2e%2E%2fapi", 202),
            ("/api/../x", 201),
        ] {
            let rule = rules.find(&normalize(path).unwrap()).unwrap();
            let RouteAction::Fixed { status, .. } = rule.route.action else {
                panic!()
            };
            assert_eq!(status, expected, "{path}");
        }
        let some = Rules::new(&routes[1..], |_| 0);
        assert!(some.find(&normalize("/apix").unwrap()).is_none());
    }

    #[test]
    fn paths_are_compared_as_they_are_meant() {
        for (path, expected) in [
            ("/", "/"),
            ("/a/./b/../c/", "/a/c/"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a//b", "/a/b"),
            ("/%7Ea%2Fb", "/~a/b"),
            ("/.a/..b/", "/.a/..b/"),
        ] {
            assert_eq!(normal(path).as_deref(), Ok(expected), "{path}");
        }
        for path in [
            "*", "/..", "/a/../..", "/%", "/%4", "/%zz", "/%00", "/%0a", "/%2e%2e",
        ] {
            assert_eq!(normal(path), Err(BadPath), "{path}");
        }
    }

    #[test]
    fn a_prefix_is_cut_off_at_a_slash() {
        for (text, path, expected) in [
            ("/api", "/api/x", "/x"),
            ("/api", "/api", "/"),
            ("/api/", "/api/x|y", "/x|y"),
            ("/", "/x", "/x"),
            ("/api", "/%61pi/a%20b%3Fc", "/a%20b%3Fc"),
            ("/api", "/api/../api/..%2fapi/x", "/x"),
        ] {
            let normal = normalize(path).unwrap();
            assert_eq!(
                behind_prefix(&normal, &prefix(text, 200)),
                expected,
                "{path}"
            );
        }
    }

    #[test]
    fn responses_are_edited_wherever_their_fields_stand() {
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        let block = FieldBlock::new(vec![("etag", bytes("1")), ("vary", bytes("a"))]);
        let mut response = Response::new(Status(200))
            .with_block(Rc::new(block))
            .with("server", bytes("x"));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let edits = FieldEdits {
            remove: vec!["server".to_owned()],
            set: vec![pair("etag", "2")],
            add: vec![pair("vary", "b")],
        };
        edit_response(&mut response, &edits);
        assert!(response.all_fields().eq(&[("vary", bytes("a"))]));
        let relayed: Vec<_> = response.relayed.iter().collect();
        assert_eq!(relayed, [(&b"etag"[..], &b"2"[..]), (b"vary", b"b")]);
    }

    /// What the README says of routes, one after the other.
    fn find_by_definition(routes: &[Route], path: &[u8]) -> Option<usize> {
        let is_exact = |route: &Route| match &route.path {
            RoutePath::Exact(exact) => exact.as_bytes() == path,
            RoutePath::Prefix(_) => false,
        };
        let reach = |route: &Route| match &route.path {
            RoutePath::Prefix(prefix) if is_below(path, prefix.as_bytes()) => Some(prefix.len()),
            RoutePath::Prefix(_) | RoutePath::Exact(_) => None,
        };
        routes.iter().position(is_exact).or_else(|| {
            let below = (0..routes.len()).filter(|&index| reach(&routes[index]).is_some());
            below.max_by_key(|&index| reach(&routes[index]))
        })
    }

    fn route_path() -> impl Strategy<Value = RoutePath> {
        // Few letters: most are prefixes of others, at a segment's end or within one.
        ("(/[ab]{0,2}){1,4}", any::<bool>()).prop_map(|(path, is_exact)| match is_exact {
            true => RoutePath::Exact(path),
            false => RoutePath::Prefix(path),
        })
    }

    fn target(path: &str) -> Request {
        Request {
            target: path.into(),
            ..crate::proto::testing::request(crate::message::Method::Get, &[])
        }
    }

    fn passed_on(rules: &Rules, path: &str) -> Option<(usize, String)> {
        let request = target(path);
        let normal = normalize(request.path()).ok()?;
        let rule = rules.find(&normal)?;
        let index = rules.rules.iter().position(|each| std::ptr::eq(each, rule));
        let target = rules.target_passed_on(&request, &normal, rule, false);
        Some((index.unwrap(), target.into_owned()))
    }

    #[test]
    fn a_server_is_asked_as_the_client_spelled_it_where_that_leads_to_the_same() {
        let routes = [
            prefix("/", 200),
            prefix("/admin", 200),
            prefix("/admin/open", 200),
        ];
        let rules = Rules::new(&routes, |_| 0);
        for (path, index, sent) in [
            ("/x?a=/../b", 0, "/x?a=/../b"),
            ("/a%20b|%41", 0, "/a%20b|%41"),
            ("/group%2Fproject?q", 0, "/group%2Fproject?q"),
            ("/https://a.test//b", 0, "/https://a.test//b"),
            ("/.well-known/x", 0, "/.well-known/x"),
            ("/admin/a%2fb", 1, "/admin/a%2fb"),
            // RFC 3986 5.2.4 makes the first two of these /admin/x.
            ("/admin//../x", 0, "/x"),
            ("/admin/a//../../x?q", 0, "/x?q"),
            ("/admin%2f..%2fx", 0, "/x"),
            ("/admin/%2e%2E/x", 0, "/x"),
            ("/x/../admin/y", 1, "/admin/y"),
            ("//admin/y", 1, "/admin/y"),
            ("/admin%2Fopen/y", 2, "/admin/open/y"),
            ("/admin//open/%C3%BC", 2, "/admin/open/%C3%BC"),
        ] {
            let (found, target) = passed_on(&rules, path).unwrap();
            assert_eq!((found, &*target), (index, sent), "{path}");
        }
    }

    /// What a server makes of a path.
    #[derive(Clone, Copy, Debug)]
    struct Reader {
        decodes_slash: bool,
        merges_before: bool,
        removes_dots: bool,
        merges_after: bool,
    }

    impl Reader {
        fn all() -> impl Iterator<Item = Self> {
            (0..16).map(|bits| Self {
                decodes_slash: bits & 1 > 0,
                merges_before: bits & 2 > 0,
                removes_dots: bits & 4 > 0,
                merges_after: bits & 8 > 0,
            })
        }

        fn read(self, target: &str) -> Vec<u8> {
            let marked = match self.decodes_slash {
                true => target.to_owned(),
                false => target.replace("%2f", "%252F").replace("%2F", "%252F"),
            };
            let mut path = decode(marked.as_bytes()).unwrap();
            if self.merges_before {
                path = merge_slashes(&path);
            }
            if self.removes_dots {
                path = remove_dot_segments(&path);
            }
            if self.merges_after {
                path = merge_slashes(&path);
            }
            path
        }
    }

    /// RFC 3986 5.2.4
    fn remove_dot_segments(path: &[u8]) -> Vec<u8> {
        let mut left = Vec::new();
        let segments: Vec<_> = path.split(|&byte| byte == b'/').skip(1).collect();
        for (index, segment) in segments.iter().enumerate() {
            let is_dots = match *segment {
                b"." => true,
                b".." => {
                    left.pop();
                    true
                }
                segment => {
                    left.push(segment);
                    false
                }
            };
            if is_dots && index + 1 == segments.len() {
                left.push(b"");
            }
        }
        let mut out = vec![b'/'];
        out.extend(left.join(&b"/"[..]));
        out
    }

    proptest! {
        #[test]
        fn a_search_finds_what_looking_at_each_route_finds(
            paths in prop::collection::vec(route_path(), 0..24),
            asked in prop::collection::vec("(/[abc]{0,3}){1,4}", 1..24),
        ) {
            let mut routes: Vec<Route> = Vec::new();
            for path in paths {
                if !routes.iter().any(|known| known.path == path) {
                    let number = 200 + u16::try_from(routes.len()).unwrap();
                    routes.push(route(path, number));
                }
            }
            let rules = Rules::new(&routes, |_| panic!("no directory"));
            // Each route's own path as well.
            let own = routes.iter().map(|route| match &route.path {
                RoutePath::Exact(path) | RoutePath::Prefix(path) => path.clone(),
            });
            for path in asked.into_iter().chain(own) {
                let path = Cow::Owned(path.into_bytes());
                let expected = find_by_definition(&routes, &path).map(|index| &routes[index]);
                let found = rules.find(&path).map(|rule| &rule.route.path);
                prop_assert_eq!(found, expected.map(|route| &route.path));
            }
        }

        #[test]
        fn every_server_finds_what_the_route_was_found_for(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "/", "/", "//", "a", "b", "c", ".", "..", "%2e", "%2E.", "%2f", "%2F", "%61", ";",
                ]),
                0..12,
            ),
            prefixes in prop::collection::btree_set("(/[abc]){1,3}/?", 1..5),
            exact in "(/[abc]){1,3}/?",
        ) {
            let mut routes = vec![prefix("/", 200)];
            routes.extend(prefixes.iter().map(|text| prefix(text, 200)));
            routes.push(route(RoutePath::Exact(exact), 200));
            let rules = Rules::new(&routes, |_| 0);
            let path = format!("/{}", pieces.concat());
            if let Some((index, target)) = passed_on(&rules, &path) {
                for reader in Reader::all() {
                    let read = Cow::Owned(reader.read(&target));
                    let found = rules.find(&read).unwrap();
                    prop_assert!(
                        std::ptr::eq(found, &rules.rules[index]),
                        "{path} was sent as {target}: {reader:?}"
                    );
                }
            }
        }

        #[test]
        fn a_normal_path_stays_as_it_is(path in "/[a-z./%0-9A-F]{0,30}") {
            if let Ok(once) = normalize(&path) {
                // Escapes within it are what they stand for now.
                prop_assume!(!once.contains(&b'%'));
                let text = String::from_utf8_lossy(&once).into_owned();
                let twice = normalize(&text).unwrap();
                prop_assert_eq!(&*twice, text.as_bytes());
                prop_assert!(!text.split('/').any(|segment| segment == ".."));
            }
        }
    }
}
