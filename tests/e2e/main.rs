//! The built program and its clients, over real sockets.
//!
//! Each test starts a server of its own and most run once for each offload policy. The same tests
//! run on the machine itself, with io_uring taken away, and in the lab's kernels that have kernel
//! TLS; see `support::kernel` for what tells them apart.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "in a test's helpers a panic is the verdict"
)]

#[path = "../support/forbid_io_uring.rs"]
mod forbid_io_uring;
mod support;
mod support_faults;

mod access;
mod access_log;
mod admin;
mod beside_nginx;
mod client_certificates;
mod closing;
mod command_line;
mod counting;
mod downloads;
mod faults;
mod foreign;
mod http2;
mod http2_attacks;
mod key_updates;
mod limits;
mod load;
mod negotiation;
mod plain_http;
mod proxying;
mod reload;
mod resumption;
mod slow_clients;
mod soak;
mod stalls;
mod suites;
mod tuning;
mod tunnels;
mod websockets;
