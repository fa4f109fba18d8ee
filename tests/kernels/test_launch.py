"""A launch of ours gives a compiled kernel what Triton would give it. Nothing is launched: a stub is the driver."""

import itertools
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import triton
import triton.language as tl
from codescaler.kernels.launch import Kernel, divide_up, round_up_to_power
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.tools.tensor_descriptor import TensorDescriptor

from codescaler.env import is_triton_interpreted

pytestmark = pytest.mark.skipif(is_triton_interpreted(), reason="the interpreter compiles nothing")


class StubDriver:
    """A driver of an H100 that writes down which compiled kernel was launched, on which grid, with which arguments."""

    def __init__(self):
        self.launched = []
        self.device = self  # kernels are kept by device: none of an earlier stub is found
        self.loaded = itertools.count()
        self.utils = SimpleNamespace(
            get_device_properties=lambda _: {"multiprocessor_count": 132, "max_shared_mem": 227 * 1024},
            load_binary=lambda *_: (object(), next(self.loaded), 32, 0, 1024),
        )
        self.launcher_cls = lambda source, metadata: self.launch

    def launch(self, x, y, z, stream, function, packed, metadata, enter_hook, exit_hook, *arguments):
        self.launched.append((function, (x, y, z), arguments))

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return self.device

    def get_current_stream(self, device):
        return 0


@pytest.fixture
def stub():
    """The active driver, while a test runs."""
    before = driver._active
    driver.set_active(StubDriver())
    yield driver.active
    driver._active = before


@partial(Kernel, do_not_specialize=["limit"])
def scale_kernel(x, y, descriptor, count, factor, limit, BLOCK: tl.constexpr, HAS_DESCRIPTOR: tl.constexpr):
    place = tl.arange(0, BLOCK)
    mask = (place < count) & (place < limit)
    values = descriptor.load([0, 0]) if HAS_DESCRIPTOR else tl.load(x + place, mask)[None, :]
    tl.store(y + place[None, :], (values * factor).to(y.dtype.element_ty), mask[None, :])


def list_launches():
    """Arguments, constants and options that differ in all that Triton compiles for, and in what it does not."""
    x, y = torch.zeros(2, 64), torch.zeros(2, 64, dtype=torch.bfloat16)
    constants = {"BLOCK": 64, "HAS_DESCRIPTOR": False}
    counts = (1, 2, 16, 48, 17, 2**31, 2**40)
    for source, target, count in itertools.product((x, x[0, 1:], y), (y, y[0, 1:], x), counts):
        yield (source, target, None, count, 0.5, 16), constants
    yield (x, y, None, 17, 0.25, 17), constants
    yield (x, y, x, 17, 0.5, 16), constants
    yield (x, y, None, 17, 0.5, 16), constants | {"BLOCK": 32}
    for option in ({"num_warps": 8}, {"num_warps": 4}, {"enable_fp_fusion": False}, {"enable_fp_fusion": True}):
        yield (x, y, None, 17, 0.5, 16), constants | option
    for source, width in ((x, 64), (y, 64), (x, 32)):
        descriptor = TensorDescriptor.from_tensor(source, [1, width])
        yield (x, y, descriptor, 17, 0.5, 16), constants | {"BLOCK": width, "HAS_DESCRIPTOR": True}


def test_a_launch_finds_the_kernel_that_triton_compiled_for_its_arguments(stub):
    launches = list(list_launches())
    for arguments, constants in launches * 2:
        scale_kernel[(3, 2)](*arguments, **constants)
    ours = stub.launched[len(launches) :]
    stub.launched.clear()
    for arguments, constants in launches:
        scale_kernel._function[(3, 2)](*arguments, **{"enable_fp_fusion": True} | constants)
    assert [function for function, *_ in ours] == [function for function, *_ in stub.launched]
    assert len({function for function, *_ in ours}) > len(launches) / 2


def test_each_device_has_kernels_of_its_own(stub):
    arguments, constants = next(list_launches())
    for device in ("first", "second", "first", "second"):
        stub.device = device
        scale_kernel[(1,)](*arguments, **constants)
    functions = [function for function, *_ in stub.launched]
    assert functions[:2] == functions[2:] and functions[0] is not functions[1]


def test_a_launch_passes_addresses_on_the_same_grid(stub):
    x, y = torch.zeros(64), torch.zeros(64)
    for _ in range(2):
        scale_kernel[(3, 2)](x, y, None, 17, 0.5, 16, **next(list_launches())[1])
    (by_triton, grid, first), (ours, again, second) = stub.launched
    assert (by_triton, grid) == (ours, again) and grid == (3, 2, 1)
    assert second[:6] == (x.data_ptr(), y.data_ptr(), None, 17, 0.5, 16)
    assert len(first) == len(second)


def test_constants_come_in_any_order(stub):
    @Kernel
    def store_kernel(x, FIRST: tl.constexpr, SECOND: tl.constexpr):
        tl.store(x + FIRST, SECOND)

    x = torch.zeros(64)
    for constants in ({"SECOND": 1, "FIRST": 2}, {"FIRST": 1, "SECOND": 2}, {"FIRST": 2, "SECOND": 1}) * 2:
        store_kernel[(1,)](x, **constants)
    functions = [function for function, *_ in stub.launched]
    assert functions[:3] == functions[3:]
    assert functions[0] is functions[2] is not functions[1]


@pytest.mark.parametrize("count", [1, 2, 3, 63, 64, 65, 2880])
def test_sizes_are_tritons(count):
    assert round_up_to_power(count) == triton.next_power_of_2(count)
    assert divide_up(count, 64) == triton.cdiv(count, 64)
