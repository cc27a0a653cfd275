"""Small objects on large images: a PIIP, a single network, or a single network on slices, at equal GFLOPs?

    piip data demo runs/data/aerial --kind aerial            # once: four photographs with 951 trees, fetched with pip (20 MB)
    python experiments/sweep_aerial.py --workers 2           # two CPU cores, about twenty minutes a row on both

RetinaNet on PIIP-TB 512/256, on its larger branch alone at 448, and on that at 224 on each of four slices of 432 pixels, in training and
evaluation: 9.0 GFLOPs an image of 742 x 766 pixels, the largest of validation, all slices counted. Steps are such that rows take equal
time. The table and the report have box AP by object size in the file's pixels, too: small below 32 x 32, medium below 96 x 96.
"""

from piip.presets import detector_pico, pico
from piip.spec import ExperimentSpec, PIIPSpec
from piip.sweeps.cli import main

ON_AERIAL = {"data.name": "aerial", "model.head.num_classes": 1, "data.train_scales": [0.75, 1.0]}
SLICED = {
    "data.recipe": {"kind": "slices", "side": 432},
    "data.views": {"slices": 432, "whole": False, "image": [742, 766]},
}


def aerial(backbone: PIIPSpec, steps: int, *, sliced: bool = False) -> ExperimentSpec:
    """A row on the aerial photographs."""
    row = detector_pico("retinanet", backbone, steps=steps).override(ON_AERIAL)
    name = row.name.replace("_pico", "_aerial")
    return row.override(SLICED | {"name": f"{name}_slices"} if sliced else {"name": name})


ROWS = {
    "pico": [
        aerial(pico("TB", (512, 256)), 900),
        aerial(pico("B", (448,)), 1000),
        aerial(pico("B", (224,)), 2800, sliced=True),
    ]
}

if __name__ == "__main__":
    main(ROWS, experiment="sweep_aerial", description=__doc__ or "")
