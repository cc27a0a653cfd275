"""What data of the user's own are called where nobody says it."""

import os
import re
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path

from piip.spec.places import OWN

SAYS_NOTHING = re.compile(
    r"(train(ing)?|val(id(ation)?)?|test|dev|instances|images?|imgs?|photos?|pictures?|annotations?|annos?|labels?|masks?|maps?|json|"
    r"data(sets?)?|home|users?|mnt|media|srv|tmp|var|root|work|workspace)\d*",
    re.IGNORECASE,
)
"""Words of paths that many data sets have: `instances_val2017`."""
LONGEST = 40


def own_name(paths: Sequence[Path], taken: Collection[str] = ()) -> str:
    """The first name that says something: of the folder that holds all, of the files and folders, of the folders above.

    `birds/train.json` and `birds/val/` are birds, `data/birds_train` and `data/birds_val` as well.

    Args:
        paths: Absolute, of annotations and images.
        taken: Names that mean other data.
    """
    common = Path(os.path.commonpath(paths))
    login = Path(os.path.expanduser("~")).name  # says nothing of data
    folders = [folder.name for folder in (common, *common.parents)]
    names = (folders[0], *(path.stem for path in paths), *folders[1:])
    name = next(filter(None, (_telling(name) for name in names if name != login)), OWN)
    return f"own_{name}" if name in taken else name


def _telling(name: str) -> str:
    """A file's name without what says nothing, in letters that any name of an experiment may have; empty where nothing is left."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    words = [word for word in re.split(r"[^A-Za-z0-9]+", plain) if word and not SAYS_NOTHING.fullmatch(word)]
    return "_".join(words)[:LONGEST] if any(not word.isdecimal() for word in words) else ""
