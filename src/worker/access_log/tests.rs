use bytes::Bytes;

use super::*;
use crate::message::{BodyLength, Fields, Request, Status};

fn peer() -> Peer<'static> {
    Peer {
        identity: None,
        site: None,
        address: [192, 0, 2, 7].into(),
        session: Some(Session {
            version: ProtocolVersion::TLSv1_3,
            suite: CipherSuite::TLS13_AES_128_GCM_SHA256,
            is_resumed: true,
        }),
    }
}

fn request(target: &str, agent: &'static [u8]) -> Request {
    let block = [b"user-agent", agent].concat();
    let (name, value) = (0..10, 10..10 + u32::try_from(agent.len()).unwrap());
    Request {
        method: Method::Get,
        version: Version::Http11,
        host: "a.test".into(),
        target: target.into(),
        fields: Fields::new(Bytes::from(block), vec![(name, value)]),
        body_length: BodyLength::Known(0),
        expects_continue: false,
        id: Default::default(),
        interims: Default::default(),
    }
}

fn exchange(request: Option<&Request>) -> Exchange<'_> {
    Exchange {
        request,
        status: Status(200),
        body_bytes: 12,
        duration: Duration::from_micros(345),
        is_complete: true,
        is_sent_by_kernel: false,
    }
}

fn clock() -> Clock {
    let mut clock = Clock::default();
    // RFC 9110 5.6.7's own example.
    clock.set(UNIX_EPOCH + Duration::from_millis(784_111_777_089));
    clock
}

fn combined(exchange: &Exchange<'_>) -> String {
    let mut out = Vec::new();
    write_combined(&mut out, &clock(), &peer(), exchange);
    String::from_utf8(out).unwrap()
}

#[test]
fn combined_is_what_others_write() {
    let request = request("/a?b", b"curl/8");
    assert_eq!(
        combined(&exchange(Some(&request))),
        "192.0.2.7 - - [06/Nov/1994:08:49:37 +0000] \"GET /a?b HTTP/1.1\" 200 12 \"-\" \"curl/8\""
    );
    assert_eq!(
        combined(&exchange(None)),
        "192.0.2.7 - - [06/Nov/1994:08:49:37 +0000] \"-\" 200 12 \"-\" \"-\""
    );
}

#[test]
fn a_value_cannot_end_itself_or_its_line() {
    let request = request("/", b"a\"b\\\x1b[0m\n\xff");
    let line = combined(&exchange(Some(&request)));
    assert!(line.ends_with(r#""a\x22b\x5C\x1B[0m\x0A\xFF""#), "{line}");
}

#[test]
fn json_has_everything() {
    let request = request("/a\"", b"x");
    let mut out = Vec::new();
    write_json(&mut out, &clock(), &peer(), &exchange(Some(&request)));
    assert_eq!(
        String::from_utf8(out).unwrap(),
        r#"{"time":"1994-11-06T08:49:37.089Z","client":"192.0.2.7","method":"GET","host":"a.test","target":"/a\"","protocol":"HTTP/1.1","user_agent":"x","status":200,"body_bytes":12,"duration_us":345,"complete":true,"tls":"1.3","suite":"TLS13_AES_128_GCM_SHA256","resumed":true,"sealed_by":"user"}"#
    );
}

#[test]
fn long_values_are_cut() {
    let request = request(&format!("/{}", "a".repeat(100_000)), b"x");
    assert!(combined(&exchange(Some(&request))).len() < ACCESS_LOG_VALUE_BYTES_MAX + 200);
}

#[test]
fn json_tells_who_asked_whom() {
    let request = request("/", b"x");
    let identity = Identity {
        address: "2001:db8::1".parse().unwrap(),
        id: "abc-1".into(),
    };
    let peer = Peer {
        identity: Some(&identity),
        site: Some("a.test"),
        ..peer()
    };
    let mut out = Vec::new();
    write_json(&mut out, &clock(), &peer, &exchange(Some(&request)));
    let line = String::from_utf8(out).unwrap();
    let who = r#""client":"2001:db8::1","proxy":"192.0.2.7","id":"abc-1","site":"a.test","method""#;
    assert!(line.contains(who), "{line}");
    let mut out = Vec::new();
    write_combined(&mut out, &clock(), &peer, &exchange(Some(&request)));
    assert!(out.starts_with(b"2001:db8::1 - - ["));
}

fn to(batches: SyncSender<Message>) -> AccessLog {
    AccessLog(Arc::new(Opened {
        config: combined_in("/nowhere".into()),
        batches,
        must_reopen: AtomicBool::new(false),
    }))
}

fn combined_in(path: std::path::PathBuf) -> Config {
    Config {
        destination: LogDestination::File(path),
        format: LogFormat::Combined,
    }
}

#[test]
fn sites_have_the_logs_that_they_name_and_each_file_is_open_once() {
    let folder = tempfile::tempdir().unwrap();
    let log = |name: &str| combined_in(folder.path().join(name));
    let site = |access_log| crate::config::Site {
        access_log,
        ..crate::serve::testing::site(folder.path(), &["a.test"])
    };
    let mut config = crate::serve::testing::config(
        vec![
            site(SiteLog::Common),
            site(SiteLog::Off),
            site(SiteLog::Own(log("own"))),
            site(SiteLog::Own(log("common"))),
            site(SiteLog::Own(log("own"))),
        ],
        None,
    );
    config.access_log = Some(log("common"));
    let first = AccessLogs::open(&config, &AccessLogs::default()).unwrap();
    assert_eq!(first.iter().count(), 2);
    let workers = WorkerLogs::new(&first);
    for site in [None, Some(0), Some(1), Some(2), Some(3), Some(4), Some(5)] {
        workers.record(site, &peer(), &exchange(None));
    }
    workers.flush();
    let opened: Vec<AccessLog> = first.iter().cloned().collect();
    AccessLog::finish(&opened, PATIENCE);
    let lines = |name: &str| {
        let text = std::fs::read_to_string(folder.path().join(name)).unwrap();
        text.lines().count()
    };
    assert_eq!((lines("common"), lines("own")), (3, 2));

    // What stays is not opened anew, what goes ends with its last user.
    config.access_log = None;
    let second = AccessLogs::open(&config, &first).unwrap();
    let [own, common] = [0, 1].map(|index| second.iter().nth(index).unwrap().clone());
    assert!(own.is(&opened[1]) && common.is(&opened[0]));
    let later = WorkerLogs::new(&second);
    assert!(later.of(None).is_none() && later.of(Some(0)).is_none());
    drop(later);
    drop((first, second, workers, opened, common));
    assert!(own.is_last());
}

#[test]
fn a_file_that_was_moved_away_is_opened_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join("a.log"), folder.path().join("a.log.1"));
    let log = AccessLog::open(&Config {
        destination: LogDestination::File(path.clone()),
        format: LogFormat::Combined,
    })
    .unwrap();
    let worker = WorkerLog::new(log.clone());
    worker.record(&peer(), &exchange(None));
    worker.flush();
    AccessLog::finish(std::slice::from_ref(&log), PATIENCE);
    std::fs::rename(&path, &moved).unwrap();
    log.reopen();
    worker.record(&peer(), &exchange(None));
    worker.record(&peer(), &exchange(None));
    drop(worker);
    AccessLog::finish(std::slice::from_ref(&log), PATIENCE);
    let lines = |path| std::fs::read_to_string(path).unwrap().lines().count();
    assert_eq!((lines(&moved), lines(&path)), (1, 2));
}

#[test]
fn no_line_goes_to_a_file_that_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("logs");
    std::fs::create_dir(&below).unwrap();
    let destination = LogDestination::File(below.join("a.log"));
    let log = to(sync_channel(1).0);
    let mut writer = Writer {
        log: Arc::downgrade(&log.0),
        output: Output::open(&destination).unwrap(),
        destination,
        owes_reopening: false,
        is_failing: false,
    };
    let line = |text: &str| Message::Lines {
        bytes: format!("{text}\n").into_bytes(),
        count: 1,
    };
    let dropped = || metrics::of_this_thread(Counter::AccessLogDropped);
    let before = dropped();
    writer.take(line("first"));
    // Moved with its folder, it cannot be opened anew, and is still a place to find lines in.
    let moved = folder.path().join("moved");
    std::fs::rename(&below, &moved).unwrap();
    log.reopen();
    writer.take(line("second"));
    assert_eq!(dropped() - before, 0);
    let text = |path: &std::path::Path| std::fs::read_to_string(path.join("a.log")).unwrap();
    assert_eq!(text(&moved), "first\nsecond\n");
    std::fs::remove_dir_all(&moved).unwrap();
    writer.take(line("third"));
    assert_eq!(dropped() - before, 1);
    // As soon as it can be opened, lines go on.
    std::fs::create_dir(&below).unwrap();
    writer.take(line("fourth"));
    assert_eq!(text(&below), "fourth\n");
    assert_eq!(dropped() - before, 1);
}

#[test]
fn a_writer_that_cannot_keep_up_costs_lines_and_no_time() {
    let (batches, _nobody_reads) = sync_channel(1);
    let worker = WorkerLog::new(to(batches));
    worker.record(&peer(), &exchange(None));
    worker.flush();
    let before = metrics::of_this_thread(Counter::AccessLogDropped);
    worker.record(&peer(), &exchange(None));
    worker.record(&peer(), &exchange(None));
    worker.flush();
    let dropped = metrics::of_this_thread(Counter::AccessLogDropped) - before;
    assert_eq!(dropped, 2);
}

#[test]
fn a_full_batch_goes_by_itself() {
    let (batches, received) = sync_channel(4);
    let worker = WorkerLog::new(to(batches));
    let request = request(&"a".repeat(ACCESS_LOG_VALUE_BYTES_MAX), b"x");
    let per_batch = ACCESS_LOG_BATCH_BYTES.div_ceil(ACCESS_LOG_VALUE_BYTES_MAX);
    for _ in 0..per_batch {
        worker.record(&peer(), &exchange(Some(&request)));
    }
    let Ok(Message::Lines { bytes, count }) = received.try_recv() else {
        panic!("nothing was handed over");
    };
    assert!(bytes.len() >= ACCESS_LOG_BATCH_BYTES);
    assert_eq!(count, per_batch as u64);
}

const PATIENCE: Duration = Duration::from_secs(60);
