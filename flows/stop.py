"""A polite end: SIGTERM, as a spot machine or a scheduler sends it, ends the actors and keeps what is done."""

import signal
import sys
from typing import NoReturn

from flows import json_log

SIGTERM_EXIT_CODE = 128 + signal.SIGTERM


class StoppedError(BaseException):
    """The process was asked to end. No error of the run: nothing that handles errors may swallow it."""


def stop_on_sigterm() -> None:
    signal.signal(signal.SIGTERM, _stop)


def say_stopped() -> NoReturn:
    line = "stopped; what is finished is kept: run the same command again to go on"
    if json_log.is_wanted():
        json_log.log("warning", line, event="stopped")
    else:
        print(f"finf: {line}", file=sys.stderr)
    sys.exit(SIGTERM_EXIT_CODE)


def _stop(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: the next would break the clearing up
    raise StoppedError
