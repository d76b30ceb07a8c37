//! TLS up to an established session.

pub mod client_hello;
pub mod handshake;
pub mod names;
pub mod server_config;
