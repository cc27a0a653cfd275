import pytest
from tiny import ROWS

from piip.catalogue.preflight import check, largest_input, memory_of

ROW = ROWS["pico"][1].override({"data.short_ratio": 0.75, "data.pad_multiple": 32})


@pytest.mark.parametrize(
    ("scales", "size"),
    [
        ([1.0], (64, 64)),  # 48 x 64, padded to multiples of 32
        ([0.5, 1.5], (96, 96)),  # 72 x 96
        ([0.5], (64, 64)),  # evaluation sees images as large as ever
    ],
)
def test_the_largest_input_is_of_the_largest_scale_an_image_is_drawn_at(scales, size):
    assert largest_input(ROW.override({"data.train_scales": scales})) == size


def test_memory_is_predicted_for_the_largest_scale():
    assert memory_of(ROW.override({"data.train_scales": [1.0, 1.5]})).peak_gb > memory_of(ROW).peak_gb


def test_workers_that_do_not_divide_the_batch_are_refused_in_the_same_words_everywhere():
    message = r"batch_size 2 does not divide by 3 workers\. Workers that fit: 1, 2\."

    for ask in (lambda: check([ROW], workers=3, gpus_per_worker=0), lambda: memory_of(ROW, workers=3)):
        with pytest.raises(ValueError, match=message):
            ask()
