"""Plain classes that the tests of the pool put on Ray actors. They leave their traces as files in a folder."""

import os
import signal
import time
from pathlib import Path

from finf_core.errors import CheckpointError, InputError, StorageError


class Worker:
    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def ping(self) -> str:
        return "ready"

    def double(self, number: int) -> int:
        return 2 * number

    def mark(self, number: int) -> int:
        """Leave one file for every time a unit was finished; returns who did it."""
        time.sleep(0.01)
        self._count(f"done-{number}")
        return os.getpid()

    def mark_slowly(self, number: int) -> int:
        time.sleep(0.3)
        return self.mark(number)

    def nap(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    def num_threads(self, _: int) -> int:
        import torch

        return torch.get_num_threads()

    def hang_at_first(self, number: int) -> int:
        """Unit 3 writes down its process and waits to be killed, the first time."""
        if number == 3 and self._count("hung") == 1:
            (self.folder / "pid").write_text(str(os.getpid()))
            time.sleep(600)
        self._count(f"done-{number}")
        return number

    def die_of(self, word: str) -> str:
        if word == "poison":
            self._count("deaths")
            os.kill(os.getpid(), signal.SIGKILL)
        return word

    def fail_of(self, word: str) -> str:
        if word == "poison":
            self._count("deaths")
            raise ZeroDivisionError
        return word

    def fail_twice(self, number: int) -> int:
        """Unit 3 finds storage away two times."""
        if number == 3 and self._count("tries") <= 2:
            raise StorageError("s3://corpus/a.parquet: no answer")
        return number

    def fail(self, kind: str) -> None:
        self._count("tries")
        raise {
            "input": InputError("shard-7.parquet: row 3 is empty"),
            "checkpoint": CheckpointError("weights.safetensors: wrong shape"),
            "storage": StorageError("s3://corpus/a.parquet: no answer"),
            "foreign": ZeroDivisionError("by zero"),
            "unpicklable": UnpicklableError("no way home"),
        }[kind]

    def _count(self, name: str) -> int:
        """How many times this was called with this name, by any process."""
        with (self.folder / name).open("a") as file:
            file.write("x")
        return (self.folder / name).stat().st_size


class UnpicklableError(Exception):
    def __reduce__(self) -> str:
        raise TypeError("cannot be pickled")


class WithoutModel(Worker):
    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self._count("builds")
        raise CheckpointError("no-such-model: no config.json")


class Sleeper(Worker):
    """Its work and the loading of its model are known sleeps."""

    def __init__(self, folder: str, load_seconds: float) -> None:
        super().__init__(folder)
        (self.folder / f"loads-{os.getpid()}").write_text(str(time.monotonic()))
        time.sleep(load_seconds)

    def nap_here(self, seconds: float) -> int:
        self._count("begun")
        time.sleep(seconds)
        return os.getpid()


class Slow(Worker):
    """Storage is away twice while it is built."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        if self._count("builds") <= 2:
            raise StorageError("s3://models/config.json: no answer")


class Unlucky(Worker):
    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self._count("builds")
        raise RuntimeError("CUDA error: no kernel image")


class TooLarge(Worker):
    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self._count("builds")
        os.kill(os.getpid(), signal.SIGKILL)
