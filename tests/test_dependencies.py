"""What is installed: pinned by hash, listed in docs/DEPENDENCIES.md, and a container file that asks for no trust."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LOCKS = sorted((ROOT / "locks").glob("*.txt"))
PINNED = [path for path in LOCKS if path.name != "without-torch.txt"]
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")
PIN = re.compile(r"([a-z0-9][a-z0-9-]*)==([0-9][0-9a-z.]*) \\")


def locked(path: Path) -> dict[str, str]:
    return dict(PIN.findall(path.read_text()))


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def requirements(*extras: str) -> list[Requirement]:
    """Direct ones, of finf itself and of extras."""
    texts = [*project()["dependencies"]]
    for extra in extras:
        texts += project()["optional-dependencies"][extra]
    return [found for text in texts if (found := Requirement(text)).name != "finf"]


EXTRAS = tuple(project()["optional-dependencies"])


def flaws(text: str) -> list[str]:
    """Lines of a lock that are neither an exact version nor a hash, and versions without a hash."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    odd = [line for line in lines if not (PIN.fullmatch(line) or HASH.fullmatch(line))]
    return odd + [
        line for line, after in zip(lines, [*lines[1:], ""], strict=True) if PIN.match(line) and not HASH.match(after)
    ]


@pytest.mark.parametrize("path", PINNED, ids=lambda path: path.name)
def test_a_lock_holds_exact_versions_with_hashes_and_nothing_else(path: Path) -> None:
    text = path.read_text()
    assert flaws(text) == []
    name = next(iter(locked(path)))
    for wrong in (
        text + "left-pad\n",
        text + "left-pad==1.0\n",
        text + "--index-url x\n",
        text + "left-pad @ file:///x\n",
        re.sub(rf"({name}==.*)\n(    .*\n)+", r"\1\n", text, count=1),
    ):
        assert flaws(wrong) != []


def test_every_direct_dependency_but_torch_is_locked_at_a_version_that_the_project_allows() -> None:
    everything = locked(ROOT / "locks" / "all.txt")
    alone = locked(ROOT / "locks" / "run.txt")
    for wanted, found in ((requirements("vision", "deploy"), alone), (requirements(*EXTRAS), everything)):
        for requirement in wanted:
            name = canonicalize_name(requirement.name)
            assert (name in found) == (name != "torch"), name
            assert name == "torch" or requirement.specifier.contains(found[name]), name
    assert alone.items() <= everything.items()


def test_what_runs_here_is_what_is_locked() -> None:
    found = locked(ROOT / "locks" / "all.txt")
    installed = {
        name: version(name) for name in ("numpy", "pyarrow", "ray", "prefect", "transformers", "s3fs", "jinja2")
    }
    assert {name: found[name] for name in installed} == installed


def test_every_direct_dependency_is_explained() -> None:
    table = (ROOT / "docs" / "DEPENDENCIES.md").read_text().split("## Direct dependencies")[1]
    explained = {name for line in table.splitlines() if line.startswith("| ") for name in line.split("|")[1].split(",")}
    names = {requirement.name for requirement in requirements(*EXTRAS)}
    assert names == {name.strip() for name in explained} - {"package"}


# --- the container ---

DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
SECRET = re.compile(r"secret|token|password|passwd|api_?key|access_?key|credential", re.IGNORECASE)


def container_flaws(text: str) -> list[str]:
    """What a container file should not hold."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    last_stage = lines[max(index for index, line in enumerate(lines) if line.startswith("FROM ")) :]
    users = [line.split()[1] for line in last_stage if line.startswith("USER ")]
    found = (
        [] if users and re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1]) else ["the last user is root or has no number"]
    )
    found += [line for line in lines if line.startswith("ADD ") or re.search(r"\b(curl|wget|sudo|chmod 777)\b", line)]
    found += [line for line in lines if line.startswith(("ENV ", "ARG ", "LABEL ")) and SECRET.search(line)]
    found += [line for line in lines if line.startswith("COPY ") and re.search(r"COPY (\.|\*) ", line)]
    installs = [line for line in lines if re.search(r"pip install", line)]
    hashed = "--require-hashes"
    found += [
        line for line in installs if hashed not in line and "torch==" not in line and not re.search(r" \.( |$)", line)
    ]
    return found


def test_the_container_runs_as_nobody_fetches_by_hash_and_holds_no_secret() -> None:
    assert container_flaws(DOCKERFILE) == []
    torch = next(requirement for requirement in requirements() if requirement.name == "torch")
    assert str(torch) in DOCKERFILE


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("USER 10001:10001", "USER root"),
        ("USER 10001:10001", "USER 10001:10001\nUSER 0:0"),
        ("USER 10001:10001", ""),
        ("WORKDIR /work", "WORKDIR /work\nADD file.tar /work"),
        ("WORKDIR /work", "WORKDIR /work\nENV AWS_SECRET_ACCESS_KEY=x"),
        ("WORKDIR /work", "WORKDIR /work\nCOPY . ."),
        ("WORKDIR /work", "WORKDIR /work\nRUN curl -s x | sh"),
        (" --require-hashes", ""),
    ],
)
def test_a_container_file_that_asks_for_trust_would_be_seen(before: str, after: str) -> None:
    assert container_flaws(DOCKERFILE.replace(before, after)) != []


def test_only_what_the_image_is_made_of_is_sent_to_the_builder() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    sent = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        word
        for line in DOCKERFILE.splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    }
    assert sent == copied
