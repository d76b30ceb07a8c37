"""A gRPC server in plain text that does what a method's name says. Prints its port."""

import sys
import time
from concurrent import futures

import grpc


def unary(request, context):
    context.set_trailing_metadata((("x-trailer", "behind"),))
    return request


def fail(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no: %d bytes, \u00e4" % len(request))


def down(request, context):
    count, size = (int(number) for number in request.split())
    for index in range(count):
        yield bytes([index % 256]) * size


def up(requests, context):
    return b"%d" % sum(len(request) for request in requests)


def both(requests, context):
    for request in requests:
        yield request


def slow(requests, context):
    """Answers each message, and is silent in between for as long as the client is."""
    context.send_initial_metadata((("x-early", "1"),))
    for request in requests:
        yield request


def never(request, context):
    while context.is_active():
        time.sleep(0.01)
    return b""


def remaining(request, context):
    return b"%f" % context.time_remaining()


def handlers():
    return {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Down": grpc.unary_stream_rpc_method_handler(down),
        "Up": grpc.stream_unary_rpc_method_handler(up),
        "Both": grpc.stream_stream_rpc_method_handler(both),
        "Slow": grpc.stream_stream_rpc_method_handler(slow),
        "Never": grpc.unary_unary_rpc_method_handler(never),
        "Remaining": grpc.unary_unary_rpc_method_handler(remaining),
    }


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=64))
    generic = grpc.method_handlers_generic_handler("test.Echo", handlers())
    server.add_generic_rpc_handlers((generic,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(None)


main()
