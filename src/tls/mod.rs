//! TLS up to an established session.

pub mod certificate;
pub mod client_auth;
pub mod client_config;
pub mod client_hello;
pub mod handshake;
mod key_derivation;
pub mod self_signed;
pub mod server_config;
pub mod setup;
