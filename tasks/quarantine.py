"""Units that no actor could do: set aside by name, so that a run ends "complete except for" them, and says so.

<run>/quarantine/<unit>.json    the unit, and why; in the run's own folder, for another run may well score it
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

from finf_core.errors import FinfError
from tasks import storage
from tasks.bounded_map import bounded_map
from tasks.corpus import Unit
from tasks.job import ScanJob

READERS = 16
MAX_SHARE = 0.01  # of all units; more than these (and more than one) and something else is wrong


@dataclass(frozen=True)
class Quarantined:
    unit: Unit
    reason: str

    def place(self) -> dict[str, Any]:
        """As the report names it."""
        unit = self.unit
        last_row, last_group = unit.first_row + unit.num_rows - 1, unit.stop_group - 1
        rows, groups = f"{unit.first_row} to {last_row}", f"{unit.first_group} to {last_group}"
        return {
            "shard": unit.shard,
            "row_groups": groups if last_group > unit.first_group else str(last_group),
            "rows": rows,
            "num_rows": unit.num_rows,
            "reason": self.reason,
        }


class Quarantine:
    """What a run has set aside, as it is when this is made."""

    def __init__(self, job: ScanJob) -> None:
        self._job, self._fingerprint = job, job.fingerprint  # taken once: the whole spec goes into it
        self._folder = job.file("quarantine")
        self._names = storage.list_names(self._folder)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, unit: Unit) -> bool:
        return bool(self._names) and self._name(unit) in self._names

    def read(self) -> list[Quarantined]:
        """All of it, by shard and row."""
        uris = [storage.join(self._folder, name) for name in self._names]
        found = [_from_json(data) for data in bounded_map(storage.read_bytes, uris, READERS, 2 * READERS)]
        return sorted(found, key=lambda each: (each.unit.shard, each.unit.first_row))

    def add(self, unit: Unit, reason: str, num_units: int) -> None:
        """Set a unit aside.

        Raises:
            FinfError: too many of the run's `num_units` are.
        """
        self._names.add(self._name(unit))
        if len(self) > max(1, MAX_SHARE * num_units):
            raise FinfError(f"{len(self)} of {num_units} units could not be done, too many to go on without: {reason}")
        data = json.dumps(asdict(Quarantined(unit, reason))).encode()
        storage.publish_bytes(storage.join(self._folder, self._name(unit)), data)

    def release(self) -> None:
        """Have another try at all of it; what was concluded without it goes."""
        job = self._job
        if self._names:
            concluded = [job.totals_uri, job.candidates_uri, job.shown_uri, job.suspects_uri]
            concluded += [job.groups_uri, job.memorized_uri]
            for uri in (job.file("report.json"), *concluded):
                storage.remove(uri)
        for name in self._names:
            storage.remove(storage.join(self._folder, name))

    def _name(self, unit: Unit) -> str:
        return unit.name(self._fingerprint).replace(".parquet", ".json")


def _from_json(data: bytes) -> Quarantined:
    found = json.loads(data)
    return Quarantined(Unit(**found["unit"]), found["reason"])
