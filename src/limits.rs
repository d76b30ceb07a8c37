//! Every fixed bound in one place. What an operator may change is in [`crate::config`], with these
//! as the edges of what it may be set to.

/// The longest TLS plaintext of one record (RFC 8446 5.1).
pub const RECORD_PLAINTEXT_BYTES_MAX: usize = 16_384;

/// The record header: type, version, length (RFC 8446 5.1).
pub const RECORD_HEADER_BYTES: usize = 5;

/// The most that protection may add to a TLS 1.3 record (RFC 8446 5.2); TLS 1.2 allows 2048, but its
/// AEAD suites add 24 at most.
pub const RECORD_EXPANSION_BYTES_MAX: usize = 256;

/// The longest record on the wire that is accepted.
pub const RECORD_WIRE_BYTES_MAX: usize =
    RECORD_HEADER_BYTES + RECORD_PLAINTEXT_BYTES_MAX + RECORD_EXPANSION_BYTES_MAX;

/// Records that may be protected with one AES-GCM key (RFC 8446 5.5 allows 2^24.5 full records).
pub const AES_GCM_RECORDS_MAX: u64 = 1 << 24;

/// Records beyond a key's limit that alerts and KeyUpdates may still use: a key that data has used up
/// must be able to protect the message that replaces it.
pub const CONTROL_RECORDS_RESERVE: u64 = 64;

/// Records in a row without content that a peer may send. They are legal (RFC 8446 5.1 allows them
/// against traffic analysis), cost a decryption each and bring nothing.
pub const EMPTY_RECORDS_MAX: u32 = 32;

/// Warning alerts that a peer may send without application data between them.
pub const WARNING_ALERTS_MAX: u32 = 4;

/// Renegotiations that a TLS 1.2 client is refused before the next one ends the connection.
pub const RENEGOTIATIONS_REFUSED_MAX: u32 = 1;

/// The most records that one step of sending application data may make, counted generously. A key
/// with no more than this left is changed before the step.
pub const RECORDS_PER_STEP_MAX: u64 = 24;

/// The fewest records per key that can be configured: far enough above a step that a KeyUpdate does
/// not follow a KeyUpdate, and that a connection which cannot change its key sees its end coming.
pub const RECORDS_PER_KEY_MIN: u64 = 16 * RECORDS_PER_STEP_MAX;

/// KeyUpdates a peer may send in one window of [`KEY_UPDATE_WINDOW_MS`]. Each costs key derivation
/// and, under kTLS, a setsockopt; a peer has no reason for more than one per 2^24 records.
pub const KEY_UPDATES_PER_WINDOW_MAX: u32 = 8;

/// The window of [`KEY_UPDATES_PER_WINDOW_MAX`], in milliseconds.
pub const KEY_UPDATE_WINDOW_MS: u64 = 10_000;

/// Session tickets of a server that one connection keeps; others are passed over.
pub const SESSION_TICKETS_MAX: u32 = 16;

/// The longest session ticket that is kept, with all that comes with it.
pub const SESSION_TICKET_BYTES_MAX: usize = 16 * 1024;

/// Servers of one group whose sessions are remembered, so that they can be resumed; of each, rustls
/// keeps eight tickets at most.
pub const UPSTREAM_SESSIONS_MAX: usize = 256;

/// Handshake bytes accepted from a client before the session is established: a ClientHello with
/// post-quantum key shares and a client certificate chain fit several times.
pub const HANDSHAKE_BYTES_MAX: usize = 32 * 1024;

/// Plaintext bytes that one turn seals and sends from a worker's scratch buffer: four full records,
/// which stay in the second-level cache between the copy, the cipher and the socket.
pub const SEND_CHUNK_BYTES: usize = 4 * RECORD_PLAINTEXT_BYTES_MAX;

/// The unit in which the kernel keeps files and what sockets receive (x86-64, and AArch64 as servers run
/// it).
pub const PAGE_BYTES: usize = 4096;

/// A copy whose destination lies behind its source by less than so many bytes, but at least one, both taken
/// modulo [`PAGE_BYTES`], takes an AMD EPYC four times as long as any other: `rep movsb`, which the kernel
/// copies with, seems to wait for bytes just stored wherever only the page differs. Reads of 1 MiB from the
/// page cache took 360 to 400 us with the destination 1 to 13 bytes into a page, and 77 to 102 at 0 and from
/// 16 on (Linux 6.18; between 13 and 16 nothing was tried).
pub const ALIASED_BYTES: usize = 16;

/// Sealed bytes that one worker's connections may keep for sockets without room before each seals
/// one record at a time instead of [`SEND_CHUNK_BYTES`]: readers that stall cost memory that others
/// pay for.
pub const QUEUED_BYTES_PER_WORKER_MAX: usize = 64 * 1024 * 1024;

/// What of a file is mapped at once for the kernel to send from: a page of page-table entries.
pub const MAPPED_WINDOW_BYTES: usize = 2 * 1024 * 1024;

/// Such windows of one worker. They take address space and page tables, and what was sent from them
/// counts as resident memory of the process, although it is the page cache's.
pub const MAPPED_WINDOWS_PER_WORKER_MAX: usize = 128;

/// A window makes way for another when so many have been used since it was.
pub const MAPPED_WINDOW_QUIET_USES: u64 = 2048;

/// A window is given up when nothing was sent from it for so long, in milliseconds.
pub const MAPPED_WINDOW_IDLE_MS: u64 = 10_000;

/// How long file content that was found in the page cache is taken to be there, in milliseconds: what
/// was just looked at is the last that the kernel takes away.
pub const RESIDENCY_REMEMBERED_MS: u64 = 250;

/// A piece of a body that is at least so long is sent by the kernel from where it lies, in place of
/// being copied next to its frame's head.
pub const UNCOPIED_BYTES_MIN: usize = 8 * 1024;

/// Bytes that one turn receives into a worker's scratch buffer.
pub const RECEIVE_CHUNK_BYTES: usize = 64 * 1024;

/// Bytes that a task may move by direct system calls before it lets the others run.
pub const TURN_BYTES_MAX: usize = 1024 * 1024;

/// Connections that one turn accepts before the worker serves those it has.
pub const ACCEPTS_PER_TURN_MAX: usize = 64;

/// Submissions that a worker's ring holds: what one turn may queue before it is flushed early.
pub const RING_SUBMISSIONS: u32 = 1024;

/// Completions that a worker's ring holds. Readiness waits of idle connections complete rarely, but
/// all at once in a drain.
pub const RING_COMPLETIONS: u32 = 16_384;

/// Header fields in one request head: httparse needs a table of that size.
pub const HEADER_FIELDS_MAX: usize = 128;

/// A response head that another server sends, in bytes.
pub const UPSTREAM_HEADER_BYTES_MAX: usize = 64 * 1024;

/// Interim responses (RFC 9110 15.2) before another server's final one.
pub const INTERIM_RESPONSES_MAX: usize = 16;

/// Bytes of fields in the interim responses to one request that are passed on; others are dropped. A
/// browser's early hints take some hundreds.
pub const INTERIM_BYTES_MAX: usize = 16 * 1024;

/// Networks in one list of the configuration: more than all allocations of a large country.
pub const NETWORKS_PER_LIST_MAX: usize = 65_536;

/// Addresses in a Forwarded or X-Forwarded-For field that are looked at, from the nearest proxy on.
pub const FORWARDED_HOPS_MAX: usize = 16;

/// Sets of buckets in which request rates are kept: with [`RATE_SLOTS_PER_SET`] a megabyte for 65,536
/// clients at once.
pub const RATE_SETS: usize = 8_192;

/// Buckets that are looked through for one client: at as many busy clients as there are sets, one in a
/// million finds all of them taken.
pub const RATE_SLOTS_PER_SET: usize = 8;

/// The shortest rest of an answer that goes from a server's connection to the client's without a copy in
/// user space: below it, receiving and sending take fewer calls.
pub const RELAYED_BYTES_MIN: u64 = 64 * 1024;

/// Routes of one site: finding one looks at each prefix.
pub const ROUTES_PER_SITE_MAX: usize = 256;

/// Connection options of one message that is passed on: each is compared with each of its fields.
pub const CONNECTION_OPTIONS_MAX: usize = 32;

/// A PROXY protocol header: the fixed part, the addresses and type-length-values. A certificate
/// chain of usual size fits.
pub const PROXY_HEADER_BYTES_MAX: usize = 4096;

/// Empty lines tolerated before a request line (RFC 9112 2.2): some clients send one after a body.
pub const EMPTY_LINES_MAX: usize = 4;

/// The longest method that is looked at; longer ones are answered with 501 (RFC 9112 3).
pub const METHOD_BYTES_MAX: usize = 32;

/// The longest host: a DNS name in text, and far more than any address.
pub const HOST_BYTES_MAX: usize = 255;

/// Ranges in one request beyond which the field is ignored (RFC 9110 17.15: many small ranges are
/// an attack on the server's memory and disks).
pub const RANGES_MAX: usize = 16;

/// A response field that the configuration sets, name and value together: heads stay far below what
/// clients take.
pub const HEADER_RULE_FIELD_BYTES_MAX: usize = 4096;

/// Hexadecimal digits of a chunk's size: those of 64 bits, leading zeros included.
pub const CHUNK_SIZE_DIGITS_MAX: usize = 16;

/// A chunk's size line with its extensions and CRLF.
pub const CHUNK_LINE_BYTES_MAX: usize = 1024;

/// One trailer field with its CRLF.
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// Trailer fields of one request body.
pub const TRAILER_FIELDS_MAX: usize = 32;

/// Chunk extensions and trailers of one request body together: they cost work and are thrown away.
pub const BODY_OVERHEAD_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a request body nobody asked for that are read and thrown away to keep the connection;
/// over it, opening a new connection is cheaper than receiving them.
pub const BODY_DISCARD_BYTES_MAX: u64 = 256 * 1024;

/// Bytes read and thrown away in a lingering close, so that what the client has in flight does not
/// turn into a reset that overtakes the answer.
pub const LINGER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Files up to this size are kept as bytes in the open-file cache: they go out in one record with
/// their header, and need no descriptor.
pub const CACHED_CONTENT_BYTES_MAX: u64 = 16 * 1024;

/// Bytes of file content that one worker's cache keeps.
pub const CACHED_CONTENT_BYTES_PER_WORKER_MAX: usize = 8 * 1024 * 1024;

/// Threads for calls that wait for disks.
pub const FILE_THREADS: usize = 8;

/// Of those, the most that wait for one file system at once: one that hangs leaves threads for the
/// others, and reads of one disk queue up in it rather than here.
pub const FILE_THREADS_PER_DEVICE_MAX: usize = FILE_THREADS / 2;

/// Jobs that may wait for a file thread before new ones are refused.
pub const FILE_JOBS_WAITING_MAX: usize = 1024;

/// Of those, jobs for one file system.
pub const FILE_JOBS_WAITING_PER_DEVICE_MAX: usize = FILE_JOBS_WAITING_MAX / 2;

/// Names in one directory that its listing looks at: each is asked for by a call.
pub const LISTING_ENTRIES_MAX: usize = 4096;

/// The page of one listing. It is kept with the other content of the cache.
pub const LISTING_BYTES_MAX: usize = 1024 * 1024;

/// Paths per worker that are remembered as not being a file: those of a crawl or a scan, so that
/// repeating them costs no file thread.
pub const NEGATIVE_ENTRIES_PER_WORKER_MAX: usize = 1024;

/// The longest such path, in bytes.
pub const NEGATIVE_ENTRY_PATH_BYTES_MAX: usize = 256;

/// Bytes of access log that a worker gathers before it hands them to the writer.
pub const ACCESS_LOG_BATCH_BYTES: usize = 16 * 1024;

/// Batches of access log that wait for the writer before others are dropped.
pub const ACCESS_LOG_BATCHES_WAITING_MAX: usize = 256;

/// Access logs of one configuration: each has a thread.
pub const ACCESS_LOGS_MAX: usize = 256;

/// The longest id of a request that is taken over from a proxy in front: it is logged and passed on.
pub const REQUEST_ID_BYTES_MAX: usize = 128;

/// Bytes of one value (a target, a user agent) that are logged.
pub const ACCESS_LOG_VALUE_BYTES_MAX: usize = 4096;

/// Bytes after the prefix of an HPACK integer (RFC 7541 5.1): those of 32 bits.
pub const HPACK_INTEGER_BYTES_MAX: u32 = 5;

/// The dynamic table that this side uses to compress header fields, in bytes (RFC 7541 4.1). Room
/// for the fields that a server sends again and again; each lookup reads its lengths once.
pub const HPACK_ENCODER_TABLE_BYTES_MAX: usize = 2048;

/// Bytes of one compressed HTTP/2 header block, over all its frames. Beyond, it cannot be decoded
/// and the connection ends: twice what any list within the bounds compresses to in practice.
pub const H2_HEADER_BLOCK_BYTES_MAX: usize = 64 * 1024;

/// CONTINUATION frames of one header block: those of the longest block at the smallest frame size
/// that a peer can be limited to (RFC 9113 4.2), and some for peers that cut smaller. Empty ones
/// count, which bytes would not bound.
pub const H2_CONTINUATIONS_MAX: usize = 16;

/// The longest priority that is looked at (RFC 9218 4 needs six bytes; parameters may be added).
pub const H2_PRIORITY_FIELD_BYTES_MAX: usize = 256;

/// The largest window that a peer is given, per stream and per connection: what it sends and nobody
/// has consumed is held in memory. 16 MiB fill 1 Gbit/s over 130 ms.
pub const H2_RECEIVE_WINDOW_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// What a server behind this one may send ahead of a client that takes it: 1 Gbit/s over a millisecond.
/// One worker holds so much for each stream, and [`H2_RECEIVE_WINDOW_BYTES_MAX`] for all of a connection.
pub const H2_UPSTREAM_STREAM_WINDOW_BYTES: u32 = 128 * 1024;

/// Settings in one SETTINGS frame: several times those registered, where a frame has room for 2730.
pub const H2_SETTINGS_PER_FRAME_MAX: usize = 64;

/// Bytes that a pipe of a tunnel is made to hold, where the system lets it.
pub const PIPE_BYTES: u32 = 256 * 1024;

/// Pipes without bytes in them that one worker keeps: two descriptors each, and most tunnels need
/// one only within a turn.
pub const PIPES_KEPT_PER_WORKER_MAX: usize = 16;

/// Buffers without bytes in them that one worker keeps for its tunnels.
pub const TUNNEL_BUFFERS_KEPT_PER_WORKER_MAX: usize = 16;

/// Servers of a group that one connection tries, one after the other.
pub const UPSTREAM_TRIES_MAX: usize = 3;

/// Connections over HTTP/2 that one request for a tunnel finds full when their servers have said that they
/// take it. Each was filled by others that waited with it, so that some request gets on each time.
pub const UPSTREAM_ROOM_LOST_MAX: usize = 64;

/// Groups of servers: each that looks up names or checks health has a thread of its own.
pub const UPSTREAMS_MAX: usize = 256;

/// How long a server is waited for that does not say whether it wants a body that its client sends only when
/// it is asked for. RFC 9110 10.1.1: clients must not wait for ever; curl does for as long.
pub const UPSTREAM_CONTINUE_WAIT_MS: u64 = 1000;

/// Servers in one group: choosing looks at each of them.
pub const UPSTREAM_SERVERS_MAX: usize = 256;

/// Addresses of one server's name that are kept.
pub const UPSTREAM_ADDRESSES_MAX: usize = 16;

/// Names of a group that are looked up at a time, each by a thread of its own. The others wait.
pub const UPSTREAM_LOOKUPS_MAX: usize = 16;

/// How often the time that a failing server is left out is doubled: 32 times the first.
pub const EJECTION_DOUBLINGS_MAX: u32 = 5;

/// Bytes read of the answer to a health check: interim answers and its own status line.
pub const HEALTH_ANSWER_BYTES_MAX: usize = 16 * 1024;

/// The same over HTTP/2, where settings and all of the answer's fields come before anything is known.
pub const HEALTH_HTTP2_BYTES_MAX: usize = 128 * 1024;

/// How often something may happen on one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// At once.
    pub burst: u32,
    /// In the long run, per second.
    pub per_second: u32,
}

impl Rate {
    const fn new(burst: u32, per_second: u32) -> Self {
        Self { burst, per_second }
    }
}

/// HTTP/2 streams that the peer resets: a browser that leaves a page resets all it had open.
pub const H2_PEER_RESETS: Rate = Rate::new(256, 20);

/// HTTP/2 streams that the peer's errors make this side reset: honest peers make none.
pub const H2_PROVOKED_RESETS: Rate = Rate::new(64, 2);

/// DATA frames without content that end nothing.
pub const H2_EMPTY_DATA: Rate = Rate::new(64, 2);

/// SETTINGS after the first: peers change them once or twice in a connection's life.
pub const H2_SETTINGS: Rate = Rate::new(16, 1);

/// PINGs beyond one per DATA frame sent: some peers measure the path with those.
pub const H2_PINGS: Rate = Rate::new(128, 20);

/// PRIORITY and PRIORITY_UPDATE frames: old browsers send a tree of them, new ones a few per page.
pub const H2_PRIORITIES: Rate = Rate::new(512, 50);

/// WINDOW_UPDATEs beyond one per 1000 bytes sent, and two per frame that no window cut short.
pub const H2_WINDOW_UPDATES: Rate = Rate::new(2048, 100);

/// Frames that are ignored: of unknown types, or late for a stream that is closed.
pub const H2_IGNORED_FRAMES: Rate = Rate::new(512, 50);

/// Streams that a client may be allowed to have open at once.
pub const H2_STREAMS_MAX: usize = 256;

/// Streams reset by this side that are remembered, so that what the peer had in flight for them is
/// no error: as many as may be open at once.
pub const H2_RESETS_REMEMBERED: usize = H2_STREAMS_MAX;

/// Bytes of acknowledgements, resets and window updates that wait to be sent before no more is read:
/// a peer that makes answers necessary and does not read them would fill memory with them.
pub const H2_CONTROL_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a response made while it is sent that one stream keeps ahead of the socket.
pub const H2_RESPONSE_AHEAD_BYTES: usize = 64 * 1024;

/// Priorities that are kept for streams not yet opened (RFC 9218 7.1): as many as a browser sends
/// ahead of its requests.
pub const H2_PRIORITIES_AHEAD_MAX: usize = 16;

/// How long SETTINGS may stay unacknowledged, in milliseconds (RFC 9113 6.5.3): far longer than the
/// slowest path takes.
pub const H2_SETTINGS_ACK_MS: u64 = 30_000;

/// How long a server behind this one may take to answer a PING, in milliseconds.
pub const H2_PING_ACK_MS: u64 = 10_000;

/// How often a connection whose client has ended its direction is looked at, in milliseconds: whether
/// it has been reset since.
pub const H2_HALF_CLOSED_LOOK_MS: u64 = 1_000;

/// How long a drain waits for the answer to its PING before it names the last stream, in
/// milliseconds: a round trip.
pub const H2_DRAIN_PING_MS: u64 = 1_000;

const _: () = assert!(RECEIVE_CHUNK_BYTES >= 2 * RECORD_WIRE_BYTES_MAX);
const _: () = assert!(RECEIVE_CHUNK_BYTES >= HANDSHAKE_BYTES_MAX);
const _: () = assert!(PIPE_BYTES as usize <= TURN_BYTES_MAX && PIPE_BYTES.is_power_of_two());
const _: () =
    assert!((PIPE_BYTES as usize / RECORD_PLAINTEXT_BYTES_MAX) as u64 + 1 < RECORDS_PER_STEP_MAX);
const _: () = assert!(RECORDS_PER_KEY_MIN < AES_GCM_RECORDS_MAX);
const _: () = assert!(HANDSHAKE_BYTES_MAX >= RECORD_WIRE_BYTES_MAX);
const _: () = assert!(TURN_BYTES_MAX >= SEND_CHUNK_BYTES);
const _: () = assert!(RING_SUBMISSIONS.is_power_of_two() && RING_COMPLETIONS.is_power_of_two());
const _: () = assert!(RING_COMPLETIONS >= 2 * RING_SUBMISSIONS);
const _: () = assert!(AES_GCM_RECORDS_MAX + CONTROL_RECORDS_RESERVE < (1 << 24) + (1 << 22));
const _: () = assert!(CHUNK_LINE_BYTES_MAX > CHUNK_SIZE_DIGITS_MAX + 2);
const _: () = assert!(BODY_OVERHEAD_BYTES_MAX > TRAILER_BYTES_MAX);

const _: () =
    assert!(0 < FILE_THREADS_PER_DEVICE_MAX && FILE_THREADS_PER_DEVICE_MAX < FILE_THREADS);
const _: () = assert!(FILE_JOBS_WAITING_PER_DEVICE_MAX < FILE_JOBS_WAITING_MAX);
const _: () = assert!(CACHED_CONTENT_BYTES_PER_WORKER_MAX as u64 >= CACHED_CONTENT_BYTES_MAX);
const _: () = assert!(CACHED_CONTENT_BYTES_PER_WORKER_MAX >= 4 * LISTING_BYTES_MAX);
const _: () = assert!(CACHED_CONTENT_BYTES_MAX <= RECORD_PLAINTEXT_BYTES_MAX as u64);
