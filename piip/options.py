"""What options of verbs may be, and how a command line that is wrong by its words alone is refused. Imports nothing heavy."""

import os
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints
from urllib.parse import quote

import tyro
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

NAME_LENGTH = 250
"""Characters of a name that becomes a folder's; file systems take 255 bytes."""
PACK = "pack.json"
"""What a folder that `piip data pack` made has in it; what is packed there, nobody sees before it is opened."""


class UsageError(ValueError):
    """A command line that is wrong by its words alone: one line that names the option, exit code 2."""


def checked(options: Any) -> None:
    """Refuse values that the types of the fields rule out (`Count`, `Share`, ..).

    Args:
        options: A dataclass of a verb's options.

    Raises:
        UsageError: Names the option, what was given and what is wanted.
    """
    hints = get_type_hints(type(options), include_extras=True)
    for field in fields(options):
        value = getattr(options, field.name)
        try:
            TypeAdapter(hints[field.name]).validate_python(value)
        except ValidationError as error:
            first = error.errors()[0]
            reason = first["msg"].removeprefix("Value error, ")
            raise UsageError(f"{as_typed(field.name, hints[field.name])} {_shown(first['input'])}: {reason}") from None


def refuse_values(options: type[Any], arguments: Sequence[str]) -> None:
    """Refuse `--fresh=false`: a switch is typed or left out, and tyro would take any value of it for yes.

    Args:
        options: A dataclass of a verb's options.
        arguments: The command line.

    Raises:
        UsageError: Names the switch.
    """
    switches = {
        f"{no}{field.name.replace('_', '-')}"
        for field in fields(options)
        if field.type is bool
        for no in ("--", "--no-")
    }
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if equals and name.replace("_", "-") in switches:
            raise UsageError(f"{name} {_shown(value)}: it takes no value; type {name}, or leave it out")


def as_typed(field: str, hint: Any) -> str:
    """As a person types it; of what is known by its place, the word that --help has for it."""
    notes = getattr(hint, "__metadata__", ())
    if tyro.conf.Positional not in notes:
        return f"--{field.replace('_', '-')}"
    word = next((note.metavar for note in notes if getattr(note, "metavar", None)), field.upper())
    return re.sub(r"^\[|[ \]].*$", "", word)


def experiment_name(name: str) -> str:
    """A name that MLflow, and a folder of reports, may have.

    Raises:
        ValueError: It is empty, has control characters, or is too long.
    """
    if not name.strip() or not name.isprintable():
        raise ValueError("a name of an experiment has letters, and none that cannot be seen")
    if name.strip(".") == "":
        raise ValueError("dots alone name no folder for its reports")
    if (length := len(quote(name, safe=" "))) > NAME_LENGTH:
        raise ValueError(
            f"a name of an experiment names the folder of its reports, too: {length} characters there (%xx for what is no letter "
            f"of ASCII), at most {NAME_LENGTH} fit"
        )
    return name


def split_name(name: str) -> str:
    """A name of a data split: a part of MLflow's names of its figures, and a folder.

    Raises:
        ValueError: It could not be both, or its figures would pass for others.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_ .-]{0,99}", name):
        raise ValueError(
            "a split's name has at most 100 letters of ASCII, digits and _ - . space, the first one a letter, a digit or _: test"
        )
    if name == "best":
        raise ValueError(
            "a split's name has at most 100 letters and is not 'best', which the best figures so far are logged under"
        )
    return name


def _run_id(text: str) -> str:
    if not re.fullmatch(r"[\w-]{1,64}", text, re.ASCII):
        raise ValueError("an id of a run is of letters and digits, as the sweep's table and MLflow's pages show it")
    return text


def _folder(path: Path) -> Path:
    for place in (path, *path.parents):
        if len(place.name.encode()) > 255:
            raise ValueError(f"the name {_shown(place.name)} is too long for a folder: at most 255 bytes")
        if place.exists() and not place.is_dir():
            raise ValueError(f"{_shown(place)} is a file, a folder is wanted")
    return path


def _new_file(path: Path) -> Path:
    _folder(path.expanduser().parent)
    if len(path.name.encode()) > 240:  # what is being made has a longer one
        raise ValueError(f"the name {_shown(path.name)} is too long for a file: at most 240 bytes")
    if path.expanduser().is_dir() or not path.name:
        raise ValueError("is a folder, a file is wanted")
    return path


def given_file(path: Path) -> Path:
    """A file that is there.

    Raises:
        ValueError: It is not, or is a folder.
    """
    _there(path, "file")
    if path.expanduser().is_dir():
        raise ValueError("is a folder, a file is wanted")
    return path


def _given_folder(path: Path) -> Path:
    _there(path, "folder")
    if path.expanduser().is_file():
        raise ValueError("is a file, a folder is wanted")
    return path


def _there(path: Path, what: str = "file or folder") -> Path:
    place = path.expanduser()
    in_pack = (os.path.isfile(folder / PACK) for folder in place.absolute().parents)
    if not os.path.exists(place) and not any(in_pack):  # of os.path: no name is too long for it
        raise ValueError(f"no such {what}")
    return path


def _digest(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{1,64}", text):
        raise ValueError("a SHA-256 has up to 64 digits 0-9 a-f")
    return text


Count = Annotated[int, Field(ge=1)]
"""How many there are of something that must be."""
CountOrNone = Annotated[int, Field(ge=0)]
"""How many there are of something that need not be."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
ExperimentName = Annotated[str, AfterValidator(experiment_name)]
SplitName = Annotated[str, AfterValidator(split_name)]
RunId = Annotated[str, AfterValidator(_run_id)]
OutFolder = Annotated[Path, AfterValidator(_folder)]
"""A folder that is there or can be made."""
GivenFolder = Annotated[Path, AfterValidator(_given_folder)]
NewFile = Annotated[Path, AfterValidator(_new_file)]
"""A file that is there or can be made."""
GivenPath = Annotated[Path, AfterValidator(_there)]
"""A file or a folder, where only the data's kind says which is wanted."""
Digest = Annotated[str, AfterValidator(_digest)]


def one_line_of(box: str) -> str:
    """What tyro says of a command line that it cannot parse, without its box and its help."""
    inside = [re.sub(r"^\s*[│|] ?|\s*[│|]\s*$", "", line).rstrip() for line in box.splitlines()[1:-1]]
    text = "\n".join(inside)
    said = next(part.lstrip("\n") for part in re.split(r"^ *[─-]{3,} *$", text, flags=re.MULTILINE) if part.strip())
    if said.lstrip().startswith("Missing from"):
        options = re.findall(r"^\s*(-[\w-]+ [^()\n]*[A-Z]|[A-Z][A-Z .\[\]]+)$", said, re.MULTILINE)
        return f"missing: {', '.join(options)}"
    near = re.search(r"Perhaps you meant:.*?(--[\w-]+)", text, re.DOTALL)
    return " ".join(said.split()).rstrip(".") + (f". Nearest: {near[1]}" if near else "")


def _shown(value: object) -> str:
    """A value as it may stand in a line: cut, without what is not to be seen."""
    text = str(value)
    text = text if text.isprintable() and text else repr(text)
    return text if len(text) <= 60 else f"{text[:60]}... ({len(text)} characters)"
