"""The last complete run of each name in a store: what the next one of that name is compared with."""

import json

from finf_core.errors import InputError
from tasks import storage


def latest_run(store: str, kind: str, name: str) -> str | None:
    """The folder of the run that was last complete; None where there was none.

    Raises:
        InputError: what lies there names no run.
    """
    uri = _uri(store, kind, name)
    if not storage.exists(uri):
        return None
    try:
        return str(json.loads(storage.read_bytes(uri))["run"])
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{uri}: names no run; delete it") from error


def publish_latest(store: str, kind: str, name: str, run_uri: str) -> None:
    storage.publish_bytes(_uri(store, kind, name), json.dumps({"run": run_uri}).encode())


def _uri(store: str, kind: str, name: str) -> str:
    return storage.join(store, "latest", f"{kind}-{name}.json")
