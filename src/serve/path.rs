//! From a request target's path to a path beneath a root.
//!
//! The rules, in this order, for a path that begins with '/':
//!
//! - It is split at '/', and each segment is percent-decoded exactly once (RFC 3986 2.4). A '%' that
//!   two hexadecimal digits do not follow is refused (400), and so are `%2F`, which would turn data
//!   into a delimiter, and NUL, encoded or not. A backslash is a byte like any other.
//! - Empty segments and `.` are dropped and `..` takes the segment before it away (RFC 3986 5.2.4),
//!   written plainly or as `%2E`, which means the same (RFC 3986 6.2.2.2). Where 5.2.4 would drop a
//!   `..` that has nothing to take away, the path is refused (400): no client that resolves its
//!   references sends one. What is left holds no `..` for the file system to interpret.
//! - Names that begin with a dot are not found (404) unless the site serves them. `.well-known` as
//!   the first segment is always served (RFC 8615 3).
//! - A name longer than a file system can hold is not found (404); a whole path longer than the
//!   kernel takes is refused (414).

use std::ffi::CString;

use crate::message::Status;

/// A file system path made from a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelativePath {
    /// Relative, without empty, `.` or `..` segments, decoded. Empty for the root itself.
    pub beneath: CString,
    /// Whether the request named a directory: it ended in '/', `/.` or `/..`.
    pub directory: bool,
}

impl RelativePath {
    /// The path beneath a root that `path` (a request target without its query) names. `dotfiles`:
    /// whether names that begin with a dot are served.
    ///
    /// # Errors
    ///
    /// The status to answer with: 400, 404 or 414, as the module documentation says.
    pub fn parse(path: &str, dotfiles: bool) -> Result<Self, Status> {
        let path = path.as_bytes().strip_prefix(b"/").ok_or(BAD_REQUEST)?;
        let mut beneath = Vec::with_capacity(path.len() + 1);
        let mut directory = true;
        for segment in path.split(|&byte| byte == b'/') {
            let start = beneath.len();
            if start > 0 {
                beneath.push(b'/');
            }
            let name_start = beneath.len();
            decode(segment, &mut beneath)?;
            match beneath.get(name_start..).unwrap_or_default() {
                b"" | b"." => {
                    beneath.truncate(start);
                    directory = true;
                }
                b".." => {
                    beneath.truncate(start);
                    remove_last_segment(&mut beneath)?;
                    directory = true;
                }
                _ => directory = false,
            }
        }
        check_names(&beneath, dotfiles)?;
        if beneath.len() > PATH_BYTES_MAX {
            return Err(URI_TOO_LONG);
        }
        let beneath = CString::new(beneath).map_err(|_| BAD_REQUEST)?;
        Ok(Self { beneath, directory })
    }

    /// The path of the file `name` in this directory.
    ///
    /// # Errors
    ///
    /// 404 when the kernel would not take so long a path, or `name` holds a NUL.
    pub fn join(&self, name: &str) -> Result<CString, Status> {
        let directory = self.beneath.as_bytes();
        let mut joined = Vec::with_capacity(directory.len() + name.len() + 2);
        joined.extend_from_slice(directory);
        if !directory.is_empty() {
            joined.push(b'/');
        }
        joined.extend_from_slice(name.as_bytes());
        if joined.len() > PATH_BYTES_MAX {
            return Err(NOT_FOUND);
        }
        CString::new(joined).map_err(|_| NOT_FOUND)
    }

    /// The target of this path as a directory, with `query`: what a request without the closing '/'
    /// is redirected to.
    ///
    /// It is made from the decoded segments and not from the request's text, so it begins with
    /// exactly one '/' and everything but unreserved characters is escaped: no spelling of a target
    /// makes it name another host (`//host/`, `/\host/`).
    pub fn directory_target(&self, query: Option<&str>) -> Vec<u8> {
        let mut target = vec![b'/'];
        push_escaped_path(&mut target, self.beneath.as_bytes());
        if !self.beneath.is_empty() {
            target.push(b'/');
        }
        if let Some(query) = query {
            target.push(b'?');
            push_visible(&mut target, query.as_bytes());
        }
        target
    }
}

/// Whether a file or directory `name` is served: `dotfiles` if those that begin with a dot are.
/// `at_root`: it stands in the root itself.
pub(crate) fn is_shown(name: &[u8], at_root: bool, dotfiles: bool) -> bool {
    dotfiles || !name.starts_with(b".") || (at_root && name == b".well-known")
}

/// Appends `path` with everything escaped but unreserved characters (RFC 3986 2.3) and '/'.
pub(crate) fn push_escaped_path(target: &mut Vec<u8>, path: &[u8]) {
    for &byte in path {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                target.push(byte);
            }
            _ => push_escaped(target, byte),
        }
    }
}

/// Appends `text` as it is, but with every byte escaped that may not stand in a URI: white space,
/// control characters, '"', '<', '>', '#', '\\', '^', '`', '{', '|', '}' and what is not ASCII.
pub(crate) fn push_visible(target: &mut Vec<u8>, text: &[u8]) {
    for &byte in text {
        match byte {
            b'"' | b'<' | b'>' | b'#' | b'\\' | b'^' | b'`' | b'{'..=b'}' => {
                push_escaped(target, byte);
            }
            b'!'..=b'~' => target.push(byte),
            _ => push_escaped(target, byte),
        }
    }
}

fn push_escaped(target: &mut Vec<u8>, byte: u8) {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    target.push(b'%');
    for nibble in [byte >> 4, byte & 0xf] {
        target.push(digit(nibble).to_ascii_uppercase() as u8);
    }
}

/// What is beneath the root of the file that the path of `target` names, where that is the path as it
/// stands, whatever the rules: what [`RelativePath::parse`] makes of most paths, without memory of its
/// own.
pub(crate) fn plain(target: &str) -> Option<&[u8]> {
    let target = target.as_bytes().strip_prefix(b"/")?;
    let mut before = b'/';
    let mut length = target.len();
    for (index, &byte) in target.iter().enumerate() {
        let begins_name = before == b'/';
        match byte {
            b'?' => {
                length = index;
                break;
            }
            0 | b'%' => return None,
            b'/' | b'.' if begins_name => return None,
            _ => before = byte,
        }
    }
    let beneath = target.get(..length)?;
    (before != b'/' && length <= NAME_BYTES_MAX).then_some(beneath)
}

fn decode(segment: &[u8], into: &mut Vec<u8>) -> Result<(), Status> {
    let mut bytes = segment.iter().copied();
    while let Some(byte) = bytes.next() {
        let decoded = if byte == b'%' {
            let high = hex_digit(bytes.next())?;
            let low = hex_digit(bytes.next())?;
            high << 4 | low
        } else {
            byte
        };
        // The segment was cut at every plain '/', so one here was encoded.
        if matches!(decoded, 0 | b'/') {
            return Err(BAD_REQUEST);
        }
        into.push(decoded);
    }
    Ok(())
}

fn hex_digit(byte: Option<u8>) -> Result<u8, Status> {
    match byte {
        Some(digit @ b'0'..=b'9') => Ok(digit - b'0'),
        Some(digit @ b'a'..=b'f') => Ok(digit - b'a' + 10),
        Some(digit @ b'A'..=b'F') => Ok(digit - b'A' + 10),
        _ => Err(BAD_REQUEST),
    }
}

fn remove_last_segment(beneath: &mut Vec<u8>) -> Result<(), Status> {
    if beneath.is_empty() {
        return Err(BAD_REQUEST);
    }
    let slash = beneath.iter().rposition(|&byte| byte == b'/');
    beneath.truncate(slash.unwrap_or(0));
    Ok(())
}

fn check_names(beneath: &[u8], dotfiles: bool) -> Result<(), Status> {
    for (position, name) in beneath.split(|&byte| byte == b'/').enumerate() {
        if name.len() > NAME_BYTES_MAX || !is_shown(name, position == 0, dotfiles) {
            return Err(NOT_FOUND);
        }
    }
    Ok(())
}

const BAD_REQUEST: Status = Status(400);
const NOT_FOUND: Status = Status(404);
const URI_TOO_LONG: Status = Status(414);

/// NAME_MAX of linux/limits.h.
const NAME_BYTES_MAX: usize = 255;

/// PATH_MAX of linux/limits.h, without the NUL.
const PATH_BYTES_MAX: usize = 4_095;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(path: &str) -> Result<(String, bool), u16> {
        RelativePath::parse(path, false)
            .map(|path| (path.beneath.into_string().unwrap(), path.directory))
            .map_err(|status| status.0)
    }

    fn file(name: &str) -> Result<(String, bool), u16> {
        Ok((name.into(), false))
    }

    fn directory(name: &str) -> Result<(String, bool), u16> {
        Ok((name.into(), true))
    }

    #[test]
    fn rfc3986_5_2_4_dot_segments_are_removed() {
        assert_eq!(parse("/a/b/c/./../../g"), file("a/g"));
        assert_eq!(parse("/mid/content=5/../6"), file("mid/6"));
        assert_eq!(parse("/a/."), directory("a"));
        assert_eq!(parse("/a/.."), directory(""));
        assert_eq!(parse("/a/b/.."), directory("a"));
        assert_eq!(parse("/./a"), file("a"));
        assert_eq!(parse("/a/../../b"), Err(400));
        assert_eq!(parse("/.."), Err(400));
    }

    #[test]
    fn rfc3986_6_2_2_2_encoded_dots_are_dots() {
        assert_eq!(parse("/a/%2e%2E/b"), file("b"));
        assert_eq!(parse("/a/.%2e/b"), file("b"));
        assert_eq!(parse("/%2e/b"), file("b"));
        assert_eq!(parse("/%2e%2e/b"), Err(400));
        assert_eq!(parse("/%2egit"), Err(404));
    }

    #[test]
    fn rfc3986_2_4_decoding_happens_once() {
        assert_eq!(parse("/%2541"), file("%41"));
        assert_eq!(parse("/%252e%252e/x"), file("%2e%2e/x"));
        assert_eq!(parse("/%25"), file("%"));
        assert_eq!(parse("/a%20b+c"), file("a b+c"));
        assert_eq!(parse("/%C3%A9"), file("é"));
        assert_eq!(
            RelativePath::parse("/%ff", false)
                .unwrap()
                .beneath
                .as_bytes(),
            b"\xff"
        );
    }

    #[test]
    fn what_no_file_can_be_named_is_refused() {
        for path in [
            "",
            "a",
            "*",
            "/%",
            "/%4",
            "/%4g",
            "/%%41",
            "/a%00b",
            "/a\0b",
            "/a%2Fb",
            "/a%2fb",
            "/..%2f..%2fetc/passwd",
        ] {
            assert_eq!(parse(path), Err(400), "{path}");
        }
    }

    #[test]
    fn backslashes_are_ordinary() {
        assert_eq!(parse("/a\\..\\b"), file("a\\..\\b"));
        assert_eq!(parse("/%5c%5Cx"), file("\\\\x"));
        // It begins with a dot, so the dotfile rule applies; it is no parent.
        assert_eq!(parse("/..\\x"), Err(404));
    }

    #[test]
    fn empty_segments_are_dropped() {
        assert_eq!(parse("/"), directory(""));
        assert_eq!(parse("//a///b"), file("a/b"));
        assert_eq!(parse("/a//"), directory("a"));
        assert_eq!(parse("/a//.."), directory(""));
    }

    #[test]
    fn dotfiles_are_hidden_but_for_well_known() {
        for path in [
            "/.git/config",
            "/a/.env",
            "/...",
            "/.well-knownx",
            "/a/.well-known/x",
        ] {
            assert_eq!(parse(path), Err(404), "{path}");
        }
        assert_eq!(parse("/.well-known/x"), file(".well-known/x"));
        assert_eq!(parse("/.well-known/.hidden"), Err(404));
        assert_eq!(parse("/.git/../a"), file("a"));
        let shown = RelativePath::parse("/.git/config", true).unwrap();
        assert_eq!(shown.beneath.as_bytes(), b".git/config");
        assert_eq!(RelativePath::parse("/../x", true), Err(Status(400)));
    }

    #[test]
    fn overlong_names_and_paths_are_refused() {
        assert!(parse(&format!("/{}", "a".repeat(255))).is_ok());
        assert_eq!(parse(&format!("/{}", "a".repeat(256))), Err(404));
        assert_eq!(parse(&"/a".repeat(3_000)), Err(414));
        let deep = RelativePath::parse(&"/a".repeat(2_045), false).unwrap();
        assert_eq!(deep.join("index.html"), Err(Status(404)));
    }

    #[test]
    fn paths_of_names_alone_are_plain() {
        for path in ["/a", "/a/b.c", "/a..b/c.", "/\\x", "/~/a b"] {
            assert_eq!(plain(path), Some(&path.as_bytes()[1..]), "{path}");
        }
        assert_eq!(plain("/a/b?/%41/.c"), Some(&b"a/b"[..]));
        let long = format!("/{}", "a/".repeat(127) + "aa");
        for path in [
            "", "*", "a", "/", "/a/", "/.a", "/a/.b", "//a", "/a//b", "/?", "/a/?", "/%41", "/a\0",
            &long,
        ] {
            assert_eq!(plain(path), None, "{path}");
        }
    }

    #[test]
    fn directory_targets_name_no_other_host() {
        for (path, query, target) in [
            ("/docs", None, "/docs/"),
            ("//evil.example", None, "/evil.example/"),
            ("/\\evil.example", Some("a=1"), "/%5Cevil.example/?a=1"),
            ("/a%20b/%C3%A9", Some(""), "/a%20b/%C3%A9/?"),
            ("/a%0d%0ab", Some("x\r\ny"), "/a%0D%0Ab/?x%0D%0Ay"),
            ("/", None, "/"),
        ] {
            let parsed = RelativePath::parse(path, false).unwrap();
            assert_eq!(
                String::from_utf8(parsed.directory_target(query)).unwrap(),
                target
            );
        }
    }

    fn any_path() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("/".to_owned()),
            Just("..".to_owned()),
            Just(".".to_owned()),
            Just("%2e".to_owned()),
            Just("%2F".to_owned()),
            Just("%00".to_owned()),
            Just("%5c".to_owned()),
            Just("\\".to_owned()),
            Just("a".to_owned()),
            any::<char>().prop_map(String::from),
            (0_u8..=255).prop_map(|byte| format!("%{byte:02x}")),
        ];
        proptest::collection::vec(piece, 0..24).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_096))]

        #[test]
        fn nothing_escapes(path in any_path(), dotfiles: bool) {
            if let Ok(parsed) = RelativePath::parse(&path, dotfiles) {
                let beneath = parsed.beneath.as_bytes();
                prop_assert!(!beneath.starts_with(b"/"));
                prop_assert!(!beneath.ends_with(b"/"));
                prop_assert!(!beneath.contains(&0));
                if !beneath.is_empty() {
                    for name in beneath.split(|&byte| byte == b'/') {
                        prop_assert!(![&b""[..], b".", b".."].contains(&name));
                        prop_assert!(
                            dotfiles || name == b".well-known" || !name.starts_with(b".")
                        );
                    }
                }
            }
        }

        #[test]
        fn a_directory_target_names_the_same_directory(path in any_path(), query: Option<String>) {
            if let Ok(parsed) = RelativePath::parse(&path, true) {
                let target = String::from_utf8(parsed.directory_target(query.as_deref())).unwrap();
                prop_assert!(!target.starts_with("//"));
                prop_assert!(target.bytes().all(|byte| (b'!'..=b'~').contains(&byte)));
                prop_assert!(!target.contains(['\\', '#']));
                let path = target.split('?').next().unwrap();
                let again = RelativePath::parse(path, true).unwrap();
                prop_assert_eq!(again.beneath, parsed.beneath);
                prop_assert!(again.directory);
            }
        }

        #[test]
        fn plain_paths_are_what_the_rules_make_of_them(path in any_path(), dotfiles: bool) {
            if let Some(plain) = plain(&path) {
                let path = path.split('?').next().unwrap();
                let parsed = RelativePath::parse(path, dotfiles).unwrap();
                prop_assert_eq!(parsed.beneath.as_bytes(), plain);
                prop_assert!(!parsed.directory);
            }
        }

        #[test]
        fn any_text_parses_or_is_refused(path: String) {
            let _ = RelativePath::parse(&path, false);
        }
    }
}
