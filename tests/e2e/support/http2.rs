//! An HTTP/2 client that does what it is told, right or wrong, and keeps what it hears.

use std::collections::BTreeMap;
use std::io;

use portcullis::proto::h2::ErrorCode;
use portcullis::proto::h2::frame::{
    Decoder, Frame, PREFACE, Role, begin_headers, finish_headers, put_settings, put_settings_ack,
    put_window_update,
};
use portcullis::proto::h2::hpack::{self, Bounds, Encoder, HeaderList, Indexing};

use portcullis::proto::h2::settings::Settings;

use super::client::{Client, Ending, Manner};
use super::server::Server;

/// One connection.
pub(crate) struct Http2 {
    pub(crate) client: Client,
    encoder: Encoder,
    decoder: hpack::Decoder,
    frames: Decoder,
    input: Vec<u8>,
    out: Vec<u8>,
    /// What was heard of each stream.
    pub(crate) streams: BTreeMap<u32, Heard>,
    /// The last stream and the code of each GOAWAY.
    pub(crate) goaways: Vec<(u32, ErrorCode)>,
    pub(crate) pongs: Vec<[u8; 8]>,
    /// Whether what comes is told to be taken, by window updates as large as it.
    pub(crate) opens_windows: bool,
    pub(crate) answers_pings: bool,
    next_stream: u32,
    windows: Windows,
    /// Bytes that were heard.
    heard: usize,
}

/// What was heard of a stream.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Of the last head: the final response's, once it has come.
    pub(crate) status: Option<u16>,
    /// The statuses of interim responses before it, each with its link field.
    pub(crate) interims: Vec<(u16, Option<String>)>,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) has_ended: bool,
    pub(crate) reset: Option<ErrorCode>,
}

/// What may be sent.
struct Windows {
    connection: i64,
    /// What streams begin with.
    initial: i64,
    streams: BTreeMap<u32, i64>,
}

impl Windows {
    /// Takes what they have for a frame of `stream`, up to `wanted` bytes.
    fn take(&mut self, stream: u32, wanted: usize) -> usize {
        let window = self.streams.entry(stream).or_insert(self.initial);
        let room = (*window).min(self.connection).clamp(0, 16_384);
        let count = wanted.min(usize::try_from(room).unwrap());
        let taken = i64::try_from(count).unwrap();
        *window -= taken;
        self.connection -= taken;
        count
    }

    fn open(&mut self, stream: u32, increment: u32) {
        let window = match stream {
            0 => &mut self.connection,
            stream => self.streams.entry(stream).or_insert(self.initial),
        };
        *window += i64::from(increment);
    }

    fn take_settings(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        let mut settings = Settings::default();
        settings.apply(payload, Role::Client).unwrap();
        let initial = i64::from(settings.initial_window_size);
        for window in self.streams.values_mut() {
            *window += initial - self.initial;
        }
        self.initial = initial;
        put_settings_ack(out);
    }
}

impl Heard {
    /// Whether nothing more comes.
    pub(crate) fn is_over(&self) -> bool {
        self.has_ended || self.reset.is_some()
    }
}

impl Http2 {
    /// A connection of `manner`, which has sent its preface with these settings.
    pub(crate) fn connect(manner: &Manner, server: &Server, settings: &[(u16, u32)]) -> Self {
        let manner = Manner {
            protocols: &["h2"],
            ..manner.clone()
        };
        let client = manner.connect(server);
        assert_eq!(client.tls.alpn_protocol(), Some(&b"h2"[..]));
        let mut this = Self {
            client,
            encoder: Encoder::new(),
            decoder: hpack::Decoder::new(),
            frames: Decoder::new(Role::Client),
            input: Vec::new(),
            out: PREFACE.to_vec(),
            streams: BTreeMap::new(),
            goaways: Vec::new(),
            pongs: Vec::new(),
            opens_windows: true,
            answers_pings: true,
            next_stream: 1,
            windows: Windows {
                connection: 65_535,
                initial: 65_535,
                streams: BTreeMap::new(),
            },
            heard: 0,
        };
        put_settings(settings, &mut this.out);
        this.flush().unwrap();
        this
    }

    /// Adds a request for `path` to what is sent next; gives its stream.
    pub(crate) fn ask(&mut self, path: &str) -> u32 {
        self.ask_with(&[(":method", "GET"), (":path", path)], true)
    }

    /// As [`Http2::ask`], with these fields beside `:scheme` and `:authority`.
    pub(crate) fn ask_with(&mut self, fields: &[(&str, &str)], end: bool) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        let (pseudo, others): (Vec<_>, Vec<_>) =
            fields.iter().partition(|(name, _)| name.starts_with(':'));
        let common = [(":scheme", "https"), (":authority", "localhost")];
        let all = pseudo.into_iter().chain(&common).chain(others);
        let start = begin_headers(&mut self.out);
        self.encoder.begin(&mut self.out);
        for (name, value) in all {
            let (name, value) = (name.as_bytes(), value.as_bytes());
            self.encoder
                .field(name, value, Indexing::of(name), &mut self.out);
        }
        finish_headers(start, stream, end, &mut self.out);
        self.streams.insert(stream, Heard::default());
        stream
    }

    /// Adds a request of exactly these fields to what is sent next; gives its stream.
    pub(crate) fn ask_exactly(&mut self, fields: &[(&[u8], &[u8])], end: bool) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        let start = begin_headers(&mut self.out);
        self.encoder.begin(&mut self.out);
        for (name, value) in fields {
            self.encoder
                .field(name, value, Indexing::Literal, &mut self.out);
        }
        finish_headers(start, stream, end, &mut self.out);
        self.streams.insert(stream, Heard::default());
        stream
    }

    /// Adds a request with this header block to what is sent next; gives its stream.
    pub(crate) fn ask_in(&mut self, block: &[u8]) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        self.push(&frame(1, 5, stream, block));
        self.streams.insert(stream, Heard::default());
        stream
    }

    /// Adds bytes to what is sent next.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Adds content of `stream` to what is sent next, in frames. The windows must have room for it.
    pub(crate) fn push_data(&mut self, stream: u32, content: &[u8], end: bool) {
        let mut parts = content.chunks(16_384).peekable();
        while let Some(part) = parts.next() {
            let last = end && parts.peek().is_none();
            self.push(&frame(0, u8::from(last), stream, part));
        }
    }

    /// Sends what was added.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        use std::io::Write;
        let out = std::mem::take(&mut self.out);
        self.client.tls.writer().write_all(&out)?;
        self.client.flush()
    }

    /// Listens until `is_enough`, or the connection ends.
    pub(crate) fn hear(&mut self, is_enough: impl Fn(&Self) -> bool) -> Result<(), Ending> {
        let mut buffer = vec![0; 64 * 1024];
        while !is_enough(self) {
            if !self.out.is_empty() {
                self.flush().map_err(|error| Ending::of(&error))?;
            }
            match self.client.read_some(&mut buffer) {
                Ok(0) => return Err(Ending::CloseNotify),
                Ok(count) => self.take(&buffer[..count]),
                Err(error) => return Err(Ending::of(&error)),
            }
        }
        Ok(())
    }

    /// Sends what is to be sent, and hears until `stream` is over.
    pub(crate) fn hear_out(&mut self, stream: u32) {
        self.flush().unwrap();
        self.hear(|client| client.streams[&stream].is_over())
            .unwrap();
    }

    /// Listens until every stream is over.
    pub(crate) fn hear_all(&mut self) {
        self.hear(|this| this.streams.values().all(Heard::is_over))
            .expect("the connection goes on");
        self.flush().unwrap();
    }

    /// Listens until the connection ends.
    pub(crate) fn hear_the_end(&mut self) -> Ending {
        self.hear(|_| false).expect_err("it ends")
    }

    /// Asks for `path` and gives what came.
    pub(crate) fn get(&mut self, path: &str) -> Heard {
        let stream = self.ask(path);
        self.flush().unwrap();
        self.hear(|this| this.streams[&stream].is_over())
            .expect("a response");
        self.streams.remove(&stream).unwrap()
    }

    /// Sends `content` on each of `sent`, whose values say how much of it is sent already, as far as the
    /// windows go, and listens until every stream is over.
    pub(crate) fn echo_through(&mut self, sent: &mut BTreeMap<u32, usize>, content: &[u8]) {
        loop {
            for (stream, at) in sent.iter_mut() {
                let is_open = |this: &Self| !this.streams[stream].is_over();
                while *at < content.len() && is_open(self) {
                    let count = self.windows.take(*stream, content.len() - *at);
                    if count == 0 {
                        break;
                    }
                    let end = *at + count;
                    let last = end == content.len();
                    let part = frame(0, u8::from(last), *stream, &content[*at..end]);
                    self.out.extend_from_slice(&part);
                    // TLS takes a bounded number of bytes at once.
                    self.flush().expect("it goes on");
                    *at = end;
                }
            }
            if sent.keys().all(|stream| self.streams[stream].is_over()) {
                return;
            }
            let heard = self.heard;
            self.hear(|this| this.heard > heard).expect("it goes on");
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.heard += bytes.len();
        self.input.extend_from_slice(bytes);
        let input = std::mem::take(&mut self.input);
        let mut rest = &input[..];
        while let Some(decoded) = self.frames.decode(rest).unwrap() {
            rest = &rest[decoded.consumed..];
            match decoded.frame {
                Frame::Headers(headers) => {
                    let bounds = Bounds {
                        list_bytes_max: 1 << 20,
                        fields_max: 1000,
                    };
                    let mut list = HeaderList::default();
                    self.decoder
                        .decode(headers.block, &bounds, &mut list)
                        .unwrap();
                    let heard = self.streams.entry(headers.stream).or_default();
                    assert!(!heard.has_ended);
                    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                    let mut fields = list.iter();
                    if let Some((b":status", status @ [b'1', ..])) = fields.next() {
                        let link = fields.find(|(name, _)| *name == b"link");
                        let link = link.map(|(_, value)| text(value));
                        heard.interims.push((text(status).parse().unwrap(), link));
                        continue;
                    }
                    for (name, value) in list.iter() {
                        match name {
                            b":status" => heard.status = text(value).parse().ok(),
                            _ => heard.fields.push((text(name), text(value))),
                        }
                    }
                    heard.has_ended = headers.end_stream;
                }
                Frame::Data(data) => {
                    let heard = self.streams.entry(data.stream).or_default();
                    assert!(!heard.has_ended && heard.status.is_some());
                    heard.body.extend_from_slice(data.content);
                    heard.has_ended = data.end_stream;
                    if self.opens_windows && data.flow_bytes > 0 {
                        put_window_update(0, data.flow_bytes, &mut self.out);
                        if !data.end_stream {
                            put_window_update(data.stream, data.flow_bytes, &mut self.out);
                        }
                    }
                }
                Frame::RstStream { stream, code } => {
                    self.streams.entry(stream).or_default().reset = Some(code);
                }
                Frame::Settings { payload } => self.windows.take_settings(payload, &mut self.out),
                Frame::WindowUpdate { stream, increment } => self.windows.open(stream, increment),
                Frame::PingAck(opaque) => self.pongs.push(opaque),
                Frame::Ping(opaque) if self.answers_pings => {
                    portcullis::proto::h2::frame::put_ping_ack(opaque, &mut self.out);
                }
                Frame::GoAway {
                    last_stream, code, ..
                } => self.goaways.push((last_stream, code)),
                Frame::Ping(_) | Frame::SettingsAck => {}
                other @ (Frame::HeadersPart
                | Frame::Priority { .. }
                | Frame::PriorityUpdate { .. }
                | Frame::Unknown
                | Frame::Faulty(_)) => panic!("{other:?}"),
            }
        }
        self.input = rest.to_vec();
    }
}

/// A frame of any kind.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [.., l0, l1, l2] = payload.len().to_be_bytes();
    let mut out = vec![l0, l1, l2, kind, flags];
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}
