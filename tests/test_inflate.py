"""Transport compression: batches equal single messages, splits and hostile input are met."""

import json
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crux_sync.errors import ProtocolError
from crux_sync.inflate import create_inflater, split_payloads

# Appendix A of the protocol.
ZLIB_M1 = bytes.fromhex(
    "789caa562a51b2ca2bcdc9d1512a8631f20b94ac0c0d74945294acaa953252138b4a9252134be233f34a528bca127394ac4c0c8d4c0d6a6b01"
    "000000ffff"
)
ZLIB_M2 = bytes.fromhex("aac6a5d710ac1724500b000000ffff")
ZSTD_M1 = bytes.fromhex(
    "28b52ffd0040e001007b2274223a6e756c6c2c2273223a6e756c6c2c226f70223a31302c2264223a7b226865617274626561745f696e746572"
    "76616c223a34313235307d7d"
)
ZSTD_M2 = bytes.fromhex("8c000058312c2264223a6e756c6c7d01007f5140")
M1 = b'{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250}}'
M2 = b'{"t":null,"s":null,"op":11,"d":null}'


def compressed(payloads: list[bytes]) -> list[bytes]:
    context = zlib.compressobj()
    return [context.compress(payload) + context.flush(zlib.Z_SYNC_FLUSH) for payload in payloads]


def test_vectors_of_the_protocol():
    assert list(create_inflater("zlib-stream").inflate([ZLIB_M1, ZLIB_M2])) == [M1, M2]
    assert list(create_inflater("zlib-stream").inflate([ZLIB_M1, ZLIB_M2], batched=True)) == [M1, M2]
    assert list(create_inflater("zstd-stream").inflate([ZSTD_M1, ZSTD_M2])) == [M1, M2]
    assert list(create_inflater(None).inflate([M1, M2])) == [M1, M2]


@pytest.mark.parametrize("batched", [False, True])
def test_a_payload_split_at_every_byte(batched):
    for cut in range(1, len(ZLIB_M1)):
        inflater = create_inflater("zlib-stream")
        pieces = [ZLIB_M1[:cut], ZLIB_M1[cut:], ZLIB_M2]
        assert list(inflater.inflate(pieces, batched=batched)) == [M1, M2], cut


@pytest.mark.parametrize("batched", [False, True])
def test_a_payload_split_over_receives(batched):
    inflater = create_inflater("zlib-stream")
    got = [payload for byte in ZLIB_M1 for payload in inflater.inflate([bytes([byte])], batched=batched)]
    assert got == [M1]


tricky = st.one_of(
    st.text(),
    st.sampled_from(['}{"a', '"}{"t":1', "}{", '}{"', "\\", '\\"}{"b', '{"op":0}{"op":1}', "}{\\u0022a"]),
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | tricky,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(tricky, inner, max_size=3),
    max_leaves=8,
)
envelopes = st.lists(
    values.map(lambda d: json.dumps({"t": "X", "s": 1, "op": 0, "d": d}, separators=(",", ":")).encode())
)


@settings(max_examples=300)
@given(envelopes)
def test_a_batch_is_its_messages(payloads):
    messages = compressed(payloads)
    assert list(create_inflater("zlib-stream").inflate(messages, batched=True)) == payloads
    if payloads:
        assert split_payloads(b"".join(payloads)) == payloads


def test_a_batch_that_cannot_be_parted_is_done_again_one_by_one():
    payloads = [b'{"op":1}\n', b'{"op":2}', b"[]"]  # nothing Discord sends; the seam is not found
    assert list(create_inflater("zlib-stream").inflate(compressed(payloads), batched=True)) == payloads


def test_output_beyond_one_chunk_is_drained():
    payload = json.dumps({"op": 0, "d": list(range(100_000))}).encode()
    assert list(create_inflater("zlib-stream").inflate(compressed([payload, M2]))) == [payload, M2]


@pytest.mark.parametrize("batched", [False, True])
def test_a_bomb_ends_the_connection_not_the_process(batched):
    bomb = compressed([b'{"op":0,"d":"' + b"0" * 5_000_000 + b'"}'])[0]
    assert len(bomb) < 10_000
    with pytest.raises(ProtocolError, match="more than 1000000"):
        create_inflater("zlib-stream", 1_000_000).inflate([bomb], batched=batched)


def test_a_zstd_bomb_too():
    from crux_sync.inflate import import_zstd

    bomb = import_zstd().compress(b"0" * 5_000_000)
    with pytest.raises(ProtocolError, match="more than 1000000"):
        create_inflater("zstd-stream", 1_000_000).inflate([bomb])


@pytest.mark.parametrize("compress", ["zlib-stream", "zstd-stream"])
def test_garbage(compress):
    with pytest.raises(ProtocolError, match="cannot be inflated"):
        create_inflater(compress).inflate([b"garbage\x00\x00\xff\xff"])


def test_an_ended_stream():
    with pytest.raises(ProtocolError, match="ended"):
        create_inflater("zlib-stream").inflate([zlib.compress(M1) + b"\x00\x00\xff\xff"])


def test_endless_partial_messages_meet_the_limit():
    with pytest.raises(ProtocolError, match="10000"):
        create_inflater("zlib-stream", 10_000).inflate([b"x" * 1000] * 100)
