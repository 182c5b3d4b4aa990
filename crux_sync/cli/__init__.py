"""``crux-sync``: demo, listen, info, simulate.

Exit status: 0 done; 1 something failed, told in one line; 2 wrong usage; 3 the token was refused or an intent is not
granted.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from ..errors import AuthenticationFailed, CruxError, DisallowedIntents
from ..version import __version__
from . import demo, info, listen, simulate

#: What to do about an error, beyond what its message says.
HINTS: dict[type[BaseException], str] = {
    AuthenticationFailed: "the token is read from the environment variable DISCORD_TOKEN",
    DisallowedIntents: "enable it at https://discord.com/developers/applications under Bot, or give other --intents",
}


def create_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="crux-sync", description="The Discord gateway for threads.", epilog=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (__doc__ or "").split("\n\n", 1)[1]
    parser.add_argument("--version", action="version", version=f"crux-sync {__version__}")
    parser.add_argument("--debug", action="store_true", help="log everything, show tracebacks")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (demo, listen, info, simulate):
        command.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    options = create_parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.debug else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        status: int = options.run(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone: `crux-sync listen | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (CruxError, ImportError, OSError, ValueError) as error:
        if options.debug:
            raise
        hint = next((text for kind, text in HINTS.items() if isinstance(error, kind)), "")
        print(f"crux-sync: {error}{f' ({hint})' if hint else ''}", file=sys.stderr)
        return 3 if isinstance(error, AuthenticationFailed | DisallowedIntents) else 1
