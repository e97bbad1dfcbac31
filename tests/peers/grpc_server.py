"""A gRPC server: says its port, and then what becomes of calls."""

import sys
import threading
from concurrent import futures

import grpc


def say(request, context):
    known = dict(context.invocation_metadata())
    print("say", known.get("x-portreeve-identity"), known.get("authorization"), context.time_remaining() is not None)
    return request


def fail(request, context):
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "a status of the application's own")


def wait(context, name):
    over = threading.Event()
    # Nothing is called back where it was over before.
    if context.add_callback(over.set):
        over.wait()
    print(name, "cancelled")


def hang(request, context):
    wait(context, "hang")
    return b""


def count(requests, context):
    return sum(1 for _ in requests).to_bytes(4, "big")


def watch(request, context):
    yield b"first"
    wait(context, "watch")


handlers = {
    "Say": grpc.unary_unary_rpc_method_handler(say),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Hang": grpc.unary_unary_rpc_method_handler(hang),
    "Count": grpc.stream_unary_rpc_method_handler(count),
    "Watch": grpc.unary_stream_rpc_method_handler(watch),
}
server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("orders", handlers),))
print("at", server.add_insecure_port("127.0.0.1:0"))
server.start()
# Until whoever started it goes away.
sys.stdin.read()
server.stop(0)
