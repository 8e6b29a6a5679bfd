"""Measures of pairs: of images, of masks, and of the images of one set."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from anatodiff.metrics import mask_measures, ms_ssim_diversity, paired_measures


def test_images_by_their_formulas() -> None:
    torch.manual_seed(0)
    target = 0.2 + 0.6 * torch.rand(3, 1, 40, 32)
    output = target + torch.tensor([0.0, 0.1, -0.05])[:, None, None, None]
    found = paired_measures(output, target)
    assert found.psnr[0] == math.inf
    assert found.psnr[1].item() == pytest.approx(20, abs=1e-4)
    assert found.nmse[2].item() == pytest.approx(0.0025 * 40 * 32 / target[2].double().square().sum().item(), rel=1e-4)
    assert found.ssim[0].item() == pytest.approx(1)
    noisy = paired_measures(target + 0.1 * torch.randn_like(target), target)
    assert (noisy.ssim[1:] < found.ssim[1:]).all()  # the same error as structure counts more
    volume = torch.rand(2, 1, 12, 12, 12)
    assert paired_measures(volume, volume).ssim.tolist() == pytest.approx([1, 1])


def test_images_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="give one batch shape"):
        paired_measures(torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 17))
    with pytest.raises(ValueError, match="target 1 is all zero"):
        paired_measures(torch.rand(2, 1, 16, 16), torch.stack([torch.ones(1, 16, 16), torch.zeros(1, 16, 16)]))


def test_masks_by_hand() -> None:
    target, output = torch.zeros(2, 2, 16, 16), torch.zeros(2, 2, 16, 16)
    target[0, 0, 4:8, 4:8] = 1
    output[0, 0, 4:8, 6:10] = 1  # moved by two: half of it
    output[0, 1, 0, 0] = 1  # where nothing should be
    target[1, 0, 2:4, 2:4] = output[1, 0, 2:4, 2:4] = 1
    found = mask_measures(output, target, percentile=None)
    nan = math.nan
    torch.testing.assert_close(found.dice, torch.tensor([[0.5, 0.0], [1.0, 1.0]], dtype=torch.float64))
    torch.testing.assert_close(found.iou, torch.tensor([[1 / 3, 0.0], [1.0, 1.0]], dtype=torch.float64))
    expected = torch.tensor([[2.0, nan], [0.0, nan]], dtype=torch.float64)
    torch.testing.assert_close(found.hausdorff, expected, equal_nan=True)
    expected = torch.tensor([[0.5, 0.0], [1.0, nan]], dtype=torch.float64)
    torch.testing.assert_close(found.precision, expected, equal_nan=True)
    expected = torch.tensor([[0.5, nan], [1.0, nan]], dtype=torch.float64)
    torch.testing.assert_close(found.recall, expected, equal_nan=True)
    wide = mask_measures(output, target, spacing=(1.0, 3.0), percentile=None)
    assert wide.hausdorff[0, 0] == 6
    with pytest.raises(ValueError, match="output has values other than 0 and 1"):
        mask_measures(0.5 * output, target)


def images(n: int, likeness: float) -> torch.Tensor:
    rng = np.random.default_rng(0)
    common, own = rng.standard_normal((1, 1, 176, 176)), rng.standard_normal((n, 1, 176, 176))
    mixed = gaussian_filter(likeness * common + (1 - likeness) * own, (0, 0, 4, 4))
    return torch.from_numpy((mixed - mixed.min()) / (mixed.max() - mixed.min())).float()


def test_diversity_falls_as_images_become_alike() -> None:
    found = [ms_ssim_diversity(images(12, likeness), pairs=40) for likeness in (0.0, 0.5, 0.9)]
    assert found[0].value < found[1].value - 3 * found[1].stderr < found[1].value < found[2].value
    same = images(1, 0.0).expand(4, -1, -1, -1)
    assert ms_ssim_diversity(same).value == pytest.approx(1, abs=1e-5)
    assert ms_ssim_diversity(same).pairs == 6
    some = images(12, 0.5)
    assert ms_ssim_diversity(some, pairs=20) == ms_ssim_diversity(some, pairs=20)
    with pytest.raises(ValueError, match="at least 161 x 161"):
        ms_ssim_diversity(torch.rand(4, 1, 160, 200))
