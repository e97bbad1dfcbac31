"""A WebSocket client: says line by line what it is told. HOST:PORT TOKEN, or no token."""

import socket
import sys

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

address, token = sys.argv[1], sys.argv[2:]
host, port = address.split(":")
headers = {"Authorization": "Bearer " + token[0]} if token else {}
stream = socket.create_connection((host, int(port)))
url = f"ws://orders.test:{port}/orders/1"
try:
    with connect(url, sock=stream, subprotocols=["chat"], additional_headers=headers) as client:
        while True:
            print("told", client.recv())
except InvalidStatus as refused:
    print("refused", refused.response.status_code)
except ConnectionClosed as closed:
    print("closed", closed.rcvd.code)
