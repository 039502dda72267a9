"""CONFIG.toml -> spec: every key known, every value of its type, or one line that says what is wrong."""

import dataclasses
import difflib
import tomllib
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from finf_core.errors import InputError
from finf_core.spec import ScanSpec

KINDS: dict[str, type[ScanSpec]] = {"scan": ScanSpec}


def load_config(path: Path) -> ScanSpec:
    """Read a config file.

    Raises:
        InputError: not readable, not TOML, an unknown or missing key, or a value that does not fit; names the key.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such config file; `finf init scan` writes one") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: not readable as TOML: {error}") from error
    return parse_config(table, str(path))


def parse_config(table: dict[str, Any], source: str) -> ScanSpec:
    """As `load_config`, from a table that was read already; `source` names it in errors."""
    kind = table.get("kind", "scan")
    if kind not in KINDS:
        raise InputError(f"{source}: kind = {kind!r}; want one of {', '.join(KINDS)}")
    _refuse_unknown_keys(table, KINDS[kind], source, "")
    try:
        return TypeAdapter(KINDS[kind]).validate_python(table)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{source}: {key}: {first['msg']}") from error
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def _refuse_unknown_keys(table: dict[str, Any], spec_type: type, source: str, prefix: str) -> None:
    types = get_type_hints(spec_type)
    known = [field.name for field in dataclasses.fields(spec_type)]
    for key, value in table.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"known keys: {', '.join(known)}"
            raise InputError(f"{source}: unknown key {prefix}{key}; {hint}")
        if isinstance(value, dict) and dataclasses.is_dataclass(types[key]):
            _refuse_unknown_keys(value, types[key], source, f"{prefix}{key}.")
