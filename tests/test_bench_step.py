"""What a training step costs: the table's parts add up, and what was made faster computes the same."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import torch.nn.functional as F
from support import ROOT

from anatodiff.networks.layers import attend


def test_the_parts_of_a_step_add_up_to_it() -> None:
    spec = importlib.util.spec_from_file_location("bench_step", ROOT / "scripts" / "bench_step.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    clock = module.bench("DiT-XS/8", 4, None, "muon", 6, torch.device("cpu"))
    assert len(clock.steps) == 5
    for step in clock.steps:
        assert sum(step[part] for part in module.PARTS) == pytest.approx(step["step"])
        assert all(step[part] > 0 for part in ("forward", "backward", "optimizer", "moving average", "bare loop"))


def test_attention_in_bfloat16_is_torchs_own_with_its_gradient() -> None:
    torch.manual_seed(0)
    values = torch.randn(3, 2, 4, 16, 8)  # q, k and v (B, heads, T, d)
    gradient, results = torch.randn(2, 4, 16, 8), []
    for call, dtype in ((attend, torch.bfloat16), (F.scaled_dot_product_attention, torch.float32)):
        given = values.to(dtype).requires_grad_()
        out = call(*given)
        out.backward(gradient.to(dtype))
        assert given.grad is not None and out.dtype == dtype
        results.append((out.float(), given.grad.float()))
    for mine, exact in zip(*results, strict=True):
        torch.testing.assert_close(mine, exact, atol=0.03, rtol=0.03)
