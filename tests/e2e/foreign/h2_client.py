"""An HTTP/2 client made of the h2 package: asks the server at argv[1] ("host:port"), whose certificate
argv[2] vouches for, for argv[3] files named by their sizes, many at once, some of them reset; argv[4] is a
file that all of them begin like. Prints "done" when every byte was the right one."""

import random
import socket
import ssl
import sys

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings

SIZES = (0, 1, 1000, 16384, 70000, 200000)


def content(size):
    """What the tests' files have in them (tests/e2e/support/files.rs)."""
    return CONTENT[:size]


class Client:
    def __init__(self, target, authority):
        host, port = target.split(":")
        context = ssl.create_default_context(cafile=authority)
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection((host, int(port)), timeout=60)
        self.socket = context.wrap_socket(plain, server_hostname=host)
        assert self.socket.selected_alpn_protocol() == "h2"
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.h2.initiate_connection()
        self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 30000})
        self.authority = target
        self.bodies, self.ended, self.statuses = {}, set(), {}

    def ask(self, path, method="GET", end=True):
        stream = self.h2.get_next_available_stream_id()
        fields = [
            (":method", method),
            (":scheme", "https"),
            (":authority", self.authority),
            (":path", path),
            ("cookie", "a=b"),
            ("cookie", "c=d"),
        ]
        self.h2.send_headers(stream, fields, end_stream=end)
        self.bodies[stream] = bytearray()
        return stream

    def flush(self):
        data = self.h2.data_to_send()
        if data:
            self.socket.sendall(data)

    def hear(self):
        self.flush()
        data = self.socket.recv(65536)
        if not data:
            raise SystemExit("the connection ended")
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] += event.data
                if event.flow_controlled_length:
                    length = event.flow_controlled_length
                    self.h2.acknowledge_received_data(length, event.stream_id)
            elif isinstance(event, h2.events.ResponseReceived):
                self.statuses[event.stream_id] = dict(event.headers)[b":status"]
            elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
                self.ended.add(event.stream_id)
            elif isinstance(event, h2.events.ConnectionTerminated):
                raise SystemExit("GOAWAY %r" % event.error_code)
        self.flush()


def files(client, count):
    rng = random.Random(7)
    wanted, resets = {}, 0
    for index in range(count):
        size = rng.choice(SIZES)
        stream = client.ask("/%d" % size)
        if resets < 200 and rng.random() < 0.05:
            resets += 1
            client.h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        else:
            wanted[stream] = size
        while sum(stream not in client.ended for stream in wanted) > 60:
            client.hear()
        for stream in [stream for stream in wanted if stream in client.ended]:
            check(client, stream, wanted.pop(stream))
    while wanted:
        client.hear()
        for stream in [stream for stream in wanted if stream in client.ended]:
            check(client, stream, wanted.pop(stream))


def check(client, stream, size):
    if client.statuses[stream] != b"200" or client.bodies.pop(stream) != content(size):
        raise SystemExit("stream %d is not a file of %d bytes" % (stream, size))


def main():
    global CONTENT
    target, authority, count, pattern = sys.argv[1:5]
    with open(pattern, "rb") as file:
        CONTENT = file.read()
    files(Client(target, authority), int(count))
    print("done")


main()
