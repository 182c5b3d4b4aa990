"""``crux-sync info``: what ``GET /gateway/bot`` says."""

import argparse
from datetime import datetime, timedelta

from ..discovery import fetch_gateway
from ..options import Options
from .options import Commands, add_connection_options, ssl_context, token


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("info", help="shards recommended, identifies left, concurrency")
    add_connection_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    checked = Options().override({"token": token(options.api_url), "api_url": options.api_url})
    found = fetch_gateway(checked.api_url, checked.need_token(), verify=ssl_context(options) or True)
    limit = found.session_start_limit
    resets = datetime.now() + timedelta(seconds=limit.reset_after)
    when = f"renewed {resets:%Y-%m-%d %H:%M}" if limit.reset_after else "no window is running"
    print(f"gateway      {found.url}")
    print(f"shards       {found.shards} recommended")
    print(f"identifies   {limit.remaining} of {limit.total} left, {when}")
    print(f"concurrency  {limit.max_concurrency} at a time, each bucket once in 5 s")
    return 0
