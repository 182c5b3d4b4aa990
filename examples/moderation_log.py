"""A log of moderation in SQLite without gaps: the session outlives restarts, and a key keeps rows from doubling."""

import os
import sqlite3

from crux_sync import Gateway, Intents

API = os.environ.get("DISCORD_API_URL", "https://discord.com/api/v10")
KINDS = {20: "kick", 22: "ban", 23: "unban", 72: "message deleted", 73: "messages deleted"}

gateway = Gateway(api_url=API, intents=Intents.GUILD_MODERATION, session_store="moderation.json")
database = sqlite3.connect("moderation.db", isolation_level=None, check_same_thread=False)  # one worker uses it
database.execute("CREATE TABLE IF NOT EXISTS log (id PRIMARY KEY, guild, moderator, kind, target, reason)")


@gateway.on("GUILD_AUDIT_LOG_ENTRY_CREATE")
def entry(event):
    made = event.data
    kind = KINDS.get(made["action_type"])
    if kind is None:
        return
    row = (made["id"], made["guild_id"], made["user_id"], kind, made.get("target_id"), made.get("reason"))
    database.execute("INSERT OR IGNORE INTO log VALUES (?, ?, ?, ?, ?, ?)", row)
    print(f"{kind}: {made.get('target_id')} by {made['user_id']}", flush=True)


if __name__ == "__main__":
    gateway.run()
