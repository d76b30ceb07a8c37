//! Servers of other makes behind this one: Node, Python, HAProxy, and a WebSocket of neither's.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use crate::support::Policy;
use crate::support::certificates::KeyKind;
use crate::support::client::{Client, Ending, Manner, field};
use crate::support::files::{MIB, assert_same_bytes, content, write_content};
use crate::support::process::{CURL, DEBIAN_PYTHON, NODE, Running, Tool};
use crate::support::server::{Server, Setup};
use crate::support::wait::until_some;

/// A free address of this test's own.
fn free(ip: &str) -> SocketAddr {
    let listener = TcpListener::bind(format!("{ip}:0")).unwrap();
    listener.local_addr().unwrap()
}

/// Runs `script`, which listens at `address`, in `folder`.
fn run(tool: Tool, script: &str, folder: &Path, address: SocketAddr) -> Running {
    let file = folder.join("script");
    std::fs::write(&file, script).unwrap();
    let mut command = tool.command();
    command.arg(&file).current_dir(folder);
    command.args([address.ip().to_string(), address.port().to_string()]);
    let running = tool.start(&mut command);
    until_some("the backend listens", || TcpStream::connect(address).ok());
    running
}

fn in_front_of(address: SocketAddr, lines: &str) -> Server {
    Setup::passing_on(Policy::Auto)
        .table("limits", "body_bytes_max = 10000000")
        .text(&format!(
            "[[upstream]]\nname = \"app\"\n{lines}\n\
             [[upstream.server]]\naddress = \"tcp://{address}\"\n"
        ))
        .start()
}

const NODE_SCRIPT: &str = r#"
const http = require('http');
const fs = require('fs');
const server = http.createServer((request, response) => {
    switch (request.url) {
    case '/length':
        response.setHeader('Content-Length', fs.statSync('4m').size);
        return fs.createReadStream('4m').pipe(response);
    case '/chunked':
        return fs.createReadStream('4m').pipe(response);
    case '/hints':
        response.writeEarlyHints({ link: '</style.css>; rel=preload' });
        return response.end('hinted');
    case '/trailers': {
        let bytes = 0;
        request.on('data', (data) => { bytes += data.length; });
        return request.on('end', () => {
            response.setHeader('Trailer', 'x-count');
            response.write('body ' + (request.trailers['x-sum'] || 'none'));
            response.addTrailers({ 'x-count': String(bytes) });
            response.end();
        });
    }
    default:
        return request.pipe(response);
    }
});
server.listen(Number(process.argv[3]), process.argv[2]);
"#;

#[test]
fn node_stands_behind() {
    let folder = tempfile::tempdir().unwrap();
    write_content(&folder.path().join("4m"), 4 * MIB);
    let address = free("127.0.0.41");
    let _node = run(NODE, NODE_SCRIPT, folder.path(), address);
    let server = in_front_of(address, "");
    let mut client = Client::connect(&server);
    let whole = client.get("/length");
    assert_same_bytes(&whole.body, content(4 * MIB), "by length");
    client.ask("/chunked");
    let chunked = super::read_chunked(&mut client);
    assert_same_bytes(&chunked.body, content(4 * MIB), "in chunks");
    client.ask("/hints");
    let hints = client.read_head();
    assert!(hints.starts_with("HTTP/1.1 103 "), "{hints}");
    assert_eq!(field(&hints, "link"), Some("</style.css>; rel=preload"));
    assert_eq!(client.read_response().body, b"hinted");
    // Trailers go up and come down.
    client.send(
        b"POST /trailers HTTP/1.1\r\nHost: localhost\r\nTE: trailers\r\n\
          Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
          5\r\nhello\r\n0\r\nX-Sum: 42\r\nContent-Length: 3\r\n\r\n",
    );
    let head = client.read_head();
    assert_eq!(field(&head, "transfer-encoding"), Some("chunked"), "{head}");
    let mut rest = Vec::new();
    while !rest.ends_with(b"\r\n\r\n") {
        client.read_into(&mut rest, 1);
    }
    let rest = String::from_utf8(rest).unwrap();
    assert!(rest.starts_with("7\r\nbody 42\r\n"), "{rest:?}");
    assert!(rest.contains("0\r\nx-count: 5\r\n"), "{rest:?}");
    let body = content(2 * MIB);
    std::fs::write(folder.path().join("up"), body).unwrap();
    let up = format!("@{}", folder.path().join("up").display());
    let echoed = CURL
        .run([
            "-sS",
            "--cacert",
            &server.authority(),
            "--data-binary",
            &up,
            &server.url("/echo"),
        ])
        .success();
    assert_same_bytes(&echoed.stdout, body, "there and back");
    assert_eq!(server.counters()["upstream_failures"], 0);
}

const PYTHON_SCRIPT: &str = r#"
import http.server, sys
class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = sys.argv[3] if len(sys.argv) > 3 else 'HTTP/1.1'
    def log_message(self, *arguments):
        pass
    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"#;

#[test]
fn python_stands_behind() {
    for version in ["HTTP/1.0", "HTTP/1.1"] {
        let folder = tempfile::tempdir().unwrap();
        write_content(&folder.path().join("4m"), 4 * MIB);
        let address = free("127.0.0.42");
        let script = PYTHON_SCRIPT.replace("'HTTP/1.1'", &format!("'{version}'"));
        let _python = run(DEBIAN_PYTHON, &script, folder.path(), address);
        let server = in_front_of(address, "");
        let mut client = Client::connect(&server);
        for _ in 0..3 {
            assert_same_bytes(&client.get("/4m").body, content(4 * MIB), version);
        }
        client.send(b"HEAD /4m HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let head = client.read_head();
        let length = (4 * MIB).to_string();
        assert_eq!(field(&head, "content-length"), Some(&*length), "{head}");
        client.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello");
        assert_eq!(client.read_response().body, b"hello");
        assert_eq!(client.get("/none").status(), 404);
        assert_eq!(server.counters()["upstream_failures"], 0);
    }
}

/// Echoes what it is sent, and says why it was closed.
const WEBSOCKET_SERVER: &str = r#"
import asyncio, sys, websockets
async def echo(socket):
    async for message in socket:
        await socket.send(message)
async def main():
    async with websockets.serve(echo, sys.argv[1], int(sys.argv[2]), max_size=None):
        await asyncio.Future()
asyncio.run(main())
"#;

const WEBSOCKET_CLIENT: &str = r#"
import asyncio, ssl, sys, websockets
async def main():
    context = ssl.create_default_context(cafile=sys.argv[1])
    url = 'wss://localhost:' + sys.argv[2] + '/echo'
    async with websockets.connect(url, ssl=context, max_size=None) as socket:
        for size in [0, 1, 125, 126, 65535, 65536, 3000000]:
            data = bytes(i % 251 for i in range(size))
            await socket.send(data)
            assert await socket.recv() == data, size
        await socket.send('text')
        assert await socket.recv() == 'text'
        await (await socket.ping())
    assert socket.close_code == 1000, socket.close_code
    print('all well')
asyncio.run(main())
"#;

#[test]
fn a_websocket_of_anothers_make_works() {
    let folder = tempfile::tempdir().unwrap();
    let address = free("127.0.0.43");
    let _server = run(DEBIAN_PYTHON, WEBSOCKET_SERVER, folder.path(), address);
    let server = in_front_of(address, "");
    let before = server.holdings();
    let script = folder.path().join("client");
    std::fs::write(&script, WEBSOCKET_CLIENT).unwrap();
    let script = script.display().to_string();
    let port = server.address.port().to_string();
    let said = DEBIAN_PYTHON
        .run([&*script, &*server.authority(), &*port])
        .success()
        .text();
    assert_eq!(said, "all well\n");
    assert_eq!(server.counters()["upgraded_connections"], 1);
    server.wait_for_holdings(before);
}

/// What hashes alike stays together, and other clients go elsewhere.
#[test]
fn requests_are_kept_together_by_a_field_or_a_cookie() {
    for (key, field) in [
        ("header:X-User", "X-User: "),
        ("cookie:id", "Cookie: a=b; id="),
    ] {
        let backends = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let servers: String = backends
            .iter()
            .map(|listener| {
                let address = listener.local_addr().unwrap();
                format!("[[upstream.server]]\naddress = \"tcp://{address}\"\n")
            })
            .collect();
        for (index, listener) in backends.into_iter().enumerate() {
            std::thread::spawn(move || {
                while let Ok((mut socket, _)) = listener.accept() {
                    drop(socket.read(&mut [0; 2048]));
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n{index}"
                    );
                    drop(socket.write_all(answer.as_bytes()));
                }
            });
        }
        let server = Setup::new(Policy::Auto)
            .site_with(
                &["localhost"],
                KeyKind::P256,
                "root",
                "[[site.route]]\nprefix = \"/\"\nupstream = \"app\"",
            )
            .text(&format!(
                "[[upstream]]\nname = \"app\"\nbalance = \"hash\"\nhash_key = \"{key}\"\n{servers}"
            ))
            .start();
        let mut found = std::collections::BTreeSet::new();
        for user in 0..20 {
            let ask = || {
                let mut client = Manner::default().connect(&server);
                let request =
                    format!("GET / HTTP/1.1\r\nHost: localhost\r\n{field}u{user}\r\n\r\n");
                client.send(request.as_bytes());
                let body = client.read_response().body;
                client.close_notify();
                assert_eq!(client.read_to_ending(), Ending::CloseNotify);
                body
            };
            let first = ask();
            assert_eq!(ask(), first, "{key} {user}");
            found.insert(first);
        }
        // 20 users on 3 servers: all at one of them has a chance of 3^-19.
        assert!(found.len() > 1, "{key}: {found:?}");
    }
}
