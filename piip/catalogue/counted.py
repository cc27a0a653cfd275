"""Costs that were counted once: all rows take minutes, and nothing when they are asked for again.

home()/costs/<digest of the network, the input's size and the code that counts>.json
"""

import hashlib
import logging
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from piip import home
from piip.counting.costs import Cost
from piip.durable import write_atomic
from piip.spec import ModelSpec

log = logging.getLogger(__name__)

ROOMS = ("contracts.py", "counting", "models", "ops", "spec")
"""Of the package: what decides how much is counted."""
LIBRARIES = ("torch", "torchvision", "timm")
_COST = TypeAdapter(Cost)


def counted(model: ModelSpec, height: int, width: int) -> Cost:
    """What `piip.counting.cost.cost` counts, or counted before; where nothing can be kept, it is counted every time.

    Args:
        model: The model.
        height: Of the padded input in pixels.
        width: Of the padded input in pixels.
    """
    asked = f"{model.model_dump_json()} {height} {width} {_code()}"
    file = home.home() / "costs" / f"{hashlib.sha256(asked.encode()).hexdigest()[:24]}.json"
    with suppress(OSError, ValidationError):  # never counted, not to be read; cut off by a power cut
        return _COST.validate_json(file.read_bytes())
    from piip.counting.cost import cost

    found = cost(model, height, width)
    try:
        _keep(file, found)
    except OSError as error:
        log.info("costs are counted anew every time: %s", error)
    return found


def _keep(file: Path, found: Cost) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, _COST.dump_json(found).decode())


@cache
def _code() -> str:
    """A digest of the code that counts, and of the versions it counts with."""
    package = home.package_root() / "piip"
    digest = hashlib.sha256(" ".join(version(name) for name in LIBRARIES).encode())
    for room in ROOMS:
        place = package / room
        for file in [place] if place.is_file() else sorted(place.rglob("*.py")):
            digest.update(f"{file.relative_to(package).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()
