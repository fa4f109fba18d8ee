"""What every backend states once: formats of linear layers, and that an operation can be replaced alone."""

import pytest
import torch

from codescaler.env import is_triton_interpreted
from codescaler.ops import Backend, LinearWeights, explain_unavailable, reference, replace_operations
from codescaler.ops.autograd import make_differentiable
from codescaler.ops.linear import PLAIN
from codescaler.types import QuantScheme


def test_a_replaced_operation_leaves_the_backend_and_its_other_operations(backend):
    x = torch.ones(2, 4)
    changed = replace_operations(backend, rms_norm=lambda x, weight, eps: -x, token_block=None)
    assert torch.equal(changed.rms_norm(x, torch.ones(4), 0.0), -x)
    assert changed.token_block is None
    assert torch.equal(changed.glu(x, "silu"), backend.glu(x, "silu"))
    assert torch.equal(backend.rms_norm(x, torch.ones(4), 0.0), x)
    with pytest.raises(AssertionError, match="softmax is no operation"):
        replace_operations(backend, softmax=torch.softmax)


@pytest.mark.skipif(is_triton_interpreted(), reason="the interpreter runs on any machine")
@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (9, 0)])
def test_a_gpu_that_is_too_old_is_named(monkeypatch, capability):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    reason = explain_unavailable("triton", "cuda")
    expected = "Triton's kernels are for compute capability 8.0 or more, and this GPU has 7.5"
    assert reason == (expected if capability < (8, 0) else None)


def test_a_backend_without_an_operation_is_none():
    class Half(Backend):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Half()


def test_a_new_format_is_one_class_and_one_entry():
    class NegatedFormat:
        name = "negated"

    class NegatedLinear:
        def __init__(self, weights, format):
            self.weight = weights.weight

        def __call__(self, x):
            return -x @ self.weight.T

    class WithNegated(reference.ReferenceBackend):
        products = reference.ReferenceBackend.products | {NegatedFormat: NegatedLinear}

    backend, weights = WithNegated(), LinearWeights(torch.eye(3))
    x = torch.arange(6.0).view(2, 3)
    assert backend.supports(NegatedFormat()) is None
    assert "has no negated linear layers" in reference.BACKEND.supports(NegatedFormat())
    assert torch.equal(backend.linear(x, backend.pack_linear(weights, NegatedFormat())), -x)
    assert torch.equal(backend.linear(x, backend.pack_linear(weights)), x)


def test_training_computes_plain_layers_only():
    operations = make_differentiable(reference.BACKEND)
    assert operations.supports(PLAIN) is None
    assert "int8" in operations.supports(QuantScheme(8, has_hadamard=True))
