//! Small pages for statuses that carry no content of their own.

use bytes::Bytes;

use crate::message::{Body, Response, Status};

/// A response with a page that says its status.
pub fn page(status: Status) -> Response {
    page_with(status, "")
}

/// As [`page`], with one more sentence of plain text, which is escaped.
pub fn page_with(status: Status, sentence: &str) -> Response {
    let mut text = String::with_capacity(256 + sentence.len());
    let code = status.0.to_string();
    let title = [&*code, status.reason()].join(" ");
    for part in [
        "<!doctype html>\n<title>",
        title.trim_end(),
        "</title>\n<h1>",
    ] {
        text.push_str(part);
    }
    for part in [title.trim_end(), "</h1>\n"] {
        text.push_str(part);
    }
    if !sentence.is_empty() {
        text.push_str("<p>");
        push_escaped_html(&mut text, sentence);
        text.push_str("</p>\n");
    }
    Response::new(status)
        .with("content-type", CONTENT_TYPE)
        .with("x-content-type-options", NOSNIFF)
        .with_body(Body::Bytes(Bytes::from(text)))
}

/// Appends `text` so that it means itself in HTML content and in quoted attributes.
pub(crate) fn push_escaped_html(page: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '&' => page.push_str("&amp;"),
            '<' => page.push_str("&lt;"),
            '>' => page.push_str("&gt;"),
            '"' => page.push_str("&quot;"),
            '\'' => page.push_str("&#39;"),
            other => page.push(other),
        }
    }
}

/// The value of X-Content-Type-Options: a browser must not guess a type other than the declared one
/// (WHATWG Fetch 3.6).
pub(crate) const NOSNIFF: Bytes = Bytes::from_static(b"nosniff");

const CONTENT_TYPE: Bytes = Bytes::from_static(b"text/html; charset=utf-8");

#[cfg(test)]
mod tests {
    use super::*;

    fn text(response: &Response) -> String {
        let Body::Bytes(bytes) = &response.body else {
            panic!("{response:?}")
        };
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn a_page_says_its_status() {
        let response = page(Status(404));
        assert!(text(&response).contains("<h1>404 Not Found</h1>"));
        assert!(response.fields.contains(&("content-type", CONTENT_TYPE)));
        assert!(
            response
                .fields
                .contains(&("x-content-type-options", NOSNIFF))
        );
        assert!(text(&page(Status(499))).contains("<title>499</title>"));
    }

    #[test]
    fn sentences_are_escaped() {
        let response = page_with(Status(400), "<script>\"'&");
        assert!(text(&response).contains("<p>&lt;script&gt;&quot;&#39;&amp;</p>"));
        assert!(!text(&response).contains("<script>"));
    }
}
