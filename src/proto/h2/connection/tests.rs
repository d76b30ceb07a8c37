//! What RFC 9113 and 9218 demand of a server's connection, by section.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "whatever is not expected is the failure"
)]

use super::testing::*;
use super::*;
use crate::message::{Body, Fields};

mod attacks;
mod bodies;
mod client;
mod interleaving;
mod lifecycle;
mod responses;
mod rules;
