//! Protocol cores without input or output: bytes in, values out, the clock an argument.
//!
//! Nothing here knows a socket, a file or a task, so all of it can be fuzzed, property-tested and
//! measured by itself.

pub mod authority;
pub mod client_network;
pub mod conditional;
pub mod content_coding;
pub mod forwarded;
pub mod h1;
pub mod h2;
pub mod hop_by_hop;
pub mod host_names;
pub mod json;
pub mod proxy_header;
pub mod range;
pub mod request_id;
pub mod syntax;

#[cfg(test)]
pub(crate) mod testing {
    //! Requests for the tests of this room.

    use bytes::Bytes;

    use crate::message::{BodyLength, Fields, Method, Request, Version};

    /// An HTTP/1.1 request for `/` with these fields.
    pub(crate) fn request(method: Method, fields: &[(&str, &str)]) -> Request {
        let mut block = Vec::new();
        let mut entries = Vec::new();
        let mut append = |text: &str| {
            let start = u32::try_from(block.len()).unwrap();
            block.extend_from_slice(text.as_bytes());
            start..u32::try_from(block.len()).unwrap()
        };
        for (name, value) in fields {
            entries.push((append(name), append(value)));
        }
        Request {
            method,
            version: Version::Http11,
            host: "example.org".into(),
            target: "/".into(),
            fields: Fields::new(Bytes::from(block), entries),
            body_length: BodyLength::Known(0),
            expects_continue: false,
            id: Default::default(),
            interims: Default::default(),
        }
    }
}
