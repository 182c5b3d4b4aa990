"""Commands of workers, read and performed by the process that has the shard."""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import CruxError
from ..events import decode_json, encode_json
from ..gateway import Gateway
from ..opcodes import Opcode
from .client import RedisError, ResponseError, patient
from .keys import Keys
from .leases import Lease
from .worker_commands import KEPT

logger = logging.getLogger(__name__)

#: How long one read waits in Redis before the reader looks whether it is to stop, seconds.
BLOCK = 0.25

#: Commands of one shard that are under way together: each waits for the limits, or for Discord's answer.
TOGETHER = 32

#: Taken out before it is performed: a command is sent once or not at all. KEYS: lease, commands. ARGV: token, entry.
#: Returns its age in milliseconds and its fields; nothing: somebody has had it.
TAKE = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return redis.error_reply('FENCED without the lease') end
local found = redis.call('XRANGE', KEYS[2], ARGV[2], ARGV[2])[1]
if not found then return false end
redis.call('XDEL', KEYS[2], ARGV[2])
local t = redis.call('TIME')
local put = tonumber(string.match(ARGV[2], '(%d+)-'))
return {t[1] * 1000 + math.floor(t[2] / 1000) - put, found[2]}
"""


class CommandReader:
    """The thread ``crux-commands-<shard>`` of one leased shard, and one thread for each command under way."""

    def __init__(self, client: Any, keys: Keys, lease: Lease, gateway: Gateway, shard_id: int) -> None:
        self._client, self._lease, self._gateway, self._shard_id = client, lease, gateway, shard_id
        self._stream = keys.commands(shard_id)
        #: The last entry that was looked at.
        self._last: bytes = b"0-0"
        self._stopping = threading.Event()
        self._room = threading.BoundedSemaphore(TOGETHER)
        self._thread = threading.Thread(target=self._run, name=f"crux-commands-{shard_id}", daemon=True)

    def start(self) -> None:
        """Begin. One thread is started."""
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Take no more, and wait ``timeout`` seconds for the thread; whether it ended."""
        self._stopping.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                found = patient(self._read, self._stopping) or ()
                for _, entries in found:
                    for number, _ in entries:
                        self._last = number
                        self._take(number)
            except ResponseError as error:
                if "FENCED" not in str(error):
                    logger.exception("commands cannot be read", extra={"shard": self._shard_id})
                self._stopping.wait(BLOCK)
            except Exception:
                logger.exception("commands cannot be read", extra={"shard": self._shard_id})
                self._stopping.wait(BLOCK)

    def _read(self) -> Any:
        return self._client.xread({self._stream: self._last}, count=TOGETHER, block=round(BLOCK * 1000))

    def _take(self, number: bytes) -> None:
        while not self._room.acquire(timeout=BLOCK):
            if self._stopping.is_set():
                return
        thread = None
        try:
            if self._lease.valid and not self._stopping.is_set():
                keys = (self._lease.key, self._stream)
                taken = self._client.eval(TAKE, 2, *keys, self._lease.token, number)
                if taken is not None:
                    age, flat = taken
                    fields = dict(zip(flat[::2], flat[1::2], strict=True))
                    name = f"crux-command-{self._shard_id}-{number.decode()}"
                    thread = threading.Thread(target=self._perform, args=(fields, age / 1000), name=name, daemon=True)
                    thread.start()
        finally:
            if thread is None:
                self._room.release()

    # ---------------------------------------------------------------- one command, on its own thread

    def _perform(self, fields: Mapping[bytes, bytes], age: float) -> None:
        answer = self._answering(fields.get(b"r", b""))
        try:
            patience = float(fields[b"x"]) / 1000
            timeout = None if patience < 0 else patience - age
            if timeout is None or timeout > 0:  # else nobody waits for it any longer
                self._send(fields, timeout, answer)
        except RedisError as error:
            logger.warning("an answer is lost: %s", error, extra={"shard": self._shard_id})
        except Exception as error:
            if not isinstance(error, CruxError):
                logger.exception("a command failed", extra={"shard": self._shard_id})
            answer({"error": str(error), "k": type(error).__name__})
        finally:
            self._room.release()

    def _send(self, fields: Mapping[bytes, bytes], timeout: float | None, answer: Callable[..., None]) -> None:
        op, data = int(fields[b"op"]), decode_json(fields[b"d"])
        gateway = self._gateway
        if fields.get(b"raw") == b"1":
            gateway.send({"op": op, "d": data}, self._shard_id, timeout=timeout)
            answer({"t": "done"})
        elif op == Opcode.PRESENCE_UPDATE:
            gateway.update_presence(data, shard_id=self._shard_id, timeout=timeout)
            answer({"t": "done"})
        elif op == Opcode.VOICE_STATE_UPDATE:
            voice = gateway.update_voice_state(**data, wait=fields.get(b"w") == b"1", timeout=timeout)
            answer({"t": "done"} if voice is None else {"t": "voice", "d": encode_json(voice._asdict())})
        elif op == Opcode.REQUEST_GUILD_MEMBERS:
            members = gateway.request_guild_members(**data, timeout=timeout)
            for chunk in members.chunks():
                answer({"t": "members", "d": encode_json(chunk)})
            rest = {"not_found": members.not_found, "presences": members.presences}
            answer({"t": "end", "d": encode_json(rest)})
        else:
            raise CruxError(f"op {op} is no command of a worker")

    def _answering(self, stream: bytes) -> Callable[[Mapping[str, Any]], None]:
        def answer(fields: Mapping[str, Any]) -> None:
            if stream:
                patient(lambda: self._put(stream, fields), self._stopping)

        return answer

    def _put(self, stream: bytes, fields: Mapping[str, Any]) -> None:
        with self._client.pipeline() as together:
            together.xadd(stream, fields)
            together.expire(stream, KEPT)
            together.execute()
