//! What benches/versus computes and parses. A benchmark without a harness runs no tests, so that its
//! figures are compiled here once more.

#[path = "../benches/versus/figures/mod.rs"]
#[allow(dead_code, reason = "some of it only the benchmark itself uses")]
mod figures;

mod spread {
    use super::figures::spread::*;

    #[test]
    fn the_median_is_in_the_middle_or_between_two() {
        let odd = Spread::of([3.0, 1.0, 2.0]);
        let even = Spread::of([4.0, 1.0, 2.0, 3.0]);
        let three = Spread {
            min: 1.0,
            median: 2.0,
            max: 3.0,
        };
        assert_eq!(odd, Some(three));
        assert_eq!(even.map(|spread| spread.median), Some(2.5));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // Of the medians it would be 2; the second server was worse in every round but one.
        let ratios = Spread::of_ratios([20.0, 30.0, 90.0], [10.0, 15.0, 100.0]);
        let due = Spread {
            min: 0.9,
            median: 2.0,
            max: 2.0,
        };
        assert_eq!(ratios, Some(due));
    }
}

mod cells {
    use std::collections::BTreeSet;

    use super::figures::cells::*;

    fn has(title: &str, is_it: impl Fn(&Cell) -> bool) {
        assert!(CELLS.iter().any(is_it), "no cell for {title}");
    }

    #[test]
    fn files_of_every_size_are_asked_for_in_both_protocols() {
        for due in [&FILE_1_KIB, &FILE_16_KIB, &FILE_1_MIB, &FILE_64_MIB] {
            let asks = |cell: &Cell, is_http2: bool| {
                matches!(&cell.work, Work::KeepAlive { file, protocol, .. } if *file == due
                    && is_http2 == matches!(protocol, Protocol::Http2 { streams: 1 })
                    && is_http2 != matches!(protocol, Protocol::Http1))
                    && cell.service == Service::Files
            };
            has(due.name, |cell| asks(cell, false));
            has(due.name, |cell| asks(cell, true));
        }
    }

    #[test]
    fn handshakes_of_every_kind_are_made() {
        for key in [Key::P256, Key::Rsa2048] {
            for version in [Version::Tls12, Version::Tls13] {
                for due in [false, true] {
                    has(&format!("{key:?}, {version:?}, resumed: {due}"), |cell| {
                        matches!(cell.work, Work::Connections { resume } if resume == due)
                            && (cell.key, cell.version) == (key, version)
                    });
                }
            }
        }
    }

    #[test]
    fn small_and_large_answers_are_passed_on() {
        for service in [Service::Proxy, Service::Tunnel] {
            for due in [&FILE_1_KIB, &FILE_1_MIB] {
                has(&format!("{service:?}, {}", due.name), |cell| {
                    matches!(&cell.work, Work::KeepAlive { file, .. } if *file == due)
                        && cell.service == service
                });
            }
        }
    }

    #[test]
    fn names_are_the_cells_own() {
        let cells = CELLS.iter().chain(&SIZES);
        let names: BTreeSet<&str> = cells.clone().map(|cell| cell.name).collect();
        let titles: BTreeSet<&str> = cells.map(|cell| cell.title).collect();
        let count = CELLS.len() + SIZES.len();
        assert_eq!((names.len(), titles.len()), (count, count));
    }

    #[test]
    fn without_names_all_are_chosen_but_those_between() {
        let all = chosen(&[], &["idle"]).map(|cells| cells.len());
        assert_eq!(all, Ok(CELLS.len()));
        let named = ["h1-64k", "idle", "h1-1k"].map(str::to_owned);
        let names = |cells: Vec<&Cell>| cells.iter().map(|cell| cell.name).collect::<Vec<_>>();
        let due = vec!["h1-1k", "h1-64k"];
        assert_eq!(chosen(&named, &["idle"]).map(names), Ok(due));
        let refused = chosen(&named, &[]).err();
        assert!(refused.is_some_and(|text| text.contains("\"idle\"") && text.contains("h1-256k")));
    }
}

mod h2load {
    use super::figures::Counted;
    use super::figures::h2load::*;

    const OUTPUT: &str = "\
TLS Protocol: TLSv1.3
Cipher: TLS_AES_128_GCM_SHA256
Application protocol: http/1.1

finished in 1.30s, 722.00 req/s, 721.53MB/s
requests: 722 total, 722 started, 722 done, 722 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 722 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 721.53MB (756582794) total, 183.06KB (187456) headers (space savings 0.00%), 927.27MB (972308227) data
";

    fn due() -> Vec<String> {
        vec!["Application protocol: http/1.1".to_owned()]
    }

    #[test]
    fn requests_and_bytes_of_the_main_phase_are_read() {
        let counted = Counted {
            requests: 722,
            bytes: 756_582_794.0,
        };
        assert_eq!(judge(OUTPUT, &due()), Ok(counted));
    }

    #[test]
    fn another_session_is_refused() {
        let other = OUTPUT.replace("http/1.1", "h2");
        assert!(judge(&other, &due()).is_err_and(|reason| reason.contains("Application protocol")));
    }

    #[test]
    fn whatever_went_wrong_is_told() {
        for (right, wrong) in [
            ("0 failed", "1 failed"),
            ("0 errored", "1 errored"),
            ("0 timeout", "1 timeout"),
            ("0 3xx", "7 3xx"),
            ("0 4xx", "7 4xx"),
            ("0 5xx", "7 5xx"),
            ("(756582794)", "(0)"),
            ("requests: ", "request: "),
            ("traffic: ", "traffic "),
        ] {
            let text = OUTPUT.replace(right, wrong);
            assert!(judge(&text, &due()).is_err(), "{wrong}");
        }
    }
}

mod http2 {
    use super::figures::http2::*;

    const HEAD_END: u8 = 0x4;
    const END: u8 = 0x1;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap_or(u8::MAX);
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, stream];
        frame.extend(payload);
        frame
    }

    /// A client of 8 bytes, with so many requests under way.
    fn asked(requests: u32) -> Result<Http2, String> {
        let mut client = Http2::new("localhost", "/8.bin", 8)?;
        client.ask(requests);
        drop(client.take_output());
        Ok(client)
    }

    #[test]
    fn it_begins_with_the_preface_and_asks_on_odd_streams() -> Result<(), String> {
        let mut client = Http2::new("localhost", "/8.bin", 8)?;
        client.ask(2);
        let output = client.take_output();
        let rest = output.strip_prefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        // RFC 9113 3.4: SETTINGS come next, with three of six bytes each.
        let begins = rest.is_some_and(|rest| rest.starts_with(&[0, 0, 18, 4, 0, 0, 0, 0, 0]));
        assert!(begins, "{output:?}");
        let mut head = vec![0x82, 0x87, 0x04, 6];
        head.extend(b"/8.bin\x01\x09localhost\x0f\x2b\x06versus");
        let mut due = frame(1, HEAD_END | END, 1, &head);
        due.extend(frame(1, HEAD_END | END, 3, &head));
        assert!(output.ends_with(&due), "{output:?}");
        client.ask(1);
        assert_eq!(client.take_output(), frame(1, HEAD_END | END, 5, &head));
        assert_eq!(client.under_way(), 3);
        Ok(())
    }

    #[test]
    fn answers_are_counted_however_they_come() -> Result<(), String> {
        // The second stream is answered first, and its head changes the table's size.
        let mut bytes = frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]);
        bytes.extend(frame(1, HEAD_END, 3, &[0x20, 0x88, 0x5c]));
        bytes.extend(frame(1, HEAD_END, 1, &[0x88]));
        bytes.extend(frame(0, 0, 1, &[0; 5]));
        bytes.extend(frame(0, END, 3, &[0; 8]));
        bytes.extend(frame(0, 0, 1, &[0; 3]));
        bytes.extend(frame(0, END, 1, &[]));
        for step in [1, 7, bytes.len()] {
            let mut client = asked(2)?;
            let mut answered = Vec::new();
            for part in bytes.chunks(step) {
                answered.push(client.take(part)?);
            }
            assert_eq!(answered.iter().sum::<u32>(), 2, "in steps of {step}");
            assert_eq!(client.under_way(), 0);
            // The settings are acknowledged.
            assert_eq!(client.take_output(), frame(4, 1, 0, &[]));
        }
        Ok(())
    }

    #[test]
    fn a_ping_is_answered_and_its_answer_is_not() -> Result<(), String> {
        let mut client = asked(1)?;
        client.take(&frame(6, 0, 0, b"12345678"))?;
        assert_eq!(client.take_output(), frame(6, 1, 0, b"12345678"));
        client.take(&frame(6, 1, 0, b"12345678"))?;
        assert_eq!(client.take_output(), Vec::new());
        Ok(())
    }

    #[test]
    fn whatever_is_not_the_answer_is_told() -> Result<(), String> {
        let head = frame(1, HEAD_END, 1, &[0x88]);
        for (what, wrong) in [
            ("status 404", frame(1, HEAD_END, 1, &[0x8d])),
            ("no status", frame(1, HEAD_END, 1, &[])),
            ("two heads", [head.clone(), head.clone()].concat()),
            ("no head", frame(0, END, 1, &[0; 8])),
            (
                "too little",
                [head.clone(), frame(0, END, 1, &[0; 7])].concat(),
            ),
            ("too much", [head.clone(), frame(0, 0, 1, &[0; 9])].concat()),
            ("no content", frame(1, HEAD_END | END, 1, &[0x88])),
            ("another stream", frame(1, HEAD_END, 3, &[0x88])),
            ("RST_STREAM", frame(3, 0, 1, &[0, 0, 0, 7])),
            ("GOAWAY", frame(7, 0, 0, &[0; 8])),
            ("padding", [head, frame(0, 0x8, 1, &[0; 2])].concat()),
        ] {
            assert!(asked(1)?.take(&wrong).is_err(), "{what}");
        }
        Ok(())
    }

    #[test]
    fn the_server_is_told_in_time_that_it_may_go_on() -> Result<(), String> {
        let payload = vec![0; 0xff00];
        let mut client = Http2::new("localhost", "/", usize::MAX)?;
        client.ask(1);
        drop(client.take_output());
        client.take(&frame(1, HEAD_END, 1, &[0x88]))?;
        let mut data = vec![0, 0xff, 0x00, 0, 0, 0, 0, 0, 1];
        data.extend(&payload);
        let mut more = Vec::new();
        // Half of what the server was allowed, of 2^24 bytes.
        for _ in 0..=(1 << 23) / payload.len() {
            client.take(&data)?;
            more.extend(client.take_output());
        }
        assert_eq!(more, frame(8, 0, 0, &[0, 0x80, 0, 0]));
        Ok(())
    }

    #[test]
    fn what_is_too_long_to_ask_for_is_refused() {
        assert!(Http2::new("localhost", &"a".repeat(126), 8).is_ok());
        assert!(Http2::new("localhost", &"a".repeat(127), 8).is_err());
    }
}

mod tls_stat {
    use super::figures::tls_stat::*;

    #[test]
    fn sessions_that_are_sealed_are_counted() {
        let text = "TlsCurrTxSw                     \t3\nTlsTxSw                         \t41\n\
             TlsRxSw                         \t7\nTlsTxDevice                     \t1\n";
        assert_eq!(sealed_sessions(text), 42);
        assert_eq!(sealed_sessions(""), 0);
    }
}

mod wrk {
    use super::figures::Counted;
    use super::figures::wrk::*;

    const OUTPUT: &str = "\
Running 1s test @ https://127.0.0.1:45453/1k.bin
  1 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   172.52us   96.63us   1.91ms   88.40%
    Req/Sec    40.20k     1.45k   42.25k    54.55%
  43894 requests in 1.10s, 53.25MB read
Requests/sec:  39909.11
Transfer/sec:     48.37MB
";

    #[test]
    fn requests_and_bytes_are_read() {
        let counted = Counted {
            requests: 43_894,
            bytes: 53.25 * 1024.0 * 1024.0,
        };
        assert_eq!(judge(OUTPUT), Ok(counted));
        let large = OUTPUT.replace("53.25MB", "1.5GB");
        assert_eq!(
            judge(&large).map(|counted| counted.bytes),
            Ok(1.5 * 1024_f64.powi(3))
        );
    }

    #[test]
    fn whatever_went_wrong_is_told() {
        for line in [
            "  Socket errors: connect 0, read 3, write 0, timeout 0\n",
            "  Non-2xx or 3xx responses: 42134\n",
            "unable to connect to 127.0.0.1:1 Connection refused\n",
        ] {
            let text = format!("{OUTPUT}{line}");
            assert_eq!(judge(&text), Err(line.trim().to_owned()));
        }
        assert!(judge(&OUTPUT.replace("53.25MB", "0.00B")).is_err());
        assert!(judge("").is_err());
        assert!(judge(&OUTPUT.replace("53.25MB", "53.25 miles")).is_err());
    }
}

mod percentiles {
    use super::figures::percentiles::*;

    #[test]
    fn each_is_a_latency_that_was_measured() {
        // 1 to 1000 µs, the last first: order is not the caller's work.
        let latencies = (1..=1000).rev().map(|us| us * 1000).collect();
        let due = Percentiles {
            p50_us: 500.0,
            p90_us: 900.0,
            p99_us: 990.0,
            p99_9_us: 999.0,
            max_us: 1000.0,
        };
        assert_eq!(Percentiles::of(latencies), Some(due));
    }

    #[test]
    fn of_few_the_upper_ones_are_the_greatest() {
        let due = Percentiles {
            p50_us: 1.0,
            p90_us: 2.0,
            p99_us: 2.0,
            p99_9_us: 2.0,
            max_us: 2.0,
        };
        assert_eq!(Percentiles::of(vec![2000, 1000]), Some(due));
        assert_eq!(Percentiles::of(Vec::new()), None);
    }
}

mod chart {
    use super::figures::chart::*;
    use super::figures::spread::Spread;

    fn chart(name: &str, median: f64, max: f64) -> String {
        let spread = Spread {
            min: median / 2.0,
            median,
            max,
        };
        let chart = Chart {
            title: "a & b".to_owned(),
            unit: "µs".to_owned(),
            legend: vec![name.to_owned()],
            groups: vec![Group {
                title: "cell".to_owned(),
                bars: vec![(0, spread)],
            }],
        };
        chart.svg()
    }

    /// The width of the last rectangle: the bar.
    fn width(svg: &str) -> f64 {
        svg.lines()
            .rfind(|line| line.starts_with("<rect"))
            .and_then(|bar| bar.split_once("width=\"")?.1.split_once('"'))
            .and_then(|(width, _)| width.parse().ok())
            .unwrap_or(0.0)
    }

    #[test]
    fn a_bar_twice_as_long_is_twice_as_much() {
        let (one, two) = (chart("a", 2.0, 8.0), chart("a", 4.0, 8.0));
        assert!((width(&two) / width(&one) - 2.0).abs() < 0.01);
    }

    #[test]
    fn texts_are_escaped() {
        let svg = chart("<script>\"'\u{1b}", 1.0, 1.0);
        assert!(svg.contains(">&lt;script&gt;&quot;&apos; </text>"));
        assert!(svg.contains(">a &amp; b</text>"));
        assert!(!svg.contains("<script"));
    }

    #[test]
    fn what_is_no_number_leaves_a_chart_that_can_be_drawn() {
        let svg = chart("a", f64::NAN, f64::INFINITY);
        let coordinates = ["x", "x1", "x2", "width"];
        for name in coordinates {
            assert!(!svg.contains(&format!(" {name}=\"NaN")), "{svg}");
            assert!(!svg.contains(&format!(" {name}=\"inf")), "{svg}");
        }
    }
}
