"""Pages of the site that are made of the code, so that they cannot fall behind it."""

from collections.abc import Iterator
from importlib import import_module

import typer.main
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typing_extensions import is_protocol

import finf_core
from flows.cli import app
from flows.config_template import TEMPLATES

ERRORS = [
    f"finf_core.errors.{name}"
    for name in ("FinfError", "InputError", "CheckpointError", "StorageError", "CapacityError")
]


def commands() -> str:
    """What `finf COMMAND --help` says of each."""
    root: TyperGroup = typer.main.get_group(app)
    return "".join(_command(name, command) for name, command in root.commands.items())


def _command(name: str, command: TyperCommand) -> str:
    parameters = "\n".join(_parameters(command))
    return f"\n## `finf {name}`\n\n{command.help}\n\n{parameters}\n"


def _parameters(command: TyperCommand) -> Iterator[str]:
    for parameter in command.params:
        if isinstance(parameter, TyperOption):
            names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
            yield f"- {names}: {parameter.help}{_default(parameter)}"
        elif isinstance(parameter, TyperArgument):
            yield f"- `{(parameter.name or '').upper()}`: {parameter.help}{_default(parameter)}"


def _default(parameter: TyperArgument | TyperOption) -> str:
    return f" Default: `{parameter.default}`." if parameter.default not in (None, False, ...) else ""


def configs() -> str:
    return "".join(f"\n## `finf init {kind}`\n\n```toml\n{text}```\n" for kind, text in TEMPLATES.items())


def reference() -> str:
    """Public names of finf_core, from their docstrings."""
    public = [f"finf_core.{name}" for name in finf_core.__all__]
    parts = {
        "## Models of one's own": ["finf_core.adapter.Adapter"],
        "## Updates and scores": public,
        "## Errors": ERRORS,
    }
    return "".join(f"\n{heading}\n{_described(names)}" for heading, names in parts.items())


def _described(names: list[str]) -> str:
    return "\n```{eval-rst}\n" + "\n".join(_directive(*name.rsplit(".", 1)) for name in names) + "\n```\n"


def _directive(module: str, name: str) -> str:
    found = getattr(import_module(module), name)
    if isinstance(found, type):
        all_of_it = "   :undoc-members:\n" if is_protocol(found) else ""
        return f".. autoclass:: {module}.{name}\n   :members:\n{all_of_it}"
    return f".. autofunction:: {module}.{name}\n"


PAGES = {"docs/site/commands": commands, "docs/site/configs": configs, "docs/site/reference": reference}
