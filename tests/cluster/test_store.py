"""Sessions in a real Redis."""

import pytest

from crux_sync.cluster.leases import Lease
from crux_sync.cluster.store import RedisSessionStore
from crux_sync.sessions import Identity, SessionStore, StoredSession

BOT = Identity.of("made.up", 2, 513)
ONE = StoredSession("one", "wss://resume.test", 40, "9", "8")


@pytest.fixture
def store(client, keys):
    return held_by(client, keys, "a")


def held_by(client, keys, owner: str, **options) -> RedisSessionStore:
    lease = Lease(client, keys.shard(0), keys.tokens, owner, **options)
    assert lease.acquire()
    store = RedisSessionStore(client, keys, {0: lease})
    store.open(BOT)
    return store


def test_what_is_saved_is_found(store):
    assert isinstance(store, SessionStore)
    assert store.open(BOT) == {}
    store.save({0: ONE})
    assert store.open(BOT) == {0: ONE}
    store.save({0: StoredSession("one", None, 41)})
    assert store.open(BOT) == {0: StoredSession("one", None, 41)}


def test_a_sequence_never_moves_back_within_a_session(store):
    store.save({0: ONE})
    store.save({0: ONE._replace(sequence=39)})
    assert store.open(BOT)[0].sequence == 40
    store.save({0: ONE._replace(session_id="two", sequence=1)})
    assert store.open(BOT)[0] == ONE._replace(session_id="two", sequence=1)


def test_a_session_that_is_over_is_forgotten(store):
    store.save({0: ONE})
    store.save({0: None})
    assert store.open(BOT) == {}


@pytest.mark.parametrize(
    "other", [Identity.of("another", 2, 513), Identity.of("made.up", 4, 513), Identity.of("made.up", 2, 1)]
)
def test_another_bot_does_not_get_it(store, other):
    store.save({0: ONE})
    assert store.open(other) == {}


def test_an_older_lease_is_refused(client, keys):
    old = held_by(client, keys, "a", duration=60)
    old.save({0: ONE})
    client.delete(keys.shard(0))  # as if it had run out while its holder was stopped
    new = held_by(client, keys, "b")
    new.save({0: ONE._replace(sequence=50)})
    with pytest.raises(PermissionError, match="newer owner"):
        old.save({0: ONE._replace(session_id="two", sequence=1)})
    with pytest.raises(PermissionError, match="newer owner"):
        old.save({0: None})
    assert new.open(BOT)[0].sequence == 50


def test_without_the_lease_nothing_is_sent(client, keys):
    store = held_by(client, keys, "a", duration=1, margin=1)
    with pytest.raises(PermissionError, match="is over"):
        store.save({0: ONE})


def test_nothing_in_redis_gives_the_token_away(client, keys, store):
    store.save({0: ONE})
    for key in client.scan_iter(f"{keys.prefix}*"):
        assert b"made.up" not in client.dump(key)
