"""People are told through notification blocks of Prefect: Slack, mail, PagerDuty, any webhook."""

from collections.abc import Sequence
from typing import Any

from prefect.blocks.core import Block
from prefect.logging import get_logger

from finf_core.errors import InputError


def load_notifier(name: str) -> Any:
    """Raises InputError: the server has no such block, or it notifies nobody."""
    try:
        block = Block.load(name)
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"--notify {name}: no such block on the Prefect server; want TYPE/NAME, as `prefect block ls` lists them"
        ) from error
    if not hasattr(block, "notify"):
        raise InputError(f"--notify {name}: a block of this type notifies nobody")
    return block


def notify(names: Sequence[str], subject: str, body: str) -> None:
    """A notifier that fails is logged: it undoes no run."""
    for name in names:
        try:
            load_notifier(name).notify(body, subject)
        except Exception as error:  # noqa: BLE001 (many services, many libraries)
            get_logger("finf").error("%s was not told of %r: %s", name, subject, error)
