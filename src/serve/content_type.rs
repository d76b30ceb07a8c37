//! Content types by file name.

use bytes::Bytes;

/// The Content-Type of a file by the extension of its name, without regard to case.
///
/// Text is declared to be UTF-8, but for XML, which names its encoding itself (RFC 7303 3). A name
/// without a known extension is `application/octet-stream`: with `nosniff` a browser then offers to
/// save it, which is safer than to guess.
pub fn of_name(path: &[u8]) -> Bytes {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let mut parts = name.rsplitn(2, |&byte| byte == b'.');
    let (Some(extension), Some(stem)) = (parts.next(), parts.next()) else {
        return OCTET_STREAM;
    };
    let Ok(extension) = std::str::from_utf8(extension) else {
        return OCTET_STREAM;
    };
    if stem.is_empty() {
        return OCTET_STREAM;
    }
    let own = OVERRIDES
        .iter()
        .find(|(known, _)| extension.eq_ignore_ascii_case(known));
    let known = own.map(|(_, media_type)| *media_type);
    match known.or_else(|| mime_guess::from_ext(extension).first_raw()) {
        Some(text) if text.starts_with("text/") && text != "text/xml" => {
            Bytes::from(format!("{text}; charset=utf-8"))
        }
        Some(media_type) => Bytes::from_static(media_type.as_bytes()),
        None => OCTET_STREAM,
    }
}

const OCTET_STREAM: Bytes = Bytes::from_static(b"application/octet-stream");

/// Where mime_guess has nothing, or what web sites do not mean by the extension.
const OVERRIDES: &[(&str, &str)] = &[
    // A module of JavaScript (RFC 9239 6).
    ("mjs", "text/javascript"),
    // Registered names instead of the unregistered x- ones.
    ("toml", "application/toml"),
    ("yaml", "application/yaml"),
    ("yml", "application/yaml"),
    ("zst", "application/zstd"),
    // Playlists and segments of streamed video (RFC 8216 4).
    ("m3u8", "application/vnd.apple.mpegurl"),
    ("m4s", "video/iso.segment"),
    // Source maps are JSON (ECMA-426).
    ("map", "application/json"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_follow_the_last_extension() {
        for (name, expected) in [
            ("index.html", "text/html; charset=utf-8"),
            ("a/b.d/style.CSS", "text/css; charset=utf-8"),
            ("app.js", "text/javascript; charset=utf-8"),
            ("app.mjs", "text/javascript; charset=utf-8"),
            ("app.js.map", "application/json"),
            ("notes.txt", "text/plain; charset=utf-8"),
            ("data.json", "application/json"),
            ("feed.xml", "text/xml"),
            ("logo.svg", "image/svg+xml"),
            ("x.wasm", "application/wasm"),
            ("f.woff2", "font/woff2"),
            ("i.avif", "image/avif"),
            ("archive.tar.gz", "application/gzip"),
            ("v.mp4", "video/mp4"),
            ("README", "application/octet-stream"),
            ("a.d/README", "application/octet-stream"),
            ("x.unknown-extension", "application/octet-stream"),
            (".html", "application/octet-stream"),
            ("dot.", "application/octet-stream"),
            ("", "application/octet-stream"),
        ] {
            assert_eq!(of_name(name.as_bytes()), expected, "{name}");
        }
        assert_eq!(of_name(b"x.\xff"), OCTET_STREAM);
    }

    #[test]
    fn every_override_is_needed() {
        for (extension, media_type) in OVERRIDES {
            let guess = mime_guess::from_ext(extension).first_raw();
            let default = guess.unwrap_or("application/octet-stream");
            assert!(
                default != *media_type,
                "{extension} is {media_type} without an override"
            );
        }
    }
}
