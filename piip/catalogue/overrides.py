"""`--set` and `--views`: a row with other values in some of its fields."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator

from piip.options import UsageError
from piip.spec import ExperimentSpec
from piip.spec.views import ViewsSpec


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


def seen_in(row: ExperimentSpec, words: Sequence[str]) -> ExperimentSpec:
    """A row whose images evaluation sees as --views says: `flip`, `slices=640`, `scales=0.8,1,1.2`; without words: as it is.

    Raises:
        UsageError: It is no such view, or the row's kind of data has none.
    """
    if not words:
        return row
    if "views" not in type(row.data).model_fields:
        raise UsageError(f"--views: they are of detectors, and {row.name} is of {row.data.task}")
    try:
        return row.override({"data.views": ViewsSpec.of_words(words).model_dump(mode="json")})
    except ValueError as error:
        raise UsageError(f"--views {' '.join(words)}: {error}") from None


def view_word(text: str) -> str:
    """A word of `--views`: `flip`, or a field of `ViewsSpec` with its value.

    Raises:
        ValueError: It is no such field, or its value is refused.
    """
    ViewsSpec.of_words([text] if text.startswith("slices") else ["slices=640", text])
    return text


ViewWord = Annotated[str, AfterValidator(view_word)]
