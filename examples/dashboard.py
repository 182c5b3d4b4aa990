"""A page that shows the shards as they are: ``flask --app dashboard run --no-reload``."""

import os
import threading
from collections import Counter

from flask import Flask, jsonify

from crux_sync import Gateway

API = os.environ.get("DISCORD_API_URL", "https://discord.com/api/v10")

PAGE = """<!doctype html>
<html lang="en">
<title>Shards</title>
<style>
  body { font-family: sans-serif; margin: 2em; }
  td, th { padding: 0.3em 1em; text-align: left; border-bottom: 1px solid #ddd; }
  .ready { color: #186a3b; } .failed, .stopped { color: #a93226; }
</style>
<h1>Shards</h1>
<table id="shards"></table>
<h2>Events</h2>
<table id="events"></table>
<script>
  function fill(id, rows) {
    const table = document.getElementById(id);
    table.replaceChildren(...rows.map((cells) => {
      const row = document.createElement("tr");
      row.append(...cells.map((text) => {
        const cell = document.createElement("td");
        cell.textContent = text;
        cell.className = text;
        return cell;
      }));
      return row;
    }));
  }
  async function refresh() {
    const now = await (await fetch("/stats")).json();
    fill("shards", [["shard", "state", "latency", "received"], ...now.shards]);
    fill("events", now.events);
  }
  refresh();
  setInterval(refresh, 1000);
</script>
</html>
"""

app = Flask(__name__)
gateway = Gateway(api_url=API)
events = Counter()
started = threading.Lock()


@gateway.on()
def count(event):
    events[event.type] += 1


@app.before_request
def start_once():
    with started:
        if not gateway.shards:
            gateway.start()


@app.get("/")
def page():
    return PAGE


@app.get("/stats")
def stats():
    rows = []
    for shard in gateway.stats().shards.values():
        latency = "-" if shard.latency is None else f"{shard.latency * 1000:.0f} ms"
        rows.append([shard.id, shard.state, latency, f"{shard.received_bytes / 1000:.1f} kB"])
    return jsonify(shards=rows, events=events.copy().most_common(10))
