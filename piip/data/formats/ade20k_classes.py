"""ADE20K's 150 classes: what a released segmenter's labels mean on a machine without ADE20K's list."""

from typing import Any

_NAMES = (
    "wall building sky floor tree ceiling road bed windowpane grass cabinet sidewalk person earth door table mountain plant curtain "
    "chair car water painting sofa shelf house sea mirror rug field armchair seat fence desk rock wardrobe lamp bathtub railing "
    "cushion base box column signboard chest_of_drawers counter sand sink skyscraper fireplace refrigerator grandstand path stairs "
    "runway case pool_table pillow screen_door stairway river bridge bookcase blind coffee_table toilet flower book hill bench "
    "countertop stove palm kitchen_island computer swivel_chair boat bar arcade_machine hovel bus towel light truck tower chandelier "
    "awning streetlight booth television_receiver airplane dirt_track apparel pole land bannister escalator ottoman bottle buffet "
    "poster stage van ship fountain conveyer_belt canopy washer plaything swimming_pool stool barrel basket waterfall tent bag "
    "minibike cradle oven ball food step tank trade_name microwave pot animal bicycle lake dishwasher screen blanket sculpture hood "
    "sconce vase traffic_light tray ashcan fan pier crt_screen plate monitor bulletin_board shower radiator glass clock flag"
)

ADE20K: list[dict[str, Any]] = [
    {"id": number, "name": name.replace("_", " ")} for number, name in enumerate(_NAMES.split(), start=1)
]
"""{"id": number in label maps (1 to 150), "name": ...} in order of label, which counts from 0."""
