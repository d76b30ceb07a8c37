//! `[http2]`: bounds that every client can live with.

use super::Checker;
use crate::config::Http2;
use crate::config::range;
use crate::config::raw::RawHttp2;

impl Checker<'_> {
    pub(super) fn http2(&mut self, raw: &RawHttp2) -> Http2 {
        let default = Http2::default();
        Http2 {
            concurrent_streams_max: self.number_or(
                "concurrent_streams_max",
                raw.concurrent_streams_max.clone(),
                &range::STREAMS,
                default.concurrent_streams_max,
            ),
            stream_window_bytes: self.number_or(
                "stream_window_bytes",
                raw.stream_window_bytes.clone(),
                &range::WINDOW_BYTES,
                default.stream_window_bytes,
            ),
            connection_window_bytes: self.number_or(
                "connection_window_bytes",
                raw.connection_window_bytes.clone(),
                &range::WINDOW_BYTES,
                default.connection_window_bytes,
            ),
            header_list_bytes_max: self.number_or(
                "header_list_bytes_max",
                raw.header_list_bytes_max.clone(),
                &range::HEADER_LIST_BYTES,
                default.header_list_bytes_max,
            ),
            header_table_bytes: self.number_or(
                "header_table_bytes",
                raw.header_table_bytes.clone(),
                &range::HEADER_TABLE_BYTES,
                default.header_table_bytes,
            ),
        }
    }
}
