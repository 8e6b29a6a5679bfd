from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from anatodiff.transforms import Binarize, Binarized

GREY_LEVELS = np.arange(256)


@pytest.mark.parametrize("threshold", [0, 1, 120, 150, 254, 255])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_every_8_bit_level_is_on_the_side_that_opencv_puts_it(threshold: int, dtype: type, kind: str) -> None:
    levels = (GREY_LEVELS.astype(dtype) / dtype(255)).reshape(1, 16, 16)
    image = torch.from_numpy(levels) if kind == "tensor" else levels
    result = np.asarray(Binarize(threshold)(image))
    np.testing.assert_array_equal(result.ravel(), (threshold < GREY_LEVELS).astype(np.float32))


def test_threshold_defaults_to_that_of_the_paper() -> None:
    assert Binarize()(np.array([[[149, 150, 151]]]) / 255.0).ravel().tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_result_is_float32_and_of_the_same_kind(dtype: torch.dtype) -> None:
    image = torch.rand(1, 5, 7).to(dtype)
    result = Binarize(100)(image)
    assert result.dtype == torch.float32 and result.shape == image.shape
    assert set(result.unique().tolist()) <= {0.0, 1.0}
    assert Binarize(100)(image.double().numpy()).dtype == np.float32
    meta = Binarize(100)(MetaTensor(image, meta={"site": 3}))
    assert isinstance(meta, MetaTensor) and meta.meta["site"] == 3


@pytest.mark.parametrize("threshold", [-1, 255.5, 1000, float("nan")])
@pytest.mark.parametrize("make", [Binarize, lambda threshold: Binarized("image", threshold)])
def test_a_threshold_off_the_8_bit_scale_is_refused(make, threshold: float) -> None:
    with pytest.raises(ValueError, match=r"outside 0\.\.255"):
        make(threshold)


@pytest.mark.parametrize("value", [255.0, -1.0, float("nan")])
def test_an_image_on_another_scale_is_refused(value: float) -> None:
    image = torch.zeros(1, 4, 4)
    image[0, 1, 1] = value
    with pytest.raises(ValueError, match=r"not in \[0, 1\]"):
        Binarize()(image)


def test_an_empty_image_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        Binarize()(torch.zeros(1, 0, 4))


def test_dictionary_transform_changes_the_named_entries_of_a_copy() -> None:
    data = {"image": torch.full((1, 2, 2), 0.9), "other": torch.full((1, 2, 2), 0.9), "name": "a"}
    result = Compose([Binarized(["image"], threshold=200)])(data)
    assert result["image"].unique().tolist() == [1.0]
    assert torch.equal(result["other"], data["other"]) and result["name"] == "a"
    assert data["image"].unique().tolist() == pytest.approx([0.9])


def test_missing_entries() -> None:
    with pytest.raises(KeyError):
        Binarized("image")({})
    assert Binarized("image", allow_missing_keys=True)({}) == {}
