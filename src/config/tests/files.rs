//! How files are described and what stands in for them.

use super::*;

#[test]
fn codings_that_cannot_be() {
    for (marked, what, remedy) in [
        (
            with_site("precompressed = [\"br\", «\"gz\"»]"),
            "`precompressed` does not know",
            "`br`, `zstd` and `gzip`",
        ),
        (
            with_site("precompressed = [\"br\", «\"br\"»]"),
            "there twice",
            "remove it",
        ),
    ] {
        refused(&marked, what, remedy);
    }
}

#[test]
fn header_rules_that_cannot_be() {
    let rule = |text: &str| with_site(&format!("[[site.headers]]\n{text}"));
    for (marked, what, remedy) in [
        (with_site("«[[site.headers]]»"), "sets nothing", "fields = "),
        (
            rule("path = «\"assets/\"»\ncontent_type = \"a/b\""),
            "no path of the site",
            "\"/assets/\"",
        ),
        (
            rule("path = «\"/a/../b\"»\ncontent_type = \"a/b\""),
            "no path of the site",
            "one file",
        ),
        (
            rule("path = «\"//\"»\ncontent_type = \"a/b\""),
            "no path of the site",
            "one file",
        ),
        (
            rule("extensions = [«\".css\"»]\ncontent_type = \"a/b\""),
            "no extension",
            "\"css\"",
        ),
        (
            rule("content_type = «\"text\"»"),
            "no media type",
            "text/plain",
        ),
        (
            rule("content_type = «\"a/b; c=\\r\\nx: y\"»"),
            "no media type",
            "text/plain",
        ),
        (
            rule("fields = [«\"no-cache\"»]"),
            "no header field",
            "a colon",
        ),
        (rule("fields = [«\"a b: c\"»]"), "no name", "hyphens"),
        (rule("fields = [«\": c\"»]"), "no name", "hyphens"),
        (rule("fields = [«\"a: \"»]"), "no value", "text"),
        (
            rule("fields = [«\"a: b\\r\\nc: d\"»]"),
            "no value",
            "control characters",
        ),
    ] {
        refused(&marked, what, remedy);
    }
}

#[test]
fn fields_that_are_not_the_operators() {
    let rule = |text: &str| with_site(&format!("[[site.headers]]\n{text}"));
    for (marked, what, remedy) in [
        (
            rule("fields = [«\"Content-Length: 5\"»]"),
            "`content-length` cannot be set",
            "framing",
        ),
        (
            rule("fields = [«\"Transfer-Encoding: chunked\"»]"),
            "cannot be set",
            "framing",
        ),
        (
            rule("fields = [«\"etag: x\"»]"),
            "cannot be set",
            "follows from the file",
        ),
        (
            rule("fields = [«\"content-type: a/b\"»]"),
            "cannot be set",
            "`content_type`",
        ),
        (
            rule("fields = [«\"strict-transport-security: max-age=1\"»]"),
            "cannot be set",
            "[site.hsts]",
        ),
    ] {
        refused(&marked, what, remedy);
    }
    // Too long to be shown whole.
    let text = rule(&format!("fields = [\"a: {}\"]", "x".repeat(4096)));
    let shown = parse_text(&text).unwrap_err().to_string();
    assert!(shown.contains("`a` is longer than 4096 bytes"), "{shown}");
    let text = rule(
        "path = \"/a/\"\nextensions = [\"CSS\"]\nfields = [\"X-A:  b \"]\ncontent_type = \"a/b\"",
    );
    let site = &parse_text(&text).unwrap().config.sites[0];
    let [rule] = &*site.files.headers else {
        panic!("{:?}", site.files);
    };
    assert_eq!(
        (rule.path.as_str(), &*rule.extensions),
        ("/a/", &["css".to_owned()][..])
    );
    assert_eq!(rule.fields, [("x-a", bytes::Bytes::from_static(b"b"))]);
    assert_eq!(rule.content_type.as_deref(), Some(&b"a/b"[..]));
}

#[test]
fn error_pages_that_cannot_be() {
    let page = |text: &str| with_site(&format!("[[site.error_pages]]\n{text}"));
    for (marked, what, remedy) in [
        (
            with_site("«[[site.error_pages]]»\nfile = \"/page\""),
            "no `statuses`",
            "statuses = [404]",
        ),
        (
            page("statuses = «[]»\nfile = \"/page\""),
            "no `statuses`",
            "statuses = [404]",
        ),
        (
            with_site("«[[site.error_pages]]»\nstatuses = [404]"),
            "no `file`",
            "add file = ",
        ),
        (
            page("statuses = [«200»]\nfile = \"/page\""),
            "`statuses` is 200",
            "from 400 to 599",
        ),
        (
            page("statuses = [404, «404»]\nfile = \"/page\""),
            "404 has an error page already",
            "one page",
        ),
        (
            page(
                "statuses = [404]\nfile = \"/page\"\n[[site.error_pages]]\n\
                 statuses = [«404»]\nfile = \"/page\"",
            ),
            "404 has an error page already",
            "one page",
        ),
        (
            page("statuses = [404]\nfile = «\"../file\"»"),
            "no file beneath the root",
            "/errors/404.html",
        ),
        (
            page("statuses = [404]\nfile = «\"/absent\"»"),
            "there is no file",
            "create it",
        ),
    ] {
        refused(&marked, what, remedy);
    }
    let text = page("statuses = [404, 403]\nfile = \"/page\"");
    let site = &parse_text(&text).unwrap().config.sites[0];
    assert_eq!(site.files.error_pages[0].file, "page");
    assert_eq!(site.files.error_pages[0].statuses.len(), 2);
}
