//! A health check over HTTP/2: one request on a connection of its own.

use std::task::{Context, Poll, Waker};

use bytes::BytesMut;

use crate::error::Cause;
use crate::limits::{HEALTH_HTTP2_BYTES_MAX, UPSTREAM_HEADER_BYTES_MAX};
use crate::message::Fields;
use crate::message::gather::Gather;
use crate::net::stream::{Received, Stream, WriteHalf};
use crate::proto::h2::connection::Connection;
use crate::proto::h2::connection::client::{Ask, AskBody, ClientConfig};
use crate::proto::h2::flow::WINDOW_BYTES_INITIAL;

/// Whether the server answers a GET of `path` with a status from 200 to 399. The caller bounds the time.
///
/// # Errors
/// When the connection breaks.
pub(super) async fn ask(
    stream: Stream,
    path: &str,
    host: &str,
    is_secure: bool,
) -> Result<bool, Cause> {
    let (mut read, mut write) = stream.into_halves();
    let mut connection = Connection::<()>::client(&CONFIG, 0);
    let asked = connection.ask(request(path, host, is_secure), 0);
    let id = asked.ok_or(Cause::Internal("a new connection without room"))?;
    let (mut input, mut received_bytes) = (BytesMut::new(), 0);
    let mut passes = None;
    while passes.is_none() {
        send(&mut connection, &mut write).await?;
        // More is received whatever it says: nobody else can wake this task.
        let polled = connection.poll_response(id, 0, &Context::from_waker(Waker::noop()));
        if let Poll::Ready(answer) = polled {
            passes = Some(answer.is_ok_and(|head| (200..400).contains(&head.status.0)));
            break;
        }
        let received = match read.receive(&mut input).await? {
            Received::Data(bytes) => bytes,
            Received::Closed(_) | Received::Expired(_) => break,
        };
        received_bytes += received;
        let handled = connection.handle_input(&mut input, 0);
        if handled.is_err() || received_bytes > HEALTH_HTTP2_BYTES_MAX {
            break;
        }
    }
    // A server is not to take it for somebody who vanished. Whether it hears of that changes nothing.
    connection.finish();
    if send(&mut connection, &mut write).await.is_ok() {
        drop(write.finish().await);
    }
    Ok(passes.unwrap_or(false))
}

fn request(path: &str, host: &str, is_secure: bool) -> Ask {
    let scheme = if is_secure { "https" } else { "http" };
    let fields = [
        (":method", "GET"),
        (":scheme", scheme),
        (":authority", host),
        (":path", path),
        ("user-agent", "portcullis-health"),
    ];
    let fields = fields.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    Ask {
        fields: Fields::of(fields.into_iter()),
        body: AskBody::None,
        is_head: false,
        is_tunnel: false,
    }
}

async fn send(connection: &mut Connection<()>, write: &mut WriteHalf) -> Result<(), Cause> {
    let mut gather = Gather::default();
    while connection.poll_send(&mut gather, b"", 0) {
        write.send_gather(&mut gather).await?;
        gather.clear();
    }
    Ok(())
}

/// Its clock stands still: the check is timed as a whole.
const CONFIG: ClientConfig = ClientConfig {
    streams_max: 1,
    stream_window_bytes: WINDOW_BYTES_INITIAL,
    connection_window_bytes: WINDOW_BYTES_INITIAL,
    header_list_bytes_max: UPSTREAM_HEADER_BYTES_MAX,
    first_byte_ms: HOUR_MS,
    between_bytes_ms: HOUR_MS,
    send_progress_ms: HOUR_MS,
    idle_ms: HOUR_MS,
    ping_ms: 0,
};

const HOUR_MS: u64 = 3_600_000;
