//! HTTP/1.1 messages (RFC 9112): request heads, request bodies, response framing.
