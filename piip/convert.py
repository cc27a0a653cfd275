"""Turn released weights into a run, so that piip.eval, piip.predict and fine-tuning treat them like any other.

FILE is an official .pth of PIIP (detection, segmentation, classification) or of InternImage's or MPViT's detectors, a .pkl of
Detectron's, a DeepSpeed folder or its mp_rank_00_model_states.pt, or a checkpoint of ours. No code of a pickle is run. What is missing,
left over or of another shape is an error, unless --allow says otherwise. Rows that differ only in image sizes share their weights'
shapes: which of them a file belongs
to, it does not tell.

Examples:
  python -m piip.convert mask_rcnn_deit_tsb_1120_896_448_fpn_1x_coco_bs16.pth
  python -m piip.convert iter_87961/global_step87960 --row mask_rcnn_piip_tsb_1120_896_448_1x --dry-run
  python -m piip.convert model.pth --row mask_rcnn_piip_tsb_1120_896_448_1x --allow unexplained --json
"""

import hashlib
import json
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, assert_never

import tyro

from piip import home
from piip.catalogue.overrides import overridden
from piip.catalogue.rows import find_row
from piip.console import run_verb
from piip.options import Digest, ExperimentName, GivenPath

if TYPE_CHECKING:
    from torch import Tensor

    from piip.spec import ExperimentSpec
    from piip.weights.fit import Report
    from piip.weights.read import Weights


@dataclass
class Options:
    """What `python -m piip.convert` is told."""

    file: Annotated[tyro.conf.Positional[GivenPath], tyro.conf.arg(metavar="FILE")]
    """Official .pth, .pt or .safetensors, a DeepSpeed folder, or a checkpoint of ours."""
    row: str | None = None
    """The row the weights are of (`python -m piip.rows --names`).
    Not given: that of the official configuration the file is named after."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Override a field of the row, e.g. --set model.head.num_classes=12."""
    allow: Annotated[tuple[Literal["missing", "unexplained", "resized"], ...], tyro.conf.UseAppendAction] = ()
    """missing: what the file lacks starts from random weights.
    unexplained: the file has tensors that the row has no place for.
    resized: position embeddings, patch kernels or bias tables were of another size."""
    sha256: Digest | None = None
    """The file's digest, or its first digits, as its publisher gives it."""
    annotations: GivenPath | None = None
    """Where the classes that the labels mean are written: a COCO-format JSON, or the folder of class folders.
    Not given: COCO's 80, ImageNet's 1000, or those of the row's data on this machine."""
    experiment: ExperimentName = "released"
    """MLflow experiment the run goes to."""
    dry_run: bool = False
    """Read, check and report; make no run."""
    json: bool = False
    """One JSON document on stdout instead of lines."""


def main(options: Options) -> int:
    """Run the verb."""
    spec = overridden(find_row(options.row or options.file.stem), options.set)
    # PyTorch from here on: a wrong name or path does not wait for it
    import torch

    from piip.counting.meta import on_meta
    from piip.models import build_model
    from piip.training.start import read_any
    from piip.weights.names.detectron2 import as_in_file
    from piip.weights.names.mmdet import fit_weights

    categories = categories_of(spec, options.annotations)
    weights, network = as_in_file(read_any(options.file, options.sha256), spec.model)
    spec = spec.model_copy(update={"model": network})
    with on_meta():
        model = build_model(spec.model, pretrained=False)
    state, report = fit_weights(weights, model, spec.model, [category["name"] for category in categories])
    report.require(options.allow)
    if report.missing:
        torch.manual_seed(spec.train.seed)
        state = build_model(spec.model, pretrained=False).state_dict() | state
    made = None if options.dry_run else make_run(spec, options, weights, state, report, categories)
    show(options, spec, weights, report, made)
    return 0


def categories_of(spec: "ExperimentSpec", annotations: Path | None) -> list[dict[str, Any]]:
    """What the labels mean, as piip.eval compares it with the data: {"id", "name"} in order of label.

    Raises:
        ValueError: As many classes as the head has are not to be found.
    """
    found = _known_classes(spec, annotations)
    wanted = spec.model.head.num_classes
    if len(found) != wanted:
        raise ValueError(
            f"{annotations or spec.data.name} has {len(found)} categories, {spec.name} has {wanted}. "
            f"Give --annotations of the data it was trained on, or --set model.head.num_classes={len(found)}"
        )
    return found


def _known_classes(spec: "ExperimentSpec", annotations: Path | None) -> list[dict[str, Any]]:
    from piip.data import locating, open_dataset, sources
    from piip.data.formats import coco_classes
    from piip.data.formats.coco_json import read_classes
    from piip.spec import Ade20kSpec, CocoSpec, DetectionSpec, ImageNetSpec, KeypointsSpec, LvisSpec

    match spec.data:
        case CocoSpec(name="coco") if annotations is None:
            return coco_classes.COCO
        case CocoSpec() | LvisSpec() | KeypointsSpec():
            return read_classes(annotations or locating.locate(spec.data, "val").annotations)
        case Ade20kSpec():
            from piip.data.formats import ade20k_files

            here = None if spec.data.name == "ade20k" else locating.locate(spec.data, "val")
            given = annotations and sources.Source(annotations, annotations)
            return ade20k_files.classes_of(given or here, spec.data)
        case ImageNetSpec(name="imagenet") if annotations is None:
            from piip.data.formats.folder_listing import imagenet_classes

            return imagenet_classes()
        case ImageNetSpec():
            from piip.data.formats.folder_listing import classes_of as folders_of

            return folders_of(annotations or locating.locate(spec.data, "val").annotations)
        case DetectionSpec():
            here = locating.locate(spec.data, "val")
            given = annotations and sources.Source(annotations, here.images, here.names)
            return open_dataset(spec.data, given or here, spec.model.input).classes
        case _:
            assert_never(spec.data)


def make_run(
    spec: "ExperimentSpec", options: Options, weights: "Weights", state: "dict[str, Tensor]", report: "Report",
    categories: list[dict[str, Any]],
) -> tuple[str, Path]:  # fmt: skip
    """Checkpoint, record and MLflow run, as a trained row leaves them; the same file and row again give the same run.

    Returns:
        The run's id, and the folder of its checkpoint.
    """
    from piip.catalogue.preflight import cost_of
    from piip.record.driving import driving
    from piip.record.events import read_status
    from piip.record.journal import Journal
    from piip.record.trial import Trial
    from piip.sweeps.plan import record_trial
    from piip.tracking.delivery import deliver, read_delivered
    from piip.tracking.store import Store
    from piip.training import checkpoint, saving
    from piip.training.manifest import Manifest

    content = weights.sha256 or _digest(state)
    key = "converted-" + hashlib.sha256(f"{spec.digest}:{content}:{sorted(options.allow)}".encode()).hexdigest()[:12]
    folder, root = home.journal_dir(key), home.checkpoint_dir(key)
    tags = {"piip.weights": str(options.file), "piip.weights_sha256": content, "piip.weights_report": report.summary}
    record_trial(
        Trial(spec, key, {}),
        cost_of(spec),
        tags,
        experiment=options.experiment,
        parent_key=None,
    )
    with driving(folder, "convert"):  # twice at once: one makes it
        if read_status(folder) != "FINISHED" or checkpoint.last(root) is None:
            root.mkdir(parents=True, exist_ok=True)
            journal = Journal(folder, attempt=f"convert-{uuid.uuid4()}")
            manifest = Manifest(0, key, 1, "converted", categories)
            saving.save(root, manifest, model=state, state={}, rank=0, barrier=lambda: None)
            listed = folder / "weights.txt"
            listed.write_text("\n".join(report.lines()) + "\n")
            journal.artifact(listed, "weights.txt")
            journal.tag({"piip.checkpoint": str(root), "piip.note": f"released weights, {options.file.name}"})
            journal.finish("FINISHED")
    store = Store()
    deliver(folder, store)
    run_id = read_delivered(folder, store).run_id
    assert run_id is not None
    return run_id, root


def _digest(state: "dict[str, Tensor]") -> str:
    """SHA-256 of all values, where there is no one file to take it of."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def show(
    options: Options, spec: "ExperimentSpec", weights: "Weights", report: "Report", made: tuple[str, Path] | None
) -> None:
    """What became of every tensor, and what to type next."""
    if options.json:
        document = {
            "run_id": made and made[0], "checkpoint": made and str(made[1]), "row": spec.name,
            "sha256": weights.sha256, "notes": weights.notes, "matched": len(report.matched), "resized": report.resized,
            "missing": report.missing, "ignored": report.ignored, "unexplained": report.unexplained,
        }  # fmt: skip
        print(json.dumps(document))
        return
    print("\n".join([*report.lines(), *(f"note: {note}" for note in weights.notes)]))
    if made:
        print(f"run {made[0]} ({spec.name}). Score it: python -m piip.eval --run-id {made[0]}")
        print(f"fine-tune from it: --set model.weights={made[1]}")
    else:
        print(f"these are weights of {spec.name}; without --dry-run they become a run")


def cli(arguments: Sequence[str] | None = None) -> int:
    """Parse and run."""
    return run_verb(Options, main, prog="python -m piip.convert", description=__doc__, arguments=arguments)


if __name__ == "__main__":
    sys.exit(cli())
