"""``crux-sync cluster``: gateways and workers of one bot over Redis."""

import argparse
import importlib
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError, CruxError
from ..intents import Intents
from ..signals import Interrupted, closing_signals
from .options import Commands, add_connection_options, count, intents, ssl_context, token

#: How often the live table is drawn anew, seconds.
REDRAW = 0.5


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("cluster", help="gateways and workers over Redis: run, worker, status, poison")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    run = actions.add_parser("run", help="a gateway process: as many as you like, anywhere")
    add_connection_options(run)
    run.add_argument("--intents", type=intents, default=Intents.default(), help="default, all, none, number or names")
    run.add_argument("--partitions", type=count, default=16, help="event streams; the same in each process")
    run.set_defaults(run=telling(run_gateway))
    worker = actions.add_parser("worker", help="a worker process: a crux_sync.cluster.Worker of a module of yours")
    worker.add_argument("target", metavar="MODULE:WORKER")
    worker.set_defaults(run=telling(run_worker))
    status = actions.add_parser("status", help="shards, owners, lag, identifies left; live on a terminal")
    status.add_argument("--json", action="store_true", help="one JSON object, and that is all")
    status.set_defaults(run=telling(show_status))
    poison = actions.add_parser("poison", help="events that were begun too often and never finished")
    poison.add_argument("--retry", metavar="ID", help="put this one back")
    poison.add_argument("--drop", metavar="ID", help="forget this one")
    poison.set_defaults(run=telling(show_poison))
    for action in (run, status, poison):
        action.add_argument("--redis", default="redis://127.0.0.1:6379/0", metavar="URL", help="default: %(default)s")
        action.add_argument("--name", default="bot", help="what all processes of the bot call it (default: bot)")


def telling(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """``run``, with what Redis has to say as an error of ours: one line. Its url, which may hold a password, is not."""

    def told(options: argparse.Namespace) -> int:
        from ..cluster.client import RedisError

        try:
            return run(options)
        except RedisError as error:
            raise CruxError(f"Redis: {error}") from error

    return told


def run_gateway(options: argparse.Namespace) -> int:
    from ..cluster import ClusterGateway

    ClusterGateway(
        token(options.api_url),
        redis=options.redis,
        name=options.name,
        partitions=options.partitions,
        api_url=options.api_url,
        ssl_context=ssl_context(options),
        intents=options.intents,
    ).run()
    return 0


def run_worker(options: argparse.Namespace) -> int:
    from ..cluster import Worker

    module, _, attribute = options.target.partition(":")
    if not module or not attribute:
        raise ConfigurationError(f"{options.target!r} must be MODULE:WORKER, such as bot:worker")
    sys.path.insert(0, str(Path.cwd()))
    worker = getattr(importlib.import_module(module), attribute, None)
    if not isinstance(worker, Worker):
        raise ConfigurationError(f"{options.target!r} is no crux_sync.cluster.Worker, but {worker!r}")
    worker.run()
    return 0


def show_status(options: argparse.Namespace) -> int:
    from ..cluster.status import Observer

    with Observer(options.redis, name=options.name) as observer:
        if options.json:
            print(json.dumps(observer.look()))
        elif sys.stdout.isatty():
            show_live(observer)
        else:
            for line in lines(observer.look()):
                print(line)
    return 0


def show_live(observer: Any) -> None:
    from rich.live import Live
    from rich.text import Text

    with closing_signals(), Live(screen=False, auto_refresh=False) as live:
        try:
            while True:
                live.update(Text("\n".join(lines(observer.look()))), refresh=True)
                threading.Event().wait(REDRAW)
        except Interrupted:
            pass


def lines(found: dict[str, Any]) -> list[str]:
    """The status as text."""
    left = found["identifies_left"]
    text = [
        f"gateways {len(found['gateways'])}, workers {len(found['workers'])}, "
        f"identifies left {'unknown' if left is None else left}, poison {found['poison']}",
        f"{'shard':>6}  {'owner':32} {'handled':>12}",
    ]
    text += [f"{one['shard']:6}  {one['owner'] or '-':32} {one['handled'] or '-':>12}" for one in found["shards"]]
    text.append(f"{'part':>6}  {'worker':32} {'waiting':>12} {'in hand':>8}")
    text += [
        f"{one['partition']:6}  {one['owner'] or '-':32} {one['waiting']:12} {one['pending']:8}"
        for one in found["partitions"]
    ]
    return text


def show_poison(options: argparse.Namespace) -> int:
    from ..cluster import Poison

    poison = Poison(options.redis, name=options.name)
    try:
        for action, number in ((poison.retry, options.retry), (poison.drop, options.drop)):
            if number is not None and not action(number):
                raise ConfigurationError(f"there is no poison event {number!r}")
        if options.retry is None and options.drop is None:
            for number, tries, _, event in poison.list():
                print(f"{number}  {event.type}  shard {event.shard_id}  tried {tries} times  {event.size} bytes")
    finally:
        poison.close()
    return 0
