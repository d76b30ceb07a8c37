//! A server of HTTP/2 in plain text that does what the path says, the wrong things above all.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use portcullis::proto::h2::ErrorCode;
use portcullis::proto::h2::frame::{
    Decoder, Frame, PREFACE, Role, begin_headers, data_head, finish_headers, put_goaway, put_ping,
    put_ping_ack, put_rst_stream, put_settings, put_settings_ack, put_window_update,
};
use portcullis::proto::h2::hpack::{self, Bounds, Encoder, HeaderList, Indexing};

/// A server that serves each connection in a thread of its own, for as long as the process lives.
pub(crate) struct Http2Backend {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    settings: Vec<(u16, u32)>,
    accepted: AtomicUsize,
    ended: AtomicUsize,
    /// RST_STREAM of the other side.
    resets: AtomicUsize,
    /// Most streams open at once on one connection.
    streams_most: AtomicUsize,
    requests: Mutex<Vec<Vec<(String, String)>>>,
}

impl Http2Backend {
    /// One that sends these settings.
    pub(crate) fn start(settings: &[(u16, u32)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            settings: settings.to_vec(),
            ..Shared::default()
        });
        let of_thread = shared.clone();
        std::thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                let shared = of_thread.clone();
                shared.accepted.fetch_add(1, Ordering::Relaxed);
                std::thread::spawn(move || {
                    // The other side may end the connection at any time.
                    drop(Serving::new(socket, &shared).run());
                    shared.ended.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        Self { address, shared }
    }

    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    pub(crate) fn open(&self) -> usize {
        self.accepted() - self.shared.ended.load(Ordering::Relaxed)
    }

    pub(crate) fn resets(&self) -> usize {
        self.shared.resets.load(Ordering::Relaxed)
    }

    pub(crate) fn streams_most(&self) -> usize {
        self.shared.streams_most.load(Ordering::Relaxed)
    }

    /// The fields of each request for `path`.
    pub(crate) fn asked_for(&self, path: &str) -> Vec<Vec<(String, String)>> {
        let all = self.shared.requests.lock().unwrap();
        let wanted = (":path".to_owned(), path.to_owned());
        let found = all.iter().filter(|fields| fields.contains(&wanted));
        found.cloned().collect()
    }
}

struct Serving<'a> {
    socket: TcpStream,
    shared: &'a Shared,
    encoder: Encoder,
    decoder: hpack::Decoder,
    frames: Decoder,
    out: Vec<u8>,
    /// The paths of the streams that are open.
    open: BTreeMap<u32, String>,
    answers_pings: bool,
}

type Ended = std::io::Error;

impl<'a> Serving<'a> {
    fn new(socket: TcpStream, shared: &'a Shared) -> Self {
        Self {
            socket,
            shared,
            encoder: Encoder::new(),
            decoder: hpack::Decoder::new(),
            frames: Decoder::new(Role::Server),
            out: Vec::new(),
            open: BTreeMap::new(),
            answers_pings: true,
        }
    }

    fn run(mut self) -> Result<(), Ended> {
        let mut input = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        put_settings(&self.shared.settings, &mut self.out);
        put_window_update(0, 1 << 30, &mut self.out);
        let mut begun = false;
        loop {
            self.socket.write_all(&std::mem::take(&mut self.out))?;
            let count = self.socket.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            input.extend_from_slice(&buffer[..count]);
            if !begun {
                if input.len() < PREFACE.len() {
                    continue;
                }
                assert!(input.starts_with(PREFACE));
                input.drain(..PREFACE.len());
                begun = true;
            }
            let taken = std::mem::take(&mut input);
            let mut rest = &taken[..];
            while let Some(length) = whole_frame(rest) {
                self.take(&rest[..length])?;
                rest = &rest[length..];
            }
            input = rest.to_vec();
        }
    }

    /// Handles one frame, whole.
    fn take(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        let mut frames = std::mem::replace(&mut self.frames, Decoder::new(Role::Server));
        let decoded = frames.decode(bytes).expect("a frame that may be sent");
        let frame = decoded.expect("a whole frame").frame;
        match frame {
            Frame::Headers(headers) => {
                let mut list = HeaderList::default();
                let bounds = Bounds {
                    list_bytes_max: 1 << 20,
                    fields_max: 1000,
                };
                self.decoder
                    .decode(headers.block, &bounds, &mut list)
                    .unwrap();
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                let fields: Vec<_> = list.iter().map(|(n, v)| (text(n), text(v))).collect();
                let path = fields.iter().find(|(name, _)| name == ":path");
                if let Some((_, path)) = path {
                    let path = path.clone();
                    self.shared.requests.lock().unwrap().push(fields);
                    self.open.insert(headers.stream, path.clone());
                    self.shared
                        .streams_most
                        .fetch_max(self.open.len(), Ordering::Relaxed);
                    self.begin(headers.stream, &path)?;
                } else if headers.end_stream {
                    // Trailers are sent back as such.
                    let fields: Vec<_> = fields.iter().map(|(n, v)| (&**n, &**v)).collect();
                    self.headers(headers.stream, &fields, true);
                }
            }
            Frame::Data(data) => {
                if data.flow_bytes > 0 {
                    put_window_update(0, data.flow_bytes, &mut self.out);
                }
                if self
                    .open
                    .get(&data.stream)
                    .is_some_and(|path| path == "/echo")
                {
                    let head = data_head(data.stream, data.content.len(), data.end_stream);
                    self.out.extend_from_slice(&head);
                    self.out.extend_from_slice(data.content);
                }
            }
            // What may be sent back may be sent: the windows of both directions move together.
            Frame::WindowUpdate { stream, increment } if self.open.contains_key(&stream) => {
                put_window_update(stream, increment, &mut self.out);
            }
            Frame::RstStream { stream, .. } => {
                self.shared.resets.fetch_add(1, Ordering::Relaxed);
                self.open.remove(&stream);
            }
            Frame::Settings { .. } => put_settings_ack(&mut self.out),
            Frame::Ping(opaque) if self.answers_pings => put_ping_ack(opaque, &mut self.out),
            Frame::HeadersPart
            | Frame::Priority { .. }
            | Frame::SettingsAck
            | Frame::Ping(_)
            | Frame::PingAck(_)
            | Frame::GoAway { .. }
            | Frame::WindowUpdate { .. }
            | Frame::PriorityUpdate { .. }
            | Frame::Unknown
            | Frame::Faulty(_) => {}
        }
        self.frames = frames;
        Ok(())
    }

    fn headers(&mut self, stream: u32, fields: &[(&str, &str)], end: bool) {
        let start = begin_headers(&mut self.out);
        self.encoder.begin(&mut self.out);
        for (name, value) in fields {
            let (name, value) = (name.as_bytes(), value.as_bytes());
            self.encoder
                .field(name, value, Indexing::Literal, &mut self.out);
        }
        finish_headers(start, stream, end, &mut self.out);
        if end {
            self.open.remove(&stream);
        }
    }

    fn data(&mut self, stream: u32, content: &[u8], end: bool) {
        self.out
            .extend_from_slice(&data_head(stream, content.len(), end));
        self.out.extend_from_slice(content);
        if end {
            self.open.remove(&stream);
        }
    }

    fn begin(&mut self, stream: u32, path: &str) -> Result<(), Ended> {
        let ok = &[(":status", "200")];
        match path {
            "/hello" => {
                self.headers(
                    stream,
                    &[(":status", "200"), ("content-length", "5")],
                    false,
                );
                self.data(stream, b"hello", true);
            }
            // Says nothing more on the second.
            "/echo" | "/open" => self.headers(stream, ok, false),
            "/hold" => {}
            "/fields-alone" => {
                self.headers(stream, &[(":status", "200"), ("grpc-status", "5")], true)
            }
            "/trailers" => {
                self.headers(stream, &[(":status", "103"), ("link", "</a>")], false);
                self.headers(stream, ok, false);
                self.data(stream, b"content", false);
                self.headers(stream, &[("sum", "7"), ("content-length", "9")], true);
            }
            // The first of a connection is served, so that others know of nothing better.
            "/refuse" if self.asked(path) == 1 => self.reset(stream, ErrorCode::RefusedStream),
            "/refuse" => {
                self.headers(stream, ok, false);
                self.data(stream, b"at last", true);
            }
            "/refuse/always" => self.reset(stream, ErrorCode::RefusedStream),
            "/goaway" if self.asked(path) == 1 => {
                put_goaway(stream.saturating_sub(2), ErrorCode::No, &mut self.out);
            }
            "/goaway" => {
                self.headers(stream, ok, false);
                self.data(stream, b"elsewhere", true);
            }
            "/goaway/after" => {
                put_goaway(stream, ErrorCode::No, &mut self.out);
                self.headers(stream, ok, false);
                self.data(stream, b"the last", true);
            }
            path => return self.misbehave(stream, path),
        }
        Ok(())
    }

    fn misbehave(&mut self, stream: u32, path: &str) -> Result<(), Ended> {
        let ok = &[(":status", "200")];
        match path {
            "/reset" => self.reset(stream, ErrorCode::Internal),
            "/reset/body" => {
                self.headers(stream, ok, false);
                self.data(stream, b"half", false);
                self.reset(stream, ErrorCode::Internal);
            }
            "/enough" => {
                self.headers(stream, &[(":status", "413")], false);
                self.data(stream, b"too much", true);
                self.reset(stream, ErrorCode::No);
            }
            "/close" => return Err(std::io::ErrorKind::ConnectionAborted.into()),
            "/silent" => self.answers_pings = false,
            "/malformed" => self.headers(stream, &[("status", "200")], true),
            "/smuggled" => {
                let pairs = [(":status", "200"), ("transfer-encoding", "chunked")];
                self.headers(stream, &pairs, true);
            }
            "/line-end" => self.headers(stream, &[(":status", "200"), ("a", "b\r\nc: d")], true),
            "/length" => {
                self.headers(
                    stream,
                    &[(":status", "200"), ("content-length", "3")],
                    false,
                );
                self.data(stream, b"four", true);
            }
            "/garbage" => self.out.extend_from_slice(b"HTTP/1.1 200 OK\r\n\r\n"),
            "/pings" => {
                for _ in 0..1000 {
                    put_ping([0; 8], &mut self.out);
                }
                self.headers(stream, ok, true);
            }
            _ => self.headers(stream, &[(":status", "404")], true),
        }
        Ok(())
    }

    fn asked(&self, path: &str) -> usize {
        let all = self.shared.requests.lock().unwrap();
        let wanted = (":path".to_owned(), path.to_owned());
        all.iter().filter(|fields| fields.contains(&wanted)).count()
    }

    fn reset(&mut self, stream: u32, code: ErrorCode) {
        put_rst_stream(stream, code, &mut self.out);
        self.open.remove(&stream);
    }
}

fn whole_frame(bytes: &[u8]) -> Option<usize> {
    let [l0, l1, l2, ..] = *bytes.first_chunk::<9>()?;
    let length = 9 + u32::from_be_bytes([0, l0, l1, l2]) as usize;
    (bytes.len() >= length).then_some(length)
}
