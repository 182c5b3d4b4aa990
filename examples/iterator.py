"""A script: take events in a loop, stop when there are enough."""

from collections import Counter

from crux_sync import Gateway

ENOUGH = 20

with Gateway() as gateway:
    seen = Counter()
    for event in gateway:
        seen[event.type] += 1
        if seen.total() >= ENOUGH:
            break

for name, count in seen.most_common():
    print(f"{count:4} {name}")
