"""Command-line values that several commands share."""

import argparse
import os
from typing import Any

from ..gateway import Gateway
from ..intents import Intents
from ..options import DEFAULT_API_URL, TOKEN_VARIABLE

Commands = Any  # argparse has no public name for what add_subparsers returns


def intents(text: str) -> Intents:
    """``default``, ``all``, ``none``, a number, or names joined by commas."""
    named = {"default": Intents.default(), "all": Intents.all(), "none": Intents.none()}
    if text.lower() in named:
        return named[text.lower()]
    if text.isdigit():
        return Intents(int(text))
    value = Intents.none()
    for name in text.split(","):
        try:
            value |= Intents[name.strip().upper()]
        except KeyError:
            raise argparse.ArgumentTypeError(
                f"{name!r} is no intent; there are default, all, none, {', '.join(one.lower() for one in ALL_NAMES)}"
            ) from None
    return value


ALL_NAMES = Intents.all().names()


def event_names(text: str) -> list[str]:
    """Event names joined by commas, in any case."""
    return [name.strip().upper() for name in text.split(",") if name.strip()]


def snowflake(text: str) -> int:
    """An id of Discord's."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no id: ids are numbers")
    return int(text)


def positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} must be more than 0")
    return value


def count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be 1 or more")
    return value


def add_connection_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--api-url", default=DEFAULT_API_URL, metavar="URL", help="another API, such as a simulator's")
    parser.add_argument("--ca-file", metavar="FILE", help="trust the authorities in this PEM file, and no others")


def token(api_url: str) -> str | None:
    """The environment's token; a simulator accepts ``test``."""
    given = os.environ.get(TOKEN_VARIABLE)
    return given if given or api_url == DEFAULT_API_URL else "test"


def create_gateway(options: argparse.Namespace, **settings: Any) -> Gateway:
    return Gateway(token(options.api_url), api_url=options.api_url, ssl_context=ssl_context(options), **settings)


def ssl_context(options: argparse.Namespace) -> Any:
    if not options.ca_file:
        return None
    import ssl

    return ssl.create_default_context(cafile=options.ca_file)
