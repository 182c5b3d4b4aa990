"""What fuzzing feeds: each target takes any bytes and raises AssertionError when a rule of ours is broken.

``python -m benchmarks.fuzz`` runs them guided by coverage; ``tests/test_fuzz.py`` replays the seeds in the suite.
"""

import json
import random
import zlib
from collections.abc import Callable

import websocket

from crux_sync.actions import Dial, Disconnect, Fail, Redial, SendHeartbeat, SendIdentify, SendResume, State
from crux_sync.close_codes import CLOSE_POLICY
from crux_sync.errors import ProtocolError
from crux_sync.events import UNREADABLE, decode_json, envelope_decoder
from crux_sync.frames import BINARY, CLOSE, CONTINUATION, PING, TEXT, FrameReader
from crux_sync.inflate import SUFFIX, ZlibStream
from crux_sync.session import RESUME_ATTEMPTS, Session
from crux_sync.simulator.core import Close, Core, Send, Settings

Target = Callable[[bytes], None]

LIMIT = 4096


class Source:
    """Decisions drawn from bytes; zeros when they have run out."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def __bool__(self) -> bool:
        return self.position < len(self.data)

    def take(self, size: int) -> bytes:
        self.position += size
        return self.data[self.position - size : self.position]

    def byte(self) -> int:
        return self.take(1)[0] if self else 0

    def below(self, bound: int) -> int:
        return self.byte() % bound

    def piece(self) -> bytes:
        return self.take(self.byte())

    def rest(self) -> bytes:
        return self.take(len(self.data))


# ------------------------------------------------------------------ frames


def frames(data: bytes) -> None:
    """Any cut of a stream gives the same messages, pings and close, and they are what websocket-client reads."""
    source = Source(data)
    cuts = [source.below(64) + 1 for _ in range(source.below(8))]
    stream = source.rest()
    whole = read_frames(stream, [len(stream)])
    assert read_frames(stream, cuts or [1]) == whole
    assert read_frames(stream, [1]) == whole
    messages, pings, close, broken = whole
    if not broken:
        theirs = read_with_websocket_client(stream)
        assert (messages, pings) == theirs[:2]
        assert close == theirs[2] or (theirs[2] == UNKNOWN_CODE and close is not None)


def read_frames(stream: bytes, cuts: list[int]) -> tuple[list[bytes], list[bytes], int | None, bool]:
    reader, messages, position, turn = FrameReader(LIMIT), [], 0, 0
    try:
        while position < len(stream):
            size = cuts[turn % len(cuts)]
            messages += reader.feed(stream[position : position + size])
            position, turn = position + size, turn + 1
    except ProtocolError:
        return [], [], None, True  # what came before in the same piece goes with the connection: it is resumed
    assert all(len(message) <= LIMIT for message in messages)
    return messages, reader.pings, reader.close and reader.close.code, False


UNKNOWN_CODE = -1


class Dry(Exception):
    """The stream has no more bytes."""


def read_with_websocket_client(stream: bytes) -> tuple[list[bytes], list[bytes], int | None]:
    position = 0

    def read(size: int) -> bytes:
        nonlocal position
        if position + size > len(stream):
            raise Dry
        position += size
        return stream[position - size : position]

    reader = websocket._abnf.frame_buffer(read, skip_utf8_validation=True)
    messages: list[bytes] = []
    pings: list[bytes] = []
    parts: list[bytes] = []
    while True:
        try:
            frame = reader.recv_frame()
        except Dry:
            return messages, pings, None
        except websocket.WebSocketProtocolException:
            return messages, pings, UNKNOWN_CODE  # it refuses close codes that RFC 6455 has not given out
        if frame.opcode == CLOSE:
            return messages, pings, int.from_bytes(frame.data[:2], "big") if frame.data else 1005
        if frame.opcode == PING:
            pings.append(frame.data)
        elif frame.opcode in (TEXT, BINARY, CONTINUATION):
            parts.append(frame.data)
            if frame.fin:
                messages.append(b"".join(parts))
                parts = []


# ------------------------------------------------------------------ inflate


def inflate(data: bytes) -> None:
    """A batch gives what its messages give one at a time: raw bytes, or payloads that are compressed first."""
    source = Source(data)
    if source.below(2):
        messages = []
        while source:
            piece = source.piece()
            messages.append(piece + SUFFIX if source.below(2) else piece)
    else:
        context, messages = zlib.compressobj(), []
        while source:
            shape = source.below(3)
            text = source.piece()
            if shape == 1:
                text = json.dumps({"op": 0, "t": "X", "d": text.decode("latin-1")}, separators=(",", ":")).encode()
            elif shape == 2:
                text = b'{"op":0,"d":%s}' % text
            messages.append(context.compress(text) + context.flush(zlib.Z_SYNC_FLUSH))
    singly, batched = inflate_all(messages, batched=False), inflate_all(messages, batched=True)
    if singly != batched:
        # Only where a payload is no JSON may the seam be found in the wrong place: the connection ends there anyway.
        assert singly is None or not all(is_envelope(payload) for payload in singly)


def inflate_all(messages: list[bytes], *, batched: bool) -> list[bytes] | None:
    inflater = ZlibStream(LIMIT * 16)
    try:
        return list(inflater.inflate(messages, batched=batched))
    except ProtocolError:
        return None


def is_envelope(payload: bytes) -> bool:
    try:
        envelope = envelope_decoder().decode(payload)
        decode_json(envelope.payload)
    except UNREADABLE:
        return False
    return True


# ------------------------------------------------------------------ session

#: What a payload's ``d`` may be: right, nearly right and wrong for every opcode that reads it.
DATA = [
    None, True, False, 0, -1, 2**62, 1.5, "", "abc", [], {}, {"heartbeat_interval": 41250}, {"heartbeat_interval": 0},
    {"heartbeat_interval": "x"}, {"heartbeat_interval": True}, {"heartbeat_interval": 1e300}, {"session_id": "s"},
    {"session_id": ""}, {"session_id": 5}, {"session_id": "s", "resume_gateway_url": "wss://r"},
    {"session_id": "s", "resume_gateway_url": 7, "guilds": 3, "user": 3, "application": {"id": 1}},
    {"session_id": "t", "resume_gateway_url": "wss://r", "guilds": [{}], "user": {"id": "1"}},
]  # fmt: skip
CODES = [None, 1005, 1000, 1001, 3000, 4242, *CLOSE_POLICY]
TYPES = [None, "READY", "RESUMED", "MESSAGE_CREATE"]


def session(data: bytes) -> None:
    """Whatever happens in whatever order: no exception, never nonsense sent, and never stuck without a next step."""
    source, now = Source(data), 0.0
    machine = Session(0, 1, uniform=random.Random(source.byte()).uniform)
    resumes = 0
    while source and machine.state is not State.FAILED:
        now += source.byte() / 4
        step = source.below(8)
        link = machine.link
        if step == 0 and link is None:
            dial = machine.next_dial()
            assert isinstance(dial, Dial)
            assert dial.resume == machine.can_resume
            machine.opened(now)
            actions = []
        elif step == 1 and link is None:
            had = machine.session_id
            actions = machine.dial_failed("refused", resume_url=bool(source.below(2)), now=now)
            assert machine.session_id == had, "a failed dial cost a session"
        elif step == 2:
            actions = machine.lost(CODES[source.below(len(CODES))], "", now)
            assert machine.link is None
            assert link is None or any(isinstance(action, Redial | Fail) for action in actions)
        elif step == 3:
            actions = machine.tick(now)
        elif step == 4:
            machine.blocked = True
            actions = []
        elif step == 5:
            machine.unblocked(now)
            actions = []
        elif step == 6:
            actions = machine.protocol_broken("garbage")
        else:
            op, value, name = source.byte() - 1, DATA[source.below(len(DATA))], TYPES[source.below(len(TYPES))]
            actions = machine.receive(op % 14, value, now, name, source.byte() or None)
        resumes = check(machine, link, actions, resumes)
    assert machine.state is State.FAILED or machine.link is not None or machine.next_dial() is not None


def check(machine: Session, link: object, actions: list, resumes: int) -> int:
    for action in actions:
        if isinstance(action, SendResume):
            assert action.session_id
            assert isinstance(action.sequence, int)
            resumes += 1
            assert machine.resumes_unanswered <= RESUME_ATTEMPTS
        elif isinstance(action, SendIdentify):
            assert not machine.can_resume
        elif isinstance(action, SendHeartbeat):
            assert machine.link is not None
        elif isinstance(action, Redial):
            assert 0 <= action.delay <= 300
        elif isinstance(action, Disconnect):
            assert machine.tick(1e9) == [], "spoke after leaving"
    deadline = machine.next_deadline()
    if machine.link is not None and machine.link.verdict is None and not machine.blocked:
        assert deadline is not None, "a connection that nothing would ever end"
    return resumes


# ------------------------------------------------------------------ simulator

HELLO_QUERY = {"v": "10", "encoding": "json", "compress": "zlib-stream"}
IDENTIFY = {"token": "test", "intents": 1, "properties": {}, "shard": [0, 1]}


def simulator(data: bytes) -> None:
    """Whatever clients send: no exception, every breach named and closed, every payload it sends is valid JSON."""
    source, now = Source(data), 0.0
    core = Core(Settings(guilds_per_shard=1, members=2, identify_period=1.0), lambda: "ws://127.0.0.1:1")
    peers = []
    while source:
        now += source.byte() / 8
        step = source.below(6)
        if step == 0 or not peers:
            peer, outputs = core.connect(HELLO_QUERY, now)
            peers.append(peer)
        elif step == 1:
            outputs = core.tick(now)
        elif step == 2:
            core.disconnected(peers[source.below(len(peers))], CODES[source.below(len(CODES))], now)
            outputs = []
        else:
            peer = peers[source.below(len(peers))]
            before = len(core.violations)
            outputs = core.receive(peer, message(source, core), now)
            if len(core.violations) > before:
                assert any(isinstance(output, Close) or b'"op":9' in output.payload for output in outputs)
        for output in outputs:
            if isinstance(output, Send):
                assert isinstance(json.loads(output.payload), dict)
    attached = [one.peer for one in core.store.alive.values() if one.peer is not None]
    assert len(set(map(id, attached))) == len(attached), "two sessions on one connection"
    assert all(peer.session is not None and peer.state != "closed" for peer in attached)


def message(source: Source, core: Core) -> bytes:
    """A client's payload: well formed, a field of it replaced, or any bytes."""
    shape = source.below(5)
    if shape == 0:
        return source.piece()
    if shape == 1:
        return json.dumps({"op": 2, "d": IDENTIFY}).encode()
    if shape == 2:
        alive = list(core.store.alive)
        session_id = alive[source.below(len(alive))] if alive else "none"
        return json.dumps({"op": 6, "d": {"token": "test", "session_id": session_id, "seq": source.byte()}}).encode()
    if shape == 3:
        value = DATA[source.below(len(DATA))]
        fields = {name: DATA[source.below(len(DATA))] for name in COMMAND_FIELDS if source.below(2)}
        return json.dumps({"op": source.below(45), "d": fields if source.below(4) else value}).encode()
    return b'{"op":%d,"d":%s}' % (source.below(45), source.piece())


COMMAND_FIELDS = (
    "token", "intents", "properties", "shard", "presence", "large_threshold", "session_id", "seq", "guild_id",
    "channel_id", "self_mute", "self_deaf", "query", "limit", "user_ids", "nonce", "presences", "since", "activities",
    "status", "afk", "guild_ids", "fields",
)  # fmt: skip

TARGETS: dict[str, Target] = {
    "frames": frames,
    "inflate": inflate,
    "session": session,
    "simulator": simulator,
}
