"""Memory that is used again: never while anybody reads it, and whatever shape comes next."""

import gc

import pytest
import torch

from codescaler.ops.cpu.memory import BlockPool

MIB = 2**20


def test_a_block_comes_back_when_no_tensor_reads_it():
    pool = BlockPool()
    first = pool.allocate((2 * MIB,), torch.uint8)
    place = first.data_ptr()
    view = first[MIB:].view(torch.float32)
    del first
    other = pool.allocate((2 * MIB,), torch.uint8)
    assert other.data_ptr() != place  # the view still reads the first
    view.fill_(1.0)
    other.fill_(7)
    assert (view == 1.0).all()
    del view
    assert pool.allocate((1500 * 1024,), torch.uint8).data_ptr() == place  # another length, the same power of two


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32])
@pytest.mark.parametrize("shape", [(3, 5), (700, 1024), (1, 0), (1025, 513)])
def test_a_tensor_is_as_asked(shape, dtype):
    tensor = BlockPool().allocate(shape, dtype)
    assert (tensor.shape, tensor.dtype, tensor.is_contiguous()) == (shape, dtype, True)
    assert tensor.data_ptr() % 64 == 0
    tensor.copy_(torch.arange(tensor.numel()).view(shape))  # all of it is there
    assert torch.equal(tensor, torch.arange(tensor.numel()).view(shape).to(dtype))


def test_the_pool_holds_what_was_used_at_one_time():
    pool = BlockPool()
    for length in range(MIB, 2 * MIB, 50_000):  # batches of many lengths
        held = [pool.allocate((length,), torch.uint8) for _ in range(2)]
        del held
    gc.collect()
    assert sum(map(len, pool._free.values())) <= 4  # two of each of two sizes
