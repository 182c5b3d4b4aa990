"""A server that sends at a steady rate, every event with the time at which it was sent.

The clock is the machine's monotonic one, which its processes share.
"""

import multiprocessing
import socket
import time
import zlib

import msgspec

from crux_sync.simulator.world import World

from .load import HELLO, LAST, READY, events, frame, upgrade

#: The server wakes this often at most, seconds: at 10,000 events/s it sends five at a time.
TICK = 0.0005


class Link:
    """One client's connection and its zlib stream."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.compressor = zlib.compressobj(6)
        self.sequence = 1
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        upgrade(sock)
        self.send(HELLO)
        sock.recv(65536)  # Identify, or a first heartbeat
        self.send(READY % msgspec.json.encode(World(1, 1, 1, 1).bot))

    def event(self, body: bytes, name: bytes = b"MESSAGE_CREATE") -> bytes:
        """The frame of an event that carries this moment."""
        self.sequence += 1
        sent = time.monotonic_ns()
        payload = b'{"t":"%s","s":%d,"op":0,"d":{"sent":%d,%s}' % (name, self.sequence, sent, body)
        return self.encode(payload)

    def encode(self, payload: bytes) -> bytes:
        return frame(self.compressor.compress(payload) + self.compressor.flush(zlib.Z_SYNC_FLUSH))

    def send(self, payload: bytes) -> None:
        self.sock.sendall(self.encode(payload))


def serve(listener: socket.socket, connections: int, rate: float, seconds: float) -> None:
    """Accept so many clients, then send them ``rate`` events a second in turn, and a last one to each."""
    bodies = [payload.partition(b'"d":{')[2][:-1] for payload in events(200) if b'"t":"MESSAGE_CREATE"' in payload[:32]]
    links = [Link(listener.accept()[0]) for _ in range(connections)]
    time.sleep(0.3)
    start, sent, total = time.monotonic(), 0, int(rate * seconds)
    try:
        while sent < total:
            due = min(int((time.monotonic() - start) * rate) + 1, total)
            waiting: dict[int, list[bytes]] = {}
            for number in range(sent, due):
                link = links[number % connections]
                waiting.setdefault(number % connections, []).append(link.event(bodies[number % len(bodies)]))
            for index, frames in waiting.items():
                links[index].sock.sendall(b"".join(frames))
            sent = due
            time.sleep(max(TICK, start + sent / rate - time.monotonic()) if sent < total else 0)
        for link in links:
            link.sock.sendall(link.event(b'"user":{"id":"1"}}', LAST.encode()))
        for link in links:
            while link.sock.recv(65536):
                pass
    except OSError:
        pass


def start(connections: int, rate: float, seconds: float) -> tuple[multiprocessing.Process, str]:
    """The server in a process of its own, and its url."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=connections)
    process = multiprocessing.get_context("fork").Process(
        target=serve, args=(listener, connections, rate, seconds), daemon=True
    )
    process.start()
    port = listener.getsockname()[1]
    listener.close()
    return process, f"ws://127.0.0.1:{port}"
