//! Portcullis: TLS termination for Linux edge servers.

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
pub mod worker;
