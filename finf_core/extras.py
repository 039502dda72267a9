"""Packages that only some runs need: the extras of pyproject.toml."""

from importlib import import_module
from typing import Any

from finf_core.errors import InputError


def import_extra(module: str, extra: str, what: str) -> Any:
    """A module of a package that is there only where the extra was installed.

    Args:
        what: the start of the error: "images need Pillow".

    Raises:
        InputError: it is not installed, or broken; names the extra.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(f"{what}: pip install 'finf[{extra}]' ({error})") from error
