import gc

import torch

from piip.data import memory

SHAPE = (3, 400, 400)


def test_memory_comes_back_when_nobody_holds_the_tensor_or_a_part_of_it():
    memory._free.clear()
    first = memory.empty(SHAPE, torch.float32).fill_(1)
    part, place = first[1], first.data_ptr()
    del first
    gc.collect()

    other = memory.empty(SHAPE, torch.float32).fill_(2)

    assert other.data_ptr() != place
    assert (part == 1).all()
    del part
    gc.collect()
    assert memory.empty(SHAPE, torch.float32).data_ptr() == place


def test_memory_that_does_not_fit_is_left_for_others():
    memory._free.clear()
    place = memory.empty(SHAPE, torch.float32).data_ptr()
    gc.collect()

    larger, smaller = memory.empty((3, 800, 800), torch.float32), memory.empty((3, 330, 330), torch.float32)

    assert place not in (larger.data_ptr(), smaller.data_ptr())
    assert memory.empty(SHAPE, torch.float32).data_ptr() == place


def test_tensors_have_their_shape_and_type_whatever_their_size():
    for shape in ((2, 3), (1024, 1024, 2)):
        made = memory.empty(shape, torch.uint8)

        assert made.shape == shape
        assert made.dtype == torch.uint8
