"""`--set`: a row with other values in some of its fields."""

import json
from collections.abc import Sequence
from typing import Any

from piip.options import UsageError
from piip.spec import ExperimentSpec


def overridden(row: ExperimentSpec, given: Sequence[str]) -> ExperimentSpec:
    """A row changed as --set says.

    Raises:
        UsageError: It has no such field, or a value that the field does not take.
    """
    changes = dict(map(parse_override, given))
    try:
        return row.override(changes)
    except ValueError as error:
        raise UsageError(f"--set {', '.join(changes)}: {error}") from None


def parse_override(text: str) -> tuple[str, Any]:
    """`optim.lr=3e-4` -> ("optim.lr", 0.0003); what is no JSON value is taken as a word."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set takes NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, {"None": None, "True": True, "False": False}.get(value, value)
