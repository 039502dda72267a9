"""CONFIG.toml -> spec: every key known, every value of its type, or one line that says what is wrong."""

import dataclasses
import difflib
import math
import tomllib
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from finf_core.errors import InputError
from finf_core.spec import RunKind, ScanSpec
from tasks import storage
from tasks.filesystems import carries_credentials

KINDS = get_args(RunKind)

LARGEST = 2**63 - 1

T = TypeVar("T")


def read_config(place: str) -> ScanSpec:
    """A config at a path, or in storage (`s3://...`)."""
    if "://" not in place:
        return load_config(Path(place))
    try:
        return parse_config(tomllib.loads(storage.read_bytes(place).decode()), place)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not readable as TOML: {error}") from error


def load_config(path: Path, strategy: str | None = None) -> ScanSpec:
    """Read a config file of a scan.

    Args:
        strategy: in place of `strategy.kind`.

    Raises:
        InputError: not readable, not TOML, an unknown or missing key, or a value that does not fit; names the key.
    """
    table = read_toml(path, "`finf init scan` writes one")
    if strategy is not None:
        found = table.get("strategy", {})
        table["strategy"] = (found if isinstance(found, dict) else {}) | {"kind": strategy}
    return parse_config(table, str(path))


def parse_config(table: dict[str, Any], source: str) -> ScanSpec:
    """As `load_config`, from a table that was read already; `source` names it in errors."""
    kind = table.get("kind", "scan")
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"{source}: kind = {kind!r}; want one of {', '.join(KINDS)}")
    return parse_as(ScanSpec, table, source)


def read_toml(path: Path, hint: str) -> dict[str, Any]:
    """The table of a TOML file; `hint` says what to do when there is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such config file; {hint}") from error
    except (OSError, ValueError, RecursionError) as error:  # not only TOMLDecodeError: numbers of 5,000 digits, [[[[…
        raise InputError(f"{path}: not readable as TOML: {error}") from error


def parse_as(spec_type: type[T], table: dict[str, Any], source: str) -> T:
    """A table as a spec of this type.

    Raises:
        InputError: an unknown or missing key, or a value that does not fit; names the key.
    """
    _refuse_unknown_keys(table, spec_type, source, "")
    try:
        return TypeAdapter(spec_type).validate_python(table)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{source}: {key}: {first['msg']}") from error
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def _refuse_unknown_keys(table: dict[str, Any], spec_type: Any, source: str, prefix: str) -> None:
    types = get_type_hints(spec_type)
    known = [field.name for field in dataclasses.fields(spec_type)]
    for key, value in table.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"known keys: {', '.join(known)}"
            raise InputError(f"{source}: unknown key {prefix}{key}; {hint}")
        if flaw := _flaw(value):
            raise InputError(f"{source}: {prefix}{key} {flaw}")
        if isinstance(value, dict) and dataclasses.is_dataclass(types[key]):
            _refuse_unknown_keys(value, types[key], source, f"{prefix}{key}.")


def _flaw(value: Any) -> str | None:
    """Why no key can have this value, whatever its type."""
    if isinstance(value, int) and not -LARGEST <= value <= LARGEST:
        return "is a number of more than 64 bits"
    if isinstance(value, float) and not math.isfinite(value):
        return "is not a finite number"
    if isinstance(value, str) and carries_credentials(value):  # Prefect would keep it with the parameters of the run
        return "must not carry a user name or a password; use the environment or a profile"
    return "holds a null byte" if isinstance(value, str) and "\0" in value else None
