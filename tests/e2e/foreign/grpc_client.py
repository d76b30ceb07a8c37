"""A gRPC client: every kind of call through the server at argv[1] ("host:port"), whose certificate
argv[2] vouches for; argv[3] scales the loads. Prints "done" when all went as it must."""

import queue
import sys
import threading

import grpc


def expect(got, wanted, what):
    if got != wanted:
        raise SystemExit("%s: %r instead of %r" % (what, got, wanted))


def main():
    target, authority, scale = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with open(authority, "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    options = (("grpc.max_receive_message_length", 1 << 26),)
    channel = grpc.secure_channel(target, credentials, options)
    grpc.channel_ready_future(channel).result(timeout=60)
    unary = channel.unary_unary("/test.Echo/Unary")

    # Messages of all sizes, and metadata both ways.
    for size in (0, 1, 1000, 16384, 70000, 3000000):
        answer, call = unary.with_call(b"m" * size, metadata=(("x-sent", "1"),), timeout=60)
        expect(len(answer), size, "unary")
        trailing = dict(call.trailing_metadata())
        expect(trailing.get("x-trailer"), "behind", "trailers")

    # An error is a response of fields alone, or trailers: its status and text arrive.
    for size in (0, 100000):
        try:
            channel.unary_unary("/test.Echo/Fail")(b"m" * size, timeout=60)
            raise SystemExit("a call that fails did not")
        except grpc.RpcError as error:
            expect(error.code(), grpc.StatusCode.FAILED_PRECONDITION, "status")
            expect(error.details(), "no: %d bytes, \u00e4" % size, "details")
    try:
        channel.unary_unary("/test.Echo/Missing")(b"", timeout=60)
        raise SystemExit("a method that is missing answered")
    except grpc.RpcError as error:
        expect(error.code(), grpc.StatusCode.UNIMPLEMENTED, "missing")

    # Streams down, up and both ways at once.
    for count, size in ((1000 // scale, 100), (40 // scale, 100000)):
        request = b"%d %d" % (count, size)
        got = list(channel.unary_stream("/test.Echo/Down")(request, timeout=120))
        expect([len(part) for part in got], [size] * count, "down")
        parts = [bytes([index % 256]) * size for index in range(count)]
        total = channel.stream_unary("/test.Echo/Up")(iter(parts), timeout=120)
        expect(int(total), count * size, "up")
        back = list(channel.stream_stream("/test.Echo/Both")(iter(parts), timeout=120))
        expect(back == parts, True, "both")

    # One message after the other, each only when the one before has come back.
    sending = queue.Queue()
    answers = channel.stream_stream("/test.Echo/Slow")(iter(sending.get, None), timeout=120)
    expect(dict(answers.initial_metadata()).get("x-early"), "1", "early metadata")
    for index in range(20):
        sending.put(b"%d" % index)
        expect(next(answers), b"%d" % index, "ping-pong")
    sending.put(None)
    expect(list(answers), [], "the end")

    # A deadline is the server's to know, and ends the call. So does the client's own mind, here only
    # once it has heard from the server: a call that is cancelled before its HEADERS are out makes
    # this client send RST_STREAM for an idle stream (grpc/grpc issue 19655), which is an error of
    # the connection (RFC 9113 6.4).
    left = float(channel.unary_unary("/test.Echo/Remaining")(b"", timeout=100))
    expect(50 < left < 101, True, "the time that the server knows of")
    try:
        channel.unary_unary("/test.Echo/Never")(b"", timeout=scale)
        raise SystemExit("a call that never ends did")
    except grpc.RpcError as error:
        expect(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED, "deadline")
    call = channel.stream_stream("/test.Echo/Slow")(iter(sending.get, None), timeout=100)
    expect(dict(call.initial_metadata()).get("x-early"), "1", "early metadata")
    call.cancel()
    sending.put(None)

    # Many at once, over one connection.
    failures = []

    def many(seed):
        for index in range(20 // scale):
            message = b"%d" % (seed * 1000 + index) * 500
            if unary(message, timeout=120) != message:
                failures.append(seed)

    threads = [threading.Thread(target=many, args=(seed,)) for seed in range(32 // scale)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expect(failures, [], "many at once")
    channel.close()
    print("done")


main()
