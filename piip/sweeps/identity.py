"""One name for one outcome: a trial's key. The same key is the same trial anywhere, whatever is refactored around it.

It is the digest of
    spec      all fields that decide numbers (`ExperimentSpec.digest`), and what they mean: the values of the specs' properties
    data      digests of the training and the validation split
    weights   digests of the files it starts from
    code      what this spec builds (piip/record/code.py)
    eval      how many images are scored
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from piip import home
from piip.record.code import code_digest
from piip.spec import ExperimentSpec, Spec
from piip.training.start import digest_of, files_of


def trial_key(
    spec: ExperimentSpec, data: Mapping[str, str], *, fresh: bool = False, max_eval_images: int | None = None
) -> str:
    """The key of a trial, with the number of its take.

    Args:
        spec: With as many classes as the data has.
        data: Tags of the data (see `plan.data_tags`); their digests count, their places do not.
        fresh: Start another take.
        max_eval_images: Score these only.

    Raises:
        WeightsError: A file it starts from is not there.
    """
    parts: dict[str, object] = {
        "spec": spec.digest,
        "meaning": dict(meaning(spec)),
        "code": code_digest(spec),
        "data": [data["data.train.digest"], data["data.val.digest"]],
        "eval": max_eval_images,
    }
    if given := files_of(spec.model):
        parts["weights"] = {field: digest_of(file) for field, file in given.items()}
    base = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    # --fresh starts another take of a trial; a later call without it goes on with the latest one
    take = 1
    while home.journal_dir(f"{base}-{take + 1}").exists():
        take += 1
    if fresh and home.journal_dir(f"{base}-{take}").exists():
        take += 1
    return f"{base}-{take}"


def meaning(spec: Spec, prefix: str = "") -> Iterator[tuple[str, str]]:
    """What specs compute from their fields and code acts on (a head's wish, a branch's family), as `path: value`."""
    own = (
        name for name in dir(type(spec)) if isinstance(getattr(type(spec), name), property) and name not in dir(Spec)
    )
    for name in own:
        if name != "digest" and not isinstance(value := getattr(spec, name), Spec):
            yield f"{prefix}{name}", _said(value)
    for name in type(spec).model_fields:
        value = getattr(spec, name)
        parts = enumerate(value) if isinstance(value, tuple) else [("", value)]
        for index, part in parts:
            if isinstance(part, Spec):
                yield from meaning(part, f"{prefix}{name}{index}.")


def _said(value: Any) -> str:
    """A value in words; of a data class only fields that are not at their default, so that a new one changes no key."""
    if not is_dataclass(value) or isinstance(value, type):
        return repr(value)
    given = {f.name: getattr(value, f.name) for f in fields(value) if getattr(value, f.name) != f.default}
    return f"{type(value).__name__}({given})"
