"""What the tests of the verbs share: the row they train, what a verb said, data to be damaged."""

import json
from dataclasses import dataclass
from pathlib import Path

from piip import presets
from piip.record.trial import Trial
from piip.spec import ExperimentSpec
from piip.sweeps import cli as experiment

ROOT = Path(__file__).parents[2]


STEPS = 4


def spec_to_train() -> ExperimentSpec:
    """The smallest real PIIP Mask R-CNN; it reports whatever it sees, so that there is something to compare."""
    row = presets.mask_rcnn_pico(presets.pico("TB", (128, 64), pretrained=False), steps=STEPS)
    small = {
        "train.batch_size": 2,
        "train.log_every": 1,
        "train.save_every": 2,
        "train.engine": "ddp",
        "optim.warmup_steps": 2,
    }
    head = {"rpn_pre_nms": 100, "rpn_post_nms": 30, "score_threshold": 0.0, "max_detections": 20}
    return row.override(small | {f"model.head.{k}": v for k, v in head.items()} | {"speed.kernel": "reference"})


@dataclass
class Trained:
    """A finished run in an MLflow of its own."""

    home: Path
    run_id: str
    trial: Trial

    @property
    def checkpoints(self) -> Path:
        return self.home / "storage" / self.trial.key

    @property
    def demo(self) -> Path:
        return self.home / "data" / "demo"


@dataclass
class Said:
    """What a verb printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def document(self):
        """The one JSON document on stdout."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line, of a verb that failed."""
        errors = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert self.code not in (0, None)
        assert len(errors) == 1
        assert "Traceback" not in self.err
        assert self.out == ""
        return errors[0]


def sweep(arguments):
    """`python experiments/sweep_resolutions.py`, with one small row."""
    table = {"pico": [spec_to_train()], "coco": [presets.mask_rcnn_1x(presets.piip("TSB", (1120, 896, 448)))]}
    experiment.main(table, experiment="tests", description="", arguments=arguments)


def truncate_json(annotations: Path, images: Path) -> str:
    annotations.write_bytes(annotations.read_bytes()[:1000])
    return f"{annotations}: not complete JSON"


def orphan_an_annotation(annotations: Path, images: Path) -> str:
    document = json.loads(annotations.read_text())
    document["annotations"][0]["image_id"] = 999
    annotations.write_text(json.dumps(document))
    return f"annotation {document['annotations'][0]['id']} is for image 999, which is not in images"


def break_a_jpeg(annotations: Path, images: Path) -> str:
    broken = sorted(images.glob("*.jpg"))[1]
    broken.write_bytes(broken.read_bytes()[:700])
    return f"{broken}: cannot be decoded"


def remove_an_image(annotations: Path, images: Path) -> str:
    gone = sorted(images.glob("*.jpg"))[1]
    gone.unlink()
    return f"1 of 3 images not found in {images}, first {gone.name!r}"


DAMAGES = [truncate_json, orphan_an_annotation, break_a_jpeg, remove_an_image]
