//! Connections without TLS, where nothing was agreed on: the first bytes tell the version.

use bytes::BytesMut;

use super::transport::{Receive, TransmitGathered};
use super::{Context, Handler, Outcome, h1, h2};
use crate::error::{Error, Stage};
use crate::net::deadline::Phase;
use crate::net::stream::Received;
use crate::proto::h2::frame::match_preface;

/// Serves a connection, of which `input` was received already, to its end by the version that the client begins with: HTTP/2 with prior
/// knowledge (RFC 9113 3.3), or HTTP/1.1.
///
/// # Errors
/// As [`h1::serve`] and [`h2::serve`].
pub async fn serve_plain<R: Receive + 'static, W: TransmitGathered, H: Handler>(
    mut read: R,
    write: W,
    handler: &H,
    context: &Context,
    mut input: BytesMut,
) -> Result<Outcome, Error> {
    read.arm(Phase::Header, context.timeouts.header);
    let is_http2 = loop {
        if let Some(is_http2) = match_preface(&input).filter(|_| !input.is_empty()) {
            break is_http2;
        }
        // HTTP/1.1 makes of the end, or of the deadline, what it would have made of it by itself.
        match read.receive(&mut input).await {
            Ok(Received::Data(_)) => {}
            Ok(Received::Closed(_) | Received::Expired(_)) => break false,
            Err(cause) => return Err(Error::on_connection(Stage::RequestHead, cause)),
        }
    };
    match is_http2 {
        true => h2::serve(read, write, handler, context, input).await,
        false => h1::serve_received(read, write, handler, context, input).await,
    }
}
