"""The wheel, built from a copy of this tree, and a venv that holds it, what its metadata asks for, and nothing else.

Nothing is fetched: the packages of the tests' own venv are linked into the new one, those alone that the wheel's
requirements and chosen extras lead to. finf itself is installed from the wheel.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PACKAGES = ("finf_core", "flows", "tasks")
UV = Path(sys.executable).parent / "uv"


def build(folder: Path) -> list[Path]:
    """Source archive, and the wheel that is made of it. A copy is built: a build leaves files in its tree."""
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
    shutil.copytree(ROOT, folder / "tree", ignore=shutil.ignore_patterns(".git", *ignored))
    _uv("build", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder / "dist", folder / "tree")
    return sorted((folder / "dist").glob("finf-*"))


@dataclass(frozen=True)
class CleanVenv:
    folder: Path

    def run(self, *command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        """A program of the venv (`finf`, `python`), with nothing of this process' environment that leads to Python."""
        program = self.folder / "bin" / command[0]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment |= {"PREFECT_HOME": str(cwd / "prefect"), "HF_HUB_OFFLINE": "1"}
        return subprocess.run([program, *command[1:]], cwd=cwd, env=environment, capture_output=True, text=True)


def clean_venv(folder: Path, wheel: Path, *extras: str) -> CleanVenv:
    _uv("venv", "--quiet", "--python", sys.executable, folder)
    _uv("pip", "install", "--no-deps", "--python", folder / "bin" / "python", wheel)
    site = next(folder.glob("lib/python*/site-packages"))
    (finf,) = distributions(name="finf", path=[str(site)])
    for found in _needed(finf, {"", *extras}, set()):
        for top in {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(found.locate_file(top))
    return CleanVenv(folder)


def _needed(asking: Distribution, extras: set[str], seen: set[tuple[str, str]]) -> Iterator[Distribution]:
    """What a distribution asks for with these extras ("": without any), as found here, and what that asks for."""
    for text in asking.requires or []:
        wanted = Requirement(text)
        if not any(wanted.marker is None or wanted.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        name = canonicalize_name(wanted.name)
        found = asking if name == "finf" else distribution(name)
        new = {extra for extra in {"", *wanted.extras} if (name, extra) not in seen}
        seen |= {(name, extra) for extra in new}
        if new and name != "finf":
            yield found
        if new:
            yield from _needed(found, new, seen)


def _uv(*arguments: str | Path) -> None:
    subprocess.run([UV, "--quiet", "--offline", "--no-config", *arguments], check=True)
