"""The members of a guild as CSV, with a progress bar: ``python export_members.py GUILD_ID > members.csv``.

It needs the intent GUILD_MEMBERS, and ``pip install rich``.
"""

import csv
import os
import sys

from rich.console import Console
from rich.progress import track

from crux_sync import Gateway, Intents

API = os.environ.get("DISCORD_API_URL", "https://discord.com/api/v10")


def export(guild_id, file):
    table = csv.writer(file)
    table.writerow(["id", "name", "joined", "bot"])
    with Gateway(api_url=API, intents=Intents.GUILDS | Intents.GUILD_MEMBERS) as gateway:
        guild = gateway.wait_for("GUILD_CREATE", check=lambda event: event.data["id"] == guild_id, timeout=60)
        members = gateway.request_guild_members(guild_id, timeout=600)
        bar = track(members, "members", total=guild.data["member_count"], console=Console(stderr=True))
        for member in bar:
            user = member["user"]
            table.writerow([user["id"], user["username"], member["joined_at"], user.get("bot", False)])


if __name__ == "__main__":
    export(sys.argv[1], sys.stdout)
