//! The client's side of HTTP/2 (RFC 9113), as far as a client goes that asks for one file again and
//! again, some requests at a time: bytes in, bytes out.
//!
//! Its requests are the same bytes each time but for their numbers: it has both sides do without
//! HPACK's table, so that nothing depends on what went before, and no server gains by guessing well.

/// A connection.
#[derive(Debug)]
pub(crate) struct Http2 {
    /// The head of every request, encoded.
    head: Vec<u8>,
    /// The length of every answer's content.
    content_bytes: usize,
    /// What has come and is not a whole frame yet.
    received: Vec<u8>,
    /// What is to be sent, besides requests.
    replies: Vec<u8>,
    /// The stream of the next request.
    next_stream: u32,
    /// The answers that are not whole: the stream, and what has come of it.
    under_way: Vec<(u32, Answer)>,
    /// Content that has come since the server was last told that it may send more.
    unacknowledged_bytes: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Answer {
    has_head: bool,
    bytes: usize,
}

impl Http2 {
    /// Of a client that asks `authority` for `path`, whose content has `content_bytes`.
    pub(crate) fn new(authority: &str, path: &str, content_bytes: usize) -> Result<Self, String> {
        let mut head = vec![METHOD_GET, SCHEME_HTTPS];
        for (name, value) in [(PATH, path), (AUTHORITY, authority), (USER_AGENT, "versus")] {
            head.extend(name);
            let length = u8::try_from(value.len()).ok();
            head.push(
                length
                    .filter(|&length| length < STRING_BYTES_END)
                    .ok_or_else(|| format!("{value:?} is too long"))?,
            );
            head.extend(value.as_bytes());
        }
        let mut replies = PREFACE.to_vec();
        let settings = [
            (SETTINGS_HEADER_TABLE_SIZE, 0),
            (SETTINGS_ENABLE_PUSH, 0),
            (SETTINGS_INITIAL_WINDOW_SIZE, STREAM_WINDOW_BYTES),
        ];
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend(u16::to_be_bytes(name));
            payload.extend(u32::to_be_bytes(value));
        }
        put_frame(&mut replies, (SETTINGS, 0), 0, &payload);
        put_frame(
            &mut replies,
            (WINDOW_UPDATE, 0),
            0,
            &WINDOW_BYTES.to_be_bytes(),
        );
        Ok(Self {
            head,
            content_bytes,
            received: Vec::new(),
            replies,
            next_stream: 1,
            under_way: Vec::new(),
            unacknowledged_bytes: 0,
        })
    }

    /// Begins so many requests; [`Self::take_output`] has them.
    pub(crate) fn ask(&mut self, requests: u32) {
        for _ in 0..requests {
            let kind = (HEADERS, END_STREAM | END_HEADERS);
            put_frame(&mut self.replies, kind, self.next_stream, &self.head);
            self.under_way.push((self.next_stream, Answer::default()));
            self.next_stream += 2;
        }
    }

    /// What is to be sent.
    pub(crate) fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.replies)
    }

    /// Answers that are not whole.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Takes what has come; gives how many answers it made whole.
    ///
    /// # Errors
    /// When an answer is not status 200 with as much content as is due, or the server ends a stream or
    /// the connection.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<u32, String> {
        self.received.extend(bytes);
        let received = std::mem::take(&mut self.received);
        let mut rest = received.as_slice();
        let mut answered = 0;
        while let Some((frame, behind)) = Frame::split(rest) {
            answered += u32::from(self.take_frame(frame)?);
            rest = behind;
        }
        self.received = rest.to_vec();
        Ok(answered)
    }

    /// Whether it makes an answer whole.
    fn take_frame(&mut self, frame: Frame<'_>) -> Result<bool, String> {
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => {
                put_frame(&mut self.replies, (SETTINGS, ACK), 0, &[]);
            }
            PING if frame.flags & ACK == 0 => {
                put_frame(&mut self.replies, (PING, ACK), 0, frame.payload);
            }
            HEADERS => return self.take_head(frame),
            DATA => return self.take_content(frame),
            RST_STREAM | GOAWAY | CONTINUATION | PUSH_PROMISE => {
                return Err(format!("a frame of type {} came: {frame:?}", frame.kind));
            }
            // Acknowledgements, windows for what is not sent here, priorities, and kinds to come.
            _ => {}
        }
        Ok(false)
    }

    fn take_head(&mut self, frame: Frame<'_>) -> Result<bool, String> {
        if frame.flags & (PADDED | PRIORITY) != 0 || frame.flags & END_HEADERS == 0 {
            return Err(format!("a head in an unusual frame: {frame:?}"));
        }
        if status_byte(frame.payload) != Some(STATUS_200) {
            return Err(format!("not status 200: {frame:?}"));
        }
        let answer = self.answer(frame.stream)?;
        if answer.has_head {
            return Err(format!("another head: {frame:?}"));
        }
        answer.has_head = true;
        self.end_of(frame)
    }

    fn take_content(&mut self, frame: Frame<'_>) -> Result<bool, String> {
        if frame.flags & PADDED != 0 {
            return Err(format!("padded content on stream {}", frame.stream));
        }
        let due = self.content_bytes;
        let bytes = frame.payload.len();
        let answer = self.answer(frame.stream)?;
        answer.bytes += bytes;
        if !answer.has_head || answer.bytes > due {
            return Err(format!("{answer:?}, of {due} bytes"));
        }
        self.unacknowledged_bytes += bytes;
        if self.unacknowledged_bytes >= ACKNOWLEDGED_BYTES as usize {
            self.unacknowledged_bytes -= ACKNOWLEDGED_BYTES as usize;
            let more = ACKNOWLEDGED_BYTES.to_be_bytes();
            put_frame(&mut self.replies, (WINDOW_UPDATE, 0), 0, &more);
        }
        self.end_of(frame)
    }

    /// Whether the frame ends its stream, which must be whole then.
    fn end_of(&mut self, frame: Frame<'_>) -> Result<bool, String> {
        if frame.flags & END_STREAM == 0 {
            return Ok(false);
        }
        let answer = *self.answer(frame.stream)?;
        if answer.bytes != self.content_bytes {
            return Err(format!(
                "it ends: {answer:?}, of {} bytes",
                self.content_bytes
            ));
        }
        self.under_way.retain(|&(stream, _)| stream != frame.stream);
        Ok(true)
    }

    fn answer(&mut self, stream: u32) -> Result<&mut Answer, String> {
        let mut under_way = self.under_way.iter_mut();
        let found = under_way.find(|(number, _)| *number == stream);
        let (_, answer) = found.ok_or_else(|| format!("stream {stream} was not asked for"))?;
        Ok(answer)
    }
}

/// RFC 9113 4.1.
#[derive(Clone, Copy, Debug)]
struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The first frame of `bytes` and what is behind it, if it is whole.
    fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (&[l0, l1, l2, kind, flags, s0, s1, s2, s3], rest) = bytes.split_first_chunk()?;
        let length = usize::try_from(u32::from_be_bytes([0, l0, l1, l2])).ok()?;
        let (payload, behind) = rest.split_at_checked(length)?;
        let frame = Self {
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & !RESERVED_BIT,
            payload,
        };
        Some((frame, behind))
    }
}

fn put_frame(out: &mut Vec<u8>, (kind, flags): (u8, u8), stream: u32, payload: &[u8]) {
    // Three bytes of it: nothing here is longer than some hundred bytes.
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out.extend(length.to_be_bytes().iter().skip(1));
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
}

/// The first byte of a field section that is not about the size of its table (RFC 7541 6.3): that of the
/// status, which comes before all other fields (RFC 9113 8.3).
fn status_byte(section: &[u8]) -> Option<u8> {
    // Of none is more than the 0 that was allowed, which takes one byte.
    let is_size = |byte: &&u8| **byte & SIZE_UPDATE_MASK == SIZE_UPDATE;
    section.iter().find(|byte| !is_size(byte)).copied()
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

const SETTINGS_HEADER_TABLE_SIZE: u16 = 1;
const SETTINGS_ENABLE_PUSH: u16 = 2;
const SETTINGS_INITIAL_WINDOW_SIZE: u16 = 4;

/// The most there is (RFC 9113 6.9.1): no stream waits for leave to go on.
const STREAM_WINDOW_BYTES: u32 = (1 << 31) - 1;

/// Of all streams: more than is ever under way at once. The half that has come is given back.
const WINDOW_BYTES: u32 = 1 << 24;
const ACKNOWLEDGED_BYTES: u32 = WINDOW_BYTES / 2;

const RESERVED_BIT: u32 = 1 << 31;

/// Indexed fields (RFC 7541 6.1, appendix A).
const METHOD_GET: u8 = 0x82;
const SCHEME_HTTPS: u8 = 0x87;
const STATUS_200: u8 = 0x88;

/// Names by index, of fields that enter no table (RFC 7541 6.2.2).
const AUTHORITY: &[u8] = &[0x01];
const PATH: &[u8] = &[0x04];
const USER_AGENT: &[u8] = &[0x0f, 58 - 15];

/// From here on a string's length takes more than a byte (RFC 7541 5.2).
const STRING_BYTES_END: u8 = 127;

const SIZE_UPDATE: u8 = 0x20;
const SIZE_UPDATE_MASK: u8 = 0xe0;
