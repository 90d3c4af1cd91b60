"""An attack's settings: what a budget chose, overridden by a file, then by the command line."""

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import msgspec

from deepfusion_edge.errors import InputError, UsageError
from deepfusion_toolkit.attacks import Settings
from deepfusion_toolkit.files import MALFORMED
from deepfusion_toolkit.names import PARTS


def chosen(args: argparse.Namespace, settings: Settings) -> Settings:
    """Override what a budget chose.

    Raises:
        InputError: the file is missing, no JSON object, or has an unknown name or a wrong type.
        UsageError: a value breaks a rule.
    """
    given = _read(args.config) if args.config else {}
    if args.passes is None and args.steps is not None:
        # the option was the budget, in rounds over all surrogates, and wins over the file's updates
        given.pop("steps", None)
        args = argparse.Namespace(**{**vars(args), "steps": None})
    given |= {n: v for n in PARTS if (v := getattr(args, n, None)) is not None}
    return replace(settings, **given)


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, *MALFORMED) as error:
        raise InputError(
            f"configuration {path} cannot be read ({error})", "give a JSON object of parts"
        ) from error
    types = {f.name: f.type for f in fields(Settings)}
    given = {}
    for name, value in raw.items():
        key = name.replace("-", "_")
        if key not in PARTS:
            raise UsageError(
                f"{path}: there is no part '{name}'", f"parts are {', '.join(sorted(PARTS))}"
            )
        try:
            given[key] = msgspec.convert(value, types[key], strict=True)
        except msgspec.ValidationError as error:
            raise InputError(f"{path}: {name}: {error}", "correct the value") from error
    return given
