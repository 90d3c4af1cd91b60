"""What ``deepfusion-agent init`` writes: a commented configuration, a systemd unit, dashboards.

The configuration is made from the structs of ``config.py`` and their docstrings, so that it always
shows every key, its default and what it is for.
"""

import inspect
import json
import os
import re
import sys
import textwrap
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

import msgspec
from msgspec import NODEFAULT, Struct

from deepfusion_edge import __version__
from deepfusion_edge.config import AgentConfig
from deepfusion_edge.errors import StorageError, UsageError

CONFIG = "agent.toml"
UNIT = "deepfusion-agent.service"
SHARED = ("grafana-dashboard.json", "prometheus-alerts.yml")
UNSET = "(not set)"
_WIDTH = 96
_USER = re.compile(r"^[a-z_][a-z0-9_-]{0,30}$")

_HEAD = f"""\
# The configuration of deepfusion-agent {__version__}, in TOML.
# '# ' begins a comment. A key behind a bare '#' shows its default: take the '#' away to change it.
# Relative paths count from the folder of this file. Unknown keys are refused.
"""
_SAID = {
    "state_dir": "Where the installed bundle and the outbox live; the agent writes nowhere else.",
}
_ON = frozenset({"http"})
"""Sections that are optional, and written all the same."""

_BEGIN: Mapping[str, Any] = {
    "state_dir": "state",
    "sources": {"name": "camera1", "path": "frames", "mode": "watch"},
}


def write_start(folder: Path, *, user: str) -> list[Path]:
    """Write everything that a new line needs into ``folder``; nothing is overwritten.

    Returns:
        The files, the configuration first.

    Raises:
        UsageError: one of the files is there already, or the user's name is no user's name.
        StorageError: the folder cannot be written.
    """
    if _USER.match(user) is None:
        raise UsageError(f"--user {user!r} is no user name", "use small letters, digits and '-'")
    folder = folder.absolute()
    if not str(folder).isprintable():
        raise UsageError("the folder's name has a control character", "choose another folder")
    name = re.sub(r"[^A-Za-z0-9_-]", "-", folder.name)[:100]
    texts = {CONFIG: configuration(name or "deepfusion-agent"), UNIT: unit(folder, user=user)}
    texts |= {name: shared(name) for name in SHARED}
    for name in texts:
        if os.path.lexists(folder / name):
            raise UsageError(f"{folder / name} is there already", "choose another folder")
    try:
        (folder / "frames").mkdir(parents=True, exist_ok=True)
        (folder / "state").mkdir(mode=0o700, exist_ok=True)
        for name, text in texts.items():
            with (folder / name).open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise StorageError(
            f"cannot write {folder}: {error.strerror or error}", "choose another folder"
        ) from error
    return [folder / name for name in texts]


def shared(name: str) -> str:
    """Read a file that ships with this package."""
    return (Path(__file__).parent / "share" / name).read_text(encoding="utf-8")


def unit(folder: Path, *, user: str) -> str:
    """Write the systemd unit for a line in ``folder``, run by the Python that runs this."""
    program = Path(sys.executable).with_name("deepfusion-agent")
    words = [program] if program.is_file() else [Path(sys.executable), "-m", "deepfusion_edge.cli"]
    values = {
        "USER": user,
        "STATE": _systemd(folder / "state"),
        "CONFIG": _systemd(folder / CONFIG),
        "UNIT": _systemd(folder / UNIT),
        "EXEC": " ".join(_systemd(word) for word in words),
    }
    return re.sub(r"@([A-Z]+)@", lambda match: values[match[1]], shared(UNIT))


def configuration(client_id: str = "deepfusion-agent") -> str:
    """Write a configuration that runs as it is: a watched folder, a broker on this device."""
    values = {**_BEGIN, "mqtt": {"client_id": client_id}}
    return "\n".join([_HEAD, *_fields(AgentConfig, (), values=values)]) + "\n"


def _fields(
    struct: type[Struct], path: tuple[str, ...], *, values: Mapping[str, Any], off: str = ""
) -> Iterator[str]:
    """Write keys first, then sub-sections, as TOML wants it; ``off`` comments them out."""
    said = {**_SAID, **_attributes(struct)}
    below = []
    for field in msgspec.structs.fields(struct):
        inner = _structs(field.type)
        if inner:
            below.append((field, inner))
            continue
        choices = _choices(field.type)
        one_of = f" One of: {', '.join(json.dumps(c) for c in choices)}." if choices[1:] else ""
        yield from _comment(said.get(field.name, "") + one_of)
        if field.name in values:
            yield f"{off}{field.name} = {_value(values[field.name])}"
        else:
            yield f"#{field.name} = {_default(field)}"
    for field, inner in below:
        given = values.get(field.name, {})
        if len(inner) > 1 or _is_list(field.type):
            yield from _kinds((*path, field.name), inner, given)
        else:
            here = "" if not off and (field.default is not None or field.name in _ON) else "#"
            yield from _table(inner[0], f"[{'.'.join((*path, field.name))}]", here)
            yield from _fields(inner[0], (*path, field.name), values=given, off=here)


def _kinds(
    path: tuple[str, ...], structs: list[type[Struct]], values: Mapping[str, Any]
) -> Iterator[str]:
    """Write one entry of a list for each kind; the first one stands there if it has values."""
    for at, struct in enumerate(structs):
        off = "#" * (at > 0 or not values)
        yield from _table(struct, f"[[{'.'.join(path)}]]", off)
        if struct.__struct_config__.tag is not None:
            yield f'{off}kind = "{struct.__struct_config__.tag}"'
        yield from _fields(struct, path, values={} if at else values, off=off)


def _table(struct: type[Struct], head: str, off: str) -> Iterator[str]:
    yield ""
    yield from _comment(_plain((inspect.getdoc(struct) or "").split("\n\n")[0]))
    yield f"{off}{head}"


def _default(field: msgspec.structs.FieldInfo) -> str:
    value = field.default
    if value is NODEFAULT and field.default_factory is not NODEFAULT:
        value = field.default_factory()
    return UNSET if value is None or value is NODEFAULT else _value(value)


def _structs(annotation: object) -> list[type[Struct]]:
    """Find the sections that a type names: itself, optional, or several kinds in a list."""
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return [annotation]
    return [found for part in typing.get_args(annotation) for found in _structs(part)]


def _is_list(annotation: object) -> bool:
    kind = typing.get_origin(annotation)
    return kind is tuple or (kind is typing.Annotated and _is_list(typing.get_args(annotation)[0]))


def _choices(annotation: object) -> list[Any]:
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    parts = [part for part in typing.get_args(annotation) if part is not NoneType]
    found = [_choices(part) for part in parts if typing.get_origin(part) is not None]
    return found[0] if len(found) == 1 else []


def _attributes(struct: type[Struct]) -> dict[str, str]:
    """Read the ``Attributes:`` of a docstring; a text for several names belongs to the first."""
    section = (inspect.getdoc(struct) or "").partition("Attributes:\n")[2]
    items = re.split(r"\n(?=\w+(?:, \w+)*: )", textwrap.dedent(section))
    found = {}
    for item in items:
        names, _, text = item.partition(": ")
        several = names.split(", ")
        found[several[0]] = _plain(f"{names}: {text}" if len(several) > 1 else text)
    return found


def _plain(text: str) -> str:
    marked = re.sub(r":\w+:`([^`]*)`|``([^`]*)``", r"\1\2", text)
    return " ".join(re.sub(r"\bNone\b", "not set", marked).split())


def _comment(text: str) -> Iterator[str]:
    yield from textwrap.wrap(text.strip(), _WIDTH, initial_indent="# ", subsequent_indent="# ")


def _value(value: object) -> str:
    """Spell a value in TOML, which writes these as JSON does."""
    return json.dumps(list(value) if isinstance(value, (tuple, frozenset)) else value)


def _systemd(word: object) -> str:
    """Quote a word for a unit file."""
    text = str(word).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return text if re.fullmatch(r"[\w@%+=:,./-]+", text) else f'"{text}"'
