"""What every spec is: frozen, typed, JSON-serialisable, changed by dotted names only."""

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

ALIKE = 0.8
"""Likeness of words (`_words`, 0 to 2.5) from which on a name may be meant."""


@dataclass(frozen=True)
class Added:
    """Marks a field that came later, so that rows written before keep their digest and their trials.

    `smoothing: Annotated[float, Added(0.0)] = 0.1`: while it is 0.0, which does what was done before there was the field, the digest
    leaves it out. The default may be another value.
    """

    before: Any


class DecidesNoNumber:
    """Marks a field that is for people or for the machine; no part of the digest: `label: Annotated[str, DecidesNoNumber()]`."""


class Spec(BaseModel):
    """Base of every spec: frozen, keyword-only, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def override(self, changes: dict[str, Any]) -> Self:
        """A validated copy with dotted fields replaced, e.g. `{"optim.lr": 3e-4, "model.backbone.branches.0.resolution": 1568}`.

        Raises:
            ValueError: A name is not a field (the nearest one is named), or a value is refused.
        """
        tree = self.model_dump(mode="json")
        for path, value in changes.items():
            node: Any = tree
            holder: Any = None
            leaf: str | int = path
            for key in path.split("."):
                holder, leaf = node, key
                if isinstance(node, list) and key.isdigit() and int(key) < len(node):
                    node = node[int(key)]
                elif isinstance(node, dict) and key in node:
                    node = node[key]
                else:
                    raise ValueError(f"no field {path!r} in {type(self).__name__}.{_nearest(path, self)}")
            holder[int(leaf) if isinstance(holder, list) else leaf] = value
        try:
            return self.model_validate_json(to_json(tree))
        except ValidationError as error:
            raise ValueError(f"override {changes} refused. {'; '.join(map(_problem, error.errors()))}") from None

    def flat(self) -> dict[str, Any]:
        """Dotted leaves, as MLflow params, the command line and Tune name them."""
        leaves: dict[str, Any] = {}

        def walk(prefix: str, node: Any) -> None:
            children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
            if children is None:
                leaves[prefix] = node
                return
            for key, child in children:
                walk(f"{prefix}.{key}" if prefix else str(key), child)

        walk("", self.model_dump(mode="json"))
        return leaves

    def identity(self) -> dict[str, Any]:
        """The fields that decide numbers, as JSON; what the digest is made of. See `Added` and `DecidesNoNumber`."""
        plain = self.model_dump(mode="json")
        return {
            name: _identity(getattr(self, name), plain[name])
            for name, field in type(self).model_fields.items()
            if not any(
                isinstance(mark, DecidesNoNumber) or (isinstance(mark, Added) and mark.before == getattr(self, name))
                for mark in field.metadata
            )
        }


class HeadSpec(Spec):
    """What all heads say of themselves."""

    learns_masks: ClassVar[bool] = False
    """Whether training needs the masks of objects, not boxes alone."""
    samples: ClassVar[bool] = False
    """Whether it samples maps at places that it learns, by an operator that `speed.kernel` chooses."""

    @property
    def files(self) -> dict[str, str]:
        """Files of weights that it starts from: field -> path or public name."""
        return {}

    @property
    def learned_keypoints(self) -> int:
        """Keypoints of an object that training needs; 0: none."""
        return 0

    @classmethod
    def words(cls) -> str:
        """What it is, for who reads a list: the first line of its class's docstring."""
        return (cls.__doc__ or cls.__name__).partition("\n")[0].removesuffix(".")


def _identity(value: Any, plain: Any) -> Any:
    """A field's value, specs inside it by what they say of themselves."""
    if isinstance(value, Spec):
        return value.identity()
    return [_identity(v, p) for v, p in zip(value, plain, strict=True)] if isinstance(value, tuple) else plain


def to_json(tree: Any) -> str:
    """One line of JSON."""
    return json.dumps(tree)


def _problem(error: Any) -> str:
    """One finding of pydantic in a few words: our own validators' as they are, its own with what was given."""
    where = ".".join(map(str, error["loc"]))
    field = f"{where}: " if where else ""  # a finding about the whole spec has no place
    if error["type"] == "value_error":
        return f"{field}{error['ctx']['error']}"
    return f"{field}{error['msg']} (got {error['input']!r})"


def _nearest(path: str, spec: Spec) -> str:
    """The end of an error message: the field that `path` most likely means, if any is like it, and what else is in its section."""
    names = list(spec.flat())
    nearest = max(names, key=lambda name: (_likeness(path, name), name))
    alike = _words(path, nearest) >= ALIKE
    section = nearest.rpartition(".")[0] if alike else _section(path, names)
    prefix = f"{section}." if section else ""
    fields = dict.fromkeys(name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix))
    said = f" Nearest: {nearest!r}." if alike else ""
    return f"{said} Fields{section and f' of {section}'}: {', '.join(fields)}"


def _section(path: str, names: Sequence[str]) -> str:
    """The innermost section that `path` begins with and that there is; empty: none."""
    sections = (path.rsplit(".", words)[0] for words in range(1, path.count(".") + 1))
    return next((section for section in sections if any(name.startswith(f"{section}.") for name in names)), "")


def _likeness(path: str, name: str) -> float:
    """How likely `path` means the field `name`, rather than another one: an equal section counts, too."""
    return _words(path, name) + 0.5 * (path.rpartition(".")[0] == name.rpartition(".")[0])


def _words(path: str, name: str) -> float:
    """How much the words of `path` are those of the field `name`: the last one of both, and the whole."""
    path = path.lower()
    word, its_word = path.rpartition(".")[2], name.rpartition(".")[2]
    pair = sorted((word, its_word), key=len)
    # lr of learning_rate, batch of batch_size, epochs of num_epochs
    short_form = len(pair[0]) > 1 and (pair[0] in pair[1] or pair[0] == "".join(p[:1] for p in pair[1].split("_")))
    words = 1.0 if word == its_word else 0.9 if short_form else _ratio(word, its_word)
    return words + 0.5 * _ratio(path, name) + path.startswith(f"{name}.")


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
