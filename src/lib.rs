//! Portcullis: TLS termination for Linux edge servers.
//!
//! The rooms in the order of a connection's way, from the command line down; each uses only rooms
//! below it (`tests/tidy.rs` holds that):
//!
//! [`cli`] → [`control`] → [`worker`] → [`http`] → [`serve`] → [`upstream`] → [`tls`] → [`net`] →
//! [`record`] → [`buf`] → [`sys`].
//!
//! A worker accepts a connection, [`tls::handshake`] drives rustls to an established session and
//! takes the secrets out, [`net::stream`] carries bytes by one of three paths (plain, TLS in user
//! space, kernel TLS), [`http::h1`] and [`http::h2`] frame requests and responses, and [`serve`] turns
//! the one into the other. [`record`] is TLS after the handshake without I/O, for user space and kernel alike.
//!
//! [`config`], [`error`], [`limits`], [`message`], [`metrics`] and [`proto`] are vocabulary: any room
//! may use them, and they use only each other.

pub mod buf;
pub mod cli;
pub mod config;
pub mod control;
pub mod error;
pub mod http;
pub mod limits;
pub mod message;
pub mod metrics;
pub mod net;
pub mod proto;
pub mod record;
pub mod serve;
pub mod sys;
pub mod tls;
pub mod upstream;
pub mod worker;
