"""Some rows of the corpus, by number, each unit read once."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from tasks.bundles import Line
from tasks.corpus import CorpusRow, Unit, read_unit
from tasks.job import ScanJob
from tasks.keep_rows import unit_of_line
from tasks.loaded_model import LoadedModel


def read_rows(model: LoadedModel, job: ScanJob, lines: Iterable[Line]) -> Iterator[tuple[Unit, list[CorpusRow]]]:
    """The rows of lines that name a shard, a row and its unit; each once."""
    wanted: dict[Unit, set[int]] = defaultdict(set)
    for line in lines:
        wanted[unit_of_line(line)].add(line["row"])
    for unit, numbers in wanted.items():
        yield (
            unit,
            [row for group in read_unit(unit, job.spec.corpus, model.chat) for row in group if row.row in numbers],
        )
