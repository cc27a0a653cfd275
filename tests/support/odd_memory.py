"""Uses every odd document and image, and prints how many there were, how many were good, and how many kB more the process took at most."""

import json
import resource
import sys
from pathlib import Path

from inputs import grey
from odd_documents import SIZES, VALUES, good_document
from odd_images import BROKEN, MODES, save_image
from PIL import Image

from piip.data import open_dataset
from piip.data.check import check
from piip.data.sources import DataError, Source
from piip.spec import CocoSpec

SPEC = CocoSpec(name="custom")


def use(source: Source) -> bool:
    """Whether the check calls it good; then it is sampled, scored and drawn."""
    try:
        report = check(source.annotations, source.images)
    except DataError:
        return False
    if not report.usable:
        return False
    seen = report.seen.training
    wanted = grey(64, masks=seen["masks"] > 0 and "boxes without a mask" not in seen)
    learned, scored = (open_dataset(SPEC, source, wanted, training=training) for training in (True, False))
    metric = scored.metric()
    for index, info in enumerate(scored.infos):
        learned.sample(index, 0)
        metric.update([], info)
        scored.draw(Image.new("RGB", (info.width, info.height)), scored.truth(index))
    metric.compute()
    return True


def main(folder: Path) -> None:
    source = Source(folder / "a.json", folder)

    def written(document) -> Source:
        source.annotations.write_text(json.dumps(document))
        return source

    def saved(how: str) -> Source:
        for number, size in enumerate(SIZES):
            path = folder / f"{number}.png"
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
            save_image(path, size, how if number == 0 else "plain")
        return source

    saved("plain")
    good = [use(written(good_document()))]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for part, entries in good_document().items():
        for field in entries[0]:
            for value in VALUES:
                document = good_document()
                document[part][0][field] = value
                good.append(use(written(document)))
    written(good_document())
    good += [use(saved(how)) for how in MODES + BROKEN]
    print(len(good), sum(good), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
