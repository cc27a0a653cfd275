"""Every verb and every option of it, found: what a test goes through, so that a new one is tried by being there."""

from dataclasses import fields
from importlib import import_module
from typing import Any, get_type_hints

from verbing import sweep

from piip import __main__ as all_verbs
from piip.options import as_typed
from piip.sweeps import cli as experiment


def verbs() -> dict[str, tuple[Any, type]]:
    """Verb -> its command line and the class of its options; `train` has those of an experiment's file."""
    found = {}
    for name, file in all_verbs.verbs().items():
        module = import_module(".".join(("piip", *file.relative_to(all_verbs.PACKAGE).with_suffix("").parts)))
        found[name] = (module.cli, getattr(module, "Options", experiment.Options))
    return found | {"experiments/FILE.py": (sweep, experiment.Options)}


VERBS = verbs()


def options() -> list[tuple[str, str, Any]]:
    """(verb, option as it is typed, its type); what is known by its place goes by the word that --help has."""
    found = []
    for verb, (_, kind) in VERBS.items():
        hints = get_type_hints(kind, include_extras=True)
        found += [
            (verb, as_typed(field.name, hints[field.name]), hints[field.name])
            for field in fields(kind)
            if field.name != "own"  # TestOwnFiles
        ]
    return found
