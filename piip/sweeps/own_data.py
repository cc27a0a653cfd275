"""The user's own files on an experiment's command line, for every kind of data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from piip.data.files import exists, is_folder
from piip.data.layouts import told_splits
from piip.data.locating import check_form
from piip.data.own_name import own_name
from piip.data.sources import Source
from piip.options import UsageError
from piip.spec import CocoSpec, Data, ExperimentSpec
from piip.spec.data import Kind, of_kind, words_for


@dataclass
class OwnData:
    """Flags of the user's own data; every experiment has them."""

    kind: Kind | None = None
    """What your own data are, where they are not what the rows read."""
    data: Path | None = None
    """All of your own data by one path, instead of the next four: YOLO's data.yaml, a folder laid out as the download of its kind."""
    train_annotations: Path | None = None
    """Your own data for training. Detection: a COCO-format JSON, or what --kind has. Segmentation: the folder of label maps.
    Classification needs none: folders name the classes."""
    train_images: Path | None = None
    """The folder of its images; classification: a folder of images for each class."""
    val_annotations: Path | None = None
    """The same for your validation data."""
    val_images: Path | None = None
    """The folder of its images."""
    names: Path | None = None
    """The file that names the classes, where annotations do not: a line each; openimages' CSV of names."""

    @property
    def given(self) -> dict[str, Path]:
        """Flag -> path, of those that were given."""
        flags = {
            f"--{split}-{what}": f"{split}_{what}" for split in ("train", "val") for what in ("annotations", "images")
        }
        paths = {flag: getattr(self, field) for flag, field in flags.items()}
        paths |= {"--names": self.names, "--data": self.data}
        return {flag: path.expanduser().absolute() for flag, path in paths.items() if path is not None}


def own_sources(own: OwnData, specs: Sequence[ExperimentSpec]) -> dict[str, Source]:
    """The user's own files by split; empty where no flag was given.

    Raises:
        UsageError: A flag is missing, or is not for these rows' kind of data.
    """
    given = own.given
    kinds = {spec.data.kind: spec.data for spec in specs}
    if not given or not kinds:
        return {}
    if len(kinds) > 1:
        named = ", ".join(map(words_for, kinds.values()))
        raise UsageError(
            f"{', '.join(given)}: these rows read data of {len(kinds)} kinds: {named}. Name rows of one kind"
        )
    (data,) = kinds.values()
    if own.data is not None:
        return _by_one_path(own, data)
    wanted, possible = _flags(data)
    if missing := [flag for flag in wanted if flag not in given]:
        raise UsageError(
            f"your own data for {words_for(data)} needs all of {', '.join(wanted)}; missing: {', '.join(missing)}"
        )
    if other := [flag for flag in given if flag not in (*wanted, *possible)]:
        raise UsageError(
            f"{', '.join(other)} is not for {words_for(data)}, which takes {', '.join((*wanted, *possible))}"
        )
    images = {split: given[f"--{split}-images"] for split in ("train", "val")}
    return {
        split: Source(given.get(f"--{split}-annotations", folder), folder, given.get("--names"))
        for split, folder in images.items()
    }


def _by_one_path(own: OwnData, data: Data) -> dict[str, Source]:
    given = own.given
    if others := [flag for flag in given if flag not in ("--data", "--names")]:
        raise UsageError(f"--data names all of your data; {', '.join(others)} as well leaves open which is meant")
    _check_paths(given, data)  # before splits are looked for in it
    splits = told_splits(given["--data"], data, ["train", "val"])
    if missing := [split for split in ("train", "val") if split not in splits]:
        raise UsageError(f"--data {given['--data']}: no split {' and '.join(missing)} in it, only {', '.join(splits)}")
    names = given.get("--names")
    return {split: replace(source, names=names or source.names) for split, source in splits.items()}


def of_own_kind(own: OwnData, row: ExperimentSpec) -> ExperimentSpec:
    """The row, reading data of the kind that --kind says, prepared as its own are.

    Raises:
        UsageError: The row is for another task.
    """
    if own.kind is None:
        return row
    try:
        data = of_kind(row.data, own.kind)
    except ValueError as error:
        raise UsageError(f"{row.name}: {error}") from None
    return row.override({"data": data.model_dump(mode="json")})


def own_named(own: OwnData, specs: Sequence[ExperimentSpec], *, said: bool) -> list[ExperimentSpec]:
    """The rows, reading the user's own files under a name of theirs; unchanged where no file is given.

    Args:
        own: The flags.
        specs: With the overrides of the command line.
        said: Whether these say data.name.

    Raises:
        UsageError: They say the name of other data.
    """
    paths = [path for flag, path in sorted(own.given.items(), reverse=True) if flag != "--names"]
    paths = [path.parent if path.suffix in (".yaml", ".yml") else path for path in paths]
    if not paths:
        return list(specs)
    taken = {place for spec in specs for place in spec.data.places}
    known = sorted({spec.data.name for spec in specs if said} & taken)
    if known:
        raise UsageError(
            f"--set data.name={known[0]}: that is the name of other data, and files of your own are given. Call them otherwise, "
            f"or leave it out: {own_name(paths, taken)}"
        )
    return list(specs) if said else [spec.override({"data.name": own_name(paths, taken)}) for spec in specs]


def check_there(own: OwnData, specs: Sequence[ExperimentSpec]) -> None:
    """Refuse what is not there, a folder where a file is wanted, and a file where a folder is.

    Raises:
        UsageError: Names the flag.
    """
    _check_paths(own.given, specs[0].data if specs else CocoSpec())


def _check_paths(given: Mapping[str, Path], data: Data) -> None:
    for flag, path in given.items():
        place = next(iter(data.places.values()))
        file = flag == "--names" or (place.one_file and flag.endswith("annotations"))
        if not exists(path):
            raise UsageError(f"{flag} {path}: no such {'file' if file else 'folder'}")
        if flag == "--data":
            continue
        if flag != "--names":
            check_form(path, data, what="annotations" if flag.endswith("annotations") else "images", said=flag)
        elif is_folder(path):
            raise UsageError(f"{flag} {path} is a folder; a file is wanted, with the name of a class in every line")


def _flags(data: Data) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a kind of data needs, and what it may have: as the places of its named data sets are."""
    place = next(iter(data.places.values()))
    wanted = [
        f"--{split}-{what}"
        for split in ("train", "val")
        for what in ("annotations", "images")
        if place.apart or what == "images"
    ]
    return tuple(wanted), ("--names",) if place.names else ()
