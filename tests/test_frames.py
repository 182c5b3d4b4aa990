"""The frame reader: any cut of the stream gives the same messages, and nothing odd gets through."""

import struct
from itertools import pairwise

import pytest
import websocket
from hypothesis import given
from hypothesis import strategies as st

from crux_sync.errors import ProtocolError
from crux_sync.frames import BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, TEXT, CloseFrame, FrameReader


def frame(payload: bytes, opcode: int = BINARY, *, final: bool = True, reserved: int = 0) -> bytes:
    head = bytes([(FIN if final else 0) | reserved | opcode])
    if len(payload) < 126:
        return head + bytes([len(payload)]) + payload
    if len(payload) < 65536:
        return head + b"\x7e" + struct.pack("!H", len(payload)) + payload
    return head + b"\x7f" + struct.pack("!Q", len(payload)) + payload


def feed_in_pieces(reader: FrameReader, data: bytes, cuts: list[int]) -> list[bytes]:
    messages = []
    edges = sorted({0, len(data), *[cut % (len(data) + 1) for cut in cuts]})
    for start, stop in pairwise(edges):
        messages += reader.feed(data[start:stop])
    return messages


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 200_000])
def test_every_length_form(size):
    assert FrameReader().feed(frame(b"x" * size)) == [b"x" * size]


@given(
    payloads=st.lists(st.binary(max_size=300), max_size=6),
    cuts=st.lists(st.integers(min_value=0, max_value=3000), max_size=12),
)
def test_cuts_make_no_difference(payloads, cuts):
    data = b"".join(frame(payload) for payload in payloads)
    assert feed_in_pieces(FrameReader(), data, cuts) == payloads


def test_cut_at_every_byte():
    payloads = [b"a", b"b" * 130, b"", b"c" * 70_000]
    data = b"".join(frame(payload) for payload in payloads)
    for cut in [*range(160), len(data) - 1]:
        reader = FrameReader()
        assert reader.feed(data[:cut]) + reader.feed(data[cut:]) == payloads


def test_a_large_message_in_small_pieces_is_joined_once():
    reader = FrameReader()
    data = frame(b"x" * 1_000_000)
    messages = [message for start in range(0, len(data), 1000) for message in reader.feed(data[start : start + 1000])]
    assert messages == [b"x" * 1_000_000]


def test_fragments_with_control_frames_between():
    reader = FrameReader()
    data = (
        frame(b"one ", TEXT, final=False)
        + frame(b"?", PING)
        + frame(b"two ", CONTINUATION, final=False)
        + frame(b"", PONG)
        + frame(b"three", CONTINUATION)
        + frame(b"next", TEXT)
    )
    assert reader.feed(data) == [b"one two three", b"next"]
    assert reader.pings == [b"?"]


def test_close_frame_is_kept_and_the_rest_ignored():
    reader = FrameReader()
    close = frame(struct.pack("!H", 4004) + b"Authentication failed.", CLOSE)
    assert reader.feed(frame(b"before") + close + frame(b"", CLOSE)) == [b"before"]
    assert reader.close == CloseFrame(4004, "Authentication failed.")
    assert reader.feed(frame(b"after")) == []


@pytest.mark.parametrize("rest", [b"\xff\xff", b"\x21\x01", frame(b"x", reserved=0x40), b"\x82\x7f" + b"\xff" * 8])
def test_nonsense_after_a_close_frame_does_not_hide_its_code(rest):
    reader = FrameReader()
    reader.feed(frame(struct.pack("!H", 4004), CLOSE) + rest)
    assert reader.close == CloseFrame(4004, "")


@pytest.mark.parametrize(("payload", "code"), [(b"", 1005), (struct.pack("!H", 1000) + b"\xff", 1000)])
def test_close_frames_that_are_unusual(payload, code):
    reader = FrameReader()
    reader.feed(frame(payload, CLOSE))
    assert reader.close is not None
    assert reader.close.code == code


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (frame(b"x", reserved=0x40), "reserved"),
        (bytes([FIN | BINARY, 0x80, 0, 0, 0, 0]), "masked"),
        (frame(b"x" * 126, PING), "control frame of 126"),
        (frame(b"x", PING, final=False), "fragmented control"),
        (frame(b"x", 0x3), "opcode 0x3"),
        (frame(b"x", CONTINUATION), "without a message"),
        (frame(b"x", TEXT, final=False) + frame(b"y", TEXT), "inside a fragmented"),
        (frame(b"x", CLOSE), "half a code"),
        (b"\x82\x7f" + struct.pack("!Q", 2**63), "limit"),
        (b"\x82\x7f" + struct.pack("!Q", 64 * 1024 * 1024 + 1), "limit"),
    ],
)
def test_what_the_protocol_forbids(data, rule):
    with pytest.raises(ProtocolError, match=rule):
        FrameReader().feed(data)


def test_a_bad_frame_is_not_waited_for():
    with pytest.raises(ProtocolError, match="control frame"):
        FrameReader().feed(b"\x89\x7e\x01\x00")  # a ping that says it has 256 bytes, none of them here yet


def test_endless_fragments_meet_the_limit():
    reader = FrameReader(max_message=1000)
    reader.feed(frame(b"x" * 400, TEXT, final=False))
    reader.feed(frame(b"x" * 400, CONTINUATION, final=False))
    with pytest.raises(ProtocolError, match="1000"):
        reader.feed(frame(b"x" * 400, CONTINUATION, final=False))


@given(st.lists(st.tuples(st.sampled_from([TEXT, BINARY, PING, PONG]), st.binary(max_size=125)), max_size=8))
def test_agrees_with_websocket_client(frames):
    data = b"".join(frame(payload, opcode) for opcode, payload in frames)
    position = 0

    def read(size: int) -> bytes:
        nonlocal position
        position += size
        return data[position - size : position]

    buffer = websocket._abnf.frame_buffer(read, skip_utf8_validation=True)
    theirs = [buffer.recv_frame() for _ in frames]
    reader = FrameReader()
    assert reader.feed(data) == [one.data for one in theirs if one.opcode in (TEXT, BINARY)]
    assert reader.pings == [one.data for one in theirs if one.opcode == PING]
