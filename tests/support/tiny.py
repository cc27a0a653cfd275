"""An experiment of two rows that train in seconds, as a file of experiments/ has it; for tests. On $CPUS, or two."""

import os

from waiting import LONG

from piip.presets import mask_rcnn_pico, pico
from piip.sweeps.cli import main

ROWS = {
    "pico": [
        mask_rcnn_pico(pico(letters, sides, pretrained=False), steps=30).override(
            {"train.batch_size": 2, "train.log_every": 1, "train.save_every": 5}
        )
        for letters, sides in (("TB", (96, 64)), ("B", (64,)))
    ]
}

if __name__ == "__main__":
    from piip.sweeps import launch

    launch.DELIVERY_S = LONG  # how busy the machine is says nothing of what arrives
    os.cpu_count = lambda: int(os.environ.get("CPUS", "2"))
    main(ROWS, experiment="tiny", description=__doc__ or "")
