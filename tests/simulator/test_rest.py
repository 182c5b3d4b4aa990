"""What bots post: messages come back as events, interactions are answered once, and what Discord refuses is refused."""

import pytest
import requests

from crux_sync.simulator import RestRequest

AUTHORIZED = {"Authorization": "Bot test"}


def post(discord, path, body, headers=AUTHORIZED):
    answer = requests.post(discord.api_url + path, json=body, headers=headers, timeout=5)
    return answer.status_code, (answer.json() if answer.content else None)


def test_a_message_is_made_recorded_and_dispatched(discord, connect):
    gateway = connect()
    events = gateway.subscribe("MESSAGE_CREATE")
    gateway.start()
    assert discord.wait_ready()
    guild = next(iter(discord.world.guilds.values()))
    status, message = post(discord, f"/channels/{guild.text_channel}/messages", {"content": "x" * 2000})
    assert status == 200
    event = events.get(timeout=5)
    assert event.data == message
    assert (message["author"]["id"], message["guild_id"]) == (discord.world.user_id, guild.id)
    path = f"/api/v10/channels/{guild.text_channel}/messages"
    assert discord.rest_requests == [RestRequest("POST", path, {"content": "x" * 2000})]


@pytest.mark.parametrize(
    ("body", "headers", "answer"),
    [
        ({"content": "hello"}, {}, (401, 0)),
        ({"content": "hello"}, {"Authorization": "test"}, (401, 0)),
        ({"content": ""}, AUTHORIZED, (400, 50006)),
        ({"content": "x" * 2001}, AUTHORIZED, (400, 50035)),
        ({"content": 5}, AUTHORIZED, (400, 50035)),
        ([], AUTHORIZED, (400, 50109)),
    ],
)
def test_messages_that_are_refused(discord, body, headers, answer):
    status, said = post(discord, "/channels/7/messages", body, headers)
    assert (status, said["code"]) == answer
    assert discord.rest_requests == []


def test_an_interaction_is_answered_once(discord, connect):
    gateway = connect()
    gateway.start()
    assert discord.wait_ready()
    discord.dispatch("INTERACTION_CREATE", {"id": "9", "token": "made-up", "type": 2})
    assert post(discord, "/interactions/9/made-up/callback", {"data": {}}, {}) == (
        400,
        {"message": "Invalid Form Body", "code": 50035},
    )
    assert post(discord, "/interactions/9/made-up/callback", {"type": 4, "data": {"content": "pong"}}, {})[0] == 204
    assert post(discord, "/interactions/9/made-up/callback", {"type": 4}, {})[1]["code"] == 40060
    assert post(discord, "/interactions/9/another/callback", {"type": 4}, {})[1]["code"] == 10062
    assert [one.body for one in discord.rest_requests] == [{"type": 4, "data": {"content": "pong"}}]


def test_a_body_that_comes_in_pieces(discord):
    def pieces():
        yield b'{"content": '
        yield b'"' + b"y" * 1500 + b'"}'

    body = b"".join(pieces())
    prepared = requests.Request("POST", f"{discord.api_url}/channels/7/messages", AUTHORIZED, data=pieces()).prepare()
    del prepared.headers["Transfer-Encoding"]
    prepared.headers["Content-Length"] = str(len(body))
    with requests.Session() as session:
        assert session.send(prepared, timeout=5).json()["content"] == "y" * 1500


def test_other_posts(discord):
    assert post(discord, "/gateway", {})[0] == 405
    assert post(discord, "/guilds/7/channels", {})[0] == 404
