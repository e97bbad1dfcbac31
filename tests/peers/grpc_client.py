"""A gRPC client: says line by line what it is told. HOST:PORT TOKEN, or no token."""

import sys

import grpc

address, token = sys.argv[1], sys.argv[2:]
metadata = [("authorization", "Bearer " + token[0])] if token else []
channel = grpc.insecure_channel(address, options=[("grpc.default_authority", "orders.test")])


def unary(method, timeout):
    try:
        answer = channel.unary_unary(f"/orders/{method}")(b"\0\xff ", metadata=metadata, timeout=timeout)
        print(method, "OK", answer.hex())
    except grpc.RpcError as error:
        print(method, error.code().name)


unary("Say", 50)
if not token:
    sys.exit()
unary("Fail", 50)
unary("Hang", 0.5)
# Many small messages one way, one answer.
count = channel.stream_unary("/orders/Count")(iter([b"x"] * 1000), metadata=metadata, timeout=50)
print("Count OK", int.from_bytes(count, "big"))
try:
    for message in channel.unary_stream("/orders/Watch")(b"", metadata=metadata):
        print("Watch", message.decode())
    print("Watch OK")
except grpc.RpcError as error:
    print("Watch", error.code().name)
unary("Say", 50)
