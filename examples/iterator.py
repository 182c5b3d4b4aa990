"""A script: take events in a loop, stop when there are enough."""

import os
from collections import Counter

from crux_sync import Gateway

API = os.environ.get("DISCORD_API_URL", "https://discord.com/api/v10")

ENOUGH = 20

with Gateway(api_url=API) as gateway:
    seen = Counter()
    for event in gateway:
        seen[event.type] += 1
        if seen.total() >= ENOUGH:
            break

for name, count in seen.most_common():
    print(f"{count:4} {name}")
