"""``crux-sync``: demo, listen, replay, info, simulate, cluster.

Exit status: 0 done (listen, replay, simulate and cluster also after Ctrl-C or SIGTERM); 1 something failed, told in one
line; 2 wrong usage; 3 the token was refused or an intent is not granted; 130 Ctrl-C in demo or info.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from ..errors import AuthenticationFailed, CruxError, DisallowedIntents
from ..version import __version__
from . import cluster, demo, info, listen, replay, simulate

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
    add_debug(parser, default=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (demo, listen, replay, info, simulate, cluster):
        command.add_parser(commands)
    for command_parser in commands.choices.values():
        add_debug(command_parser, default=argparse.SUPPRESS)  # before the command or after it
    return parser


def add_debug(parser: argparse.ArgumentParser, default: object) -> None:
    parser.add_argument("--debug", action="store_true", default=default, help="log everything, show tracebacks")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    options = create_parser().parse_args(arguments)
    set_up_logging(debug=options.debug)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone: `crux-sync listen | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if options.debug:
            raise
        print(f"crux-sync: {one_line(error)}", file=sys.stderr)
        return 3 if isinstance(error, AuthenticationFailed | DisallowedIntents) else 1


def one_line(error: Exception) -> str:
    """What was wrong, and what to do about it."""
    text = " ".join(str(error).split())
    if not isinstance(error, CruxError | ImportError | OSError | ValueError):
        return f"{type(error).__name__}: {text} (this should not happen; --debug shows where)"
    hint = next((hint for kind, hint in HINTS.items() if isinstance(error, kind)), "")
    return f"{text}{f' ({hint})' if hint else ''}"


def set_up_logging(*, debug: bool) -> None:
    """Everything with ``--debug``; else warnings, a line each."""
    handler = StderrHandler()
    if debug:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    else:
        handler.setFormatter(MessageOnly())
        # The gateway's own error is what the command ends with: told once.
        handler.addFilter(lambda record: record.name != "crux_sync.gateway" or record.levelno < logging.ERROR)
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, handlers=[handler])


class MessageOnly(logging.Formatter):
    """The message, without a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        return f"crux-sync: {record.getMessage()}{f': {error}' if error is not None else ''}"


class StderrHandler(logging.Handler):
    """Writes to what is stderr now: while a table is drawn, that is above the table."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)
