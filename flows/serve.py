"""`finf serve`: a deployment of one config that waits for its schedule in this process."""

import asyncio
import os
import signal
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

from prefect._vendor.croniter.croniter import croniter
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.runner import Runner
from prefect.schedules import Cron, Interval, Schedule
from prefect.settings import PREFECT_API_URL
from prefect.types.entrypoint import EntrypointType

from finf_core.errors import InputError
from flows.notify import load_notifier
from flows.scheduled import scheduled_run
from flows.stop import SIGTERM_EXIT_CODE, StoppedError
from tasks.config import read_config
from tasks.options import make_options

STOP_SECONDS = 30  # between SIGTERM and the end of the process, at most


def serve(
    config: str,
    name: str,
    cron: str | None,
    every_seconds: float | None,
    timezone: str,
    parameters: dict[str, Any],
) -> None:
    """Create or update the deployment `finf/NAME` and run it when it is due; ends with the process.

    One run at a time: one that is due while the last still runs is cancelled, not queued.

    Args:
        parameters: of `flows.scheduled.scheduled_run`, beside the config.

    Raises:
        InputError: whatever would fail in the night fails now: config, options, schedule, notifiers.
    """
    if not PREFECT_API_URL.value():
        raise InputError("finf serve wants a Prefect server: `prefect server start`, and its URL in PREFECT_API_URL")
    schedule = make_schedule(cron, every_seconds, timezone)
    spec = read_config(config)
    notifiers, options = parameters.get("notify", []), {k: v for k, v in parameters.items() if k != "notify"}
    make_options(**options)
    for notifier in notifiers:
        load_notifier(notifier)
    deployment = cast(
        RunnerDeployment,
        scheduled_run.to_deployment(
            name=name,
            schedule=schedule,
            parameters={"config": absolute(config), **parameters, "store": absolute(parameters["store"])},
            description=f"{spec.kind} {spec.name}: {config}",
            tags=["finf", spec.kind],
            concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
            entrypoint_type=EntrypointType.MODULE_PATH,
        ),
    )
    runner = ServingRunner(name=name, pause_on_shutdown=True)
    runner.add_deployment(deployment)
    print(f"serving finf/{name}: {cron or f'every {every_seconds:g} s'}; it ends with this process", file=sys.stderr)
    try:
        asyncio.run(runner.start())
    except KeyboardInterrupt as stop:
        raise StoppedError from stop


class ServingRunner(Runner):
    """Ends on SIGTERM as it does on Ctrl-C: schedules are paused, runs in flight are ended and go on another time.

    (Prefect 3.8's own handler calls a coroutine that nobody awaits, and the process stays.)
    """

    def handle_sigterm(self, *_: object, **__: object) -> None:
        end = threading.Timer(STOP_SECONDS, os._exit, (SIGTERM_EXIT_CODE,))  # whatever a run in flight still does
        end.daemon = True
        end.start()
        signal.raise_signal(signal.SIGINT)


def make_schedule(cron: str | None, every_seconds: float | None, timezone: str) -> Schedule:
    """Raises InputError: none or two of them, or a time that never comes (Prefect takes `61 * * * *`)."""
    if every_seconds is not None and cron is None:
        return Interval(timedelta(seconds=every_seconds))
    if cron is None or every_seconds is not None:
        raise InputError('finf serve wants --cron "0 2 * * *" or --every SECONDS, one of the two')
    if not croniter.is_valid(cron):  # type: ignore[no-untyped-call]
        raise InputError(f"--cron {cron!r}: no such time; want minute, hour, day, month, weekday, as in '0 2 * * *'")
    try:
        ZoneInfo(timezone)
    except (KeyError, ValueError, OSError) as error:
        raise InputError(f"--timezone {timezone!r}: want a name such as Europe/Berlin") from error
    return Cron(cron, timezone=timezone)


def absolute(place: str) -> str:
    """A path that stays right wherever the run is started."""
    return place if "://" in place else str(Path(place).resolve())
