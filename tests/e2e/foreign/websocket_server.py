"""A WebSocket server in plain text that sends back what it gets. It also serves a page that tries it,
and prints what that page finds out. Prints its port first."""

import asyncio
import http

import websockets

PAGE = b"""<!DOCTYPE html><title>WebSocket</title><img src="/hold">
<script>
const socket = new WebSocket("wss://" + location.host + "/socket", ["second", "chat"]);
const large = "x".repeat(300000);
const got = [];
const tell = (what) => fetch("/result/" + encodeURIComponent(what));
socket.onopen = () => { socket.send("hello"); socket.send(large); };
socket.onerror = () => tell("error");
socket.onmessage = (event) => {
    got.push(event.data);
    if (got.length === 2) socket.close(3001, "enough");
};
socket.onclose = (event) => tell([
    event.code, event.reason, socket.protocol, got[0], got[1] === large,
].join(" "));
</script>
"""


async def handle(socket, path):
    async for message in socket:
        await socket.send(message)


async def process(path, headers):
    if path == "/":
        return http.HTTPStatus.OK, [("content-type", "text/html")], PAGE
    if path.startswith("/result/"):
        print(path, flush=True)
        return http.HTTPStatus.OK, [], b""
    if path == "/hold":
        await asyncio.sleep(3600)
    if path == "/refused":
        return http.HTTPStatus.FORBIDDEN, [], b"not you"
    return None


async def main():
    async with websockets.serve(
        handle,
        "127.0.0.1",
        0,
        process_request=process,
        subprotocols=["chat"],
        compression=None,
        ping_interval=None,
        max_size=1 << 24,
    ) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Future()


asyncio.run(main())
