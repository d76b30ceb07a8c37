//! What clients can make a process hold in memory with what they send.

use super::Config;
use crate::limits::{
    H2_HEADER_BLOCK_BYTES_MAX, HANDSHAKE_BYTES_MAX, RECEIVE_CHUNK_BYTES, RECORD_WIRE_BYTES_MAX,
};

impl Config {
    /// Bytes that one client connection may have sent and that nobody has taken yet, at most. Bodies
    /// are not read ahead of whoever takes them, beyond the window of HTTP/2.
    pub fn held_bytes_per_connection_max(&self) -> u64 {
        // What one receive adds to a buffer that still had room, and the part of a record.
        let received = RECEIVE_CHUNK_BYTES + RECORD_WIRE_BYTES_MAX;
        let http1 = self.limits.header_bytes_max + received;
        let fields = self.http2.concurrent_streams_max * self.http2.header_list_bytes_max;
        let http2 = fields + H2_HEADER_BLOCK_BYTES_MAX + received;
        let http2 = http2 as u64 + u64::from(self.http2.connection_window_bytes);
        http2.max(http1.max(HANDSHAKE_BYTES_MAX) as u64)
    }

    /// The same for all connections of one client address.
    pub fn held_bytes_per_address_max(&self) -> u64 {
        let connections = self.limits.connections_per_address_max as u64;
        self.held_bytes_per_connection_max()
            .saturating_mul(connections)
    }

    /// The same for all connections of one worker.
    pub fn held_bytes_per_worker_max(&self) -> u64 {
        let connections = self.limits.connections_per_worker_max as u64;
        self.held_bytes_per_connection_max()
            .saturating_mul(connections)
    }
}

#[cfg(test)]
mod tests {
    use crate::limits::{
        H2_HEADER_BLOCK_BYTES_MAX, HANDSHAKE_BYTES_MAX, RECEIVE_CHUNK_BYTES, RECORD_WIRE_BYTES_MAX,
    };
    use crate::serve::testing;

    #[test]
    fn the_version_that_holds_more_counts() {
        let mut config = testing::config(Vec::new(), None);
        config.http2.connection_window_bytes = 65_535;
        config.http2.concurrent_streams_max = 1;
        config.http2.header_list_bytes_max = 1024;
        config.limits.header_bytes_max = 1024;
        config.limits.connections_per_address_max = 3;
        config.limits.connections_per_worker_max = usize::MAX;
        let receive = (RECEIVE_CHUNK_BYTES + RECORD_WIRE_BYTES_MAX) as u64;
        let http2 = 65_535 + 1024 + H2_HEADER_BLOCK_BYTES_MAX as u64 + receive;
        assert_eq!(config.held_bytes_per_connection_max(), http2);
        assert_eq!(config.held_bytes_per_address_max(), 3 * http2);
        assert_eq!(config.held_bytes_per_worker_max(), u64::MAX);
        config.limits.header_bytes_max = 1 << 20;
        let http1 = (1 << 20) + receive;
        assert_eq!(config.held_bytes_per_connection_max(), http1);
        assert!(http1 > HANDSHAKE_BYTES_MAX as u64);
    }
}
