"""A load server: one connection at a time, a stream encoded in advance, sent as fast as it is taken.

``serve`` runs in a process of its own, so that it costs the client's core nothing.
"""

import base64
import hashlib
import random
import socket
import ssl
import struct
import zlib

import msgspec

from crux_sync.simulator.payloads import Maker
from crux_sync.simulator.world import World

MIX = {"PRESENCE_UPDATE": 60, "MESSAGE_CREATE": 20, "TYPING_START": 15, "GUILD_MEMBER_UPDATE": 5}

#: The last event of a stream: what a client waits for.
LAST = "GUILD_BAN_ADD"

HELLO = b'{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250}}'
READY = (
    b'{"t":"READY","s":1,"op":0,"d":{"v":10,"user":%s,"guilds":[],"session_id":"0","shard":[0,1],'
    b'"resume_gateway_url":"ws://127.0.0.1:1","application":{"id":"1","flags":0},"private_channels":[]}}'
)


def events(count: int, seed: int = 1) -> list[bytes]:
    """Whole payloads with their numbers, READY not among them."""
    world, source = World(seed, 1, 20, 500), random.Random(seed)
    maker = Maker(world, source)
    names = source.choices(list(MIX), weights=list(MIX.values()), k=count)
    names = ["GUILD_CREATE" if number % 1000 == 999 else name for number, name in enumerate(names)]
    names[-1] = LAST
    return [
        b'{"t":"%s","s":%d,"op":0,"d":%s}' % (name.encode(), number + 2, msgspec.json.encode(maker.make(name)))
        for number, name in enumerate(names)
    ]


def frame(message: bytes) -> bytes:
    if len(message) < 126:
        return bytes([0x82, len(message)]) + message
    if len(message) < 65536:
        return b"\x82\x7e" + struct.pack("!H", len(message)) + message
    return b"\x82\x7f" + struct.pack("!Q", len(message)) + message


class Stream:
    """Hello, READY and the events of one zlib stream, as bytes of the wire."""

    def __init__(self, count: int, seed: int = 1, *, keep: bool = False) -> None:
        #: The compressed messages one by one, if they are to be kept.
        self.messages: list[bytes] = []
        compressor = zlib.compressobj(6)
        self.json_bytes = self.compressed_bytes = 0

        def encode(payload: bytes) -> bytes:
            message = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
            self.json_bytes += len(payload)
            self.compressed_bytes += len(message)
            if keep:
                self.messages.append(message)
            return frame(message)

        self.hello = encode(HELLO)
        self.ready = encode(READY % msgspec.json.encode(World(seed, 1, 20, 500).bot))
        self.json_bytes = self.compressed_bytes = 0
        self.events = b"".join(encode(payload) for payload in events(count, seed))


def upgrade(sock: socket.socket) -> None:
    """The server's side of the WebSocket handshake."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += sock.recv(65536)
    key = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:"))
    accept = hashlib.sha1(key.split(b":", 1)[1].strip() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    sock.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + base64.b64encode(accept) + b"\r\n\r\n"
    )


def serve(listener: socket.socket, stream: Stream, context: ssl.SSLContext | None) -> None:
    """Serve one client after the other until the process is ended."""
    while True:
        sock, _ = listener.accept()
        try:
            if context is not None:
                sock = context.wrap_socket(sock, server_side=True)
            upgrade(sock)
            sock.sendall(stream.hello)
            sock.recv(65536)  # Identify, or a first heartbeat
            sock.sendall(stream.ready)
            sock.sendall(stream.events)
            while sock.recv(65536):
                pass
        except OSError:
            pass
        finally:
            sock.close()
