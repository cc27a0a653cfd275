"""An experiment of two rows of which one cannot learn and would go on for days, for ASHA to stop; for tests."""

from piip.presets import mask_rcnn_pico, pico
from piip.sweeps.cli import main

LEARNS = mask_rcnn_pico(pico("B", (64,), pretrained=False), steps=24).override(
    {"name": "learns", "train.batch_size": 2, "train.log_every": 1, "train.save_every": 8, "train.eval_every": 8,
     "optim.lr": 1e-3, "optim.warmup_steps": 4, "optim.schedule": "constant"}
)  # fmt: skip
IDLES = LEARNS.override({"name": "idles", "optim.lr": 1e-12, "train.steps": 1_000_000})
ROWS = {"pico": [LEARNS, IDLES]}

if __name__ == "__main__":
    main(ROWS, experiment="race", description=__doc__ or "")
