"""What a network is told of a slice, as numbers: zero wherever nothing is said."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support import SIZE

from anatodiff.autoencoders import CLIPCodec, ContextLayout, LatentCodec, MapCodec, TokenCodec, load_autoencoder
from anatodiff.autoencoders.context import mask_picture, noise_picture
from anatodiff.weights import WeightsError

BOTH = ("noise", "mask")
ORGANS = 2
ALL, NONE = torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)


def slices() -> tuple[torch.Tensor, torch.Tensor]:
    """Noise (2, 1, 16, 16) in HU and masks (2, 16, 16) of two organs."""
    noise = torch.zeros(2, 1, 16, 16)
    noise[0, :, :8] = 10.0
    noise[0, :, 8:, 8:] = torch.tensor([20.0, 60.0]).repeat(4)
    noise[1] = 25.0
    mask = torch.zeros(2, 16, 16, dtype=torch.uint8)
    mask[0, :4, :8] = 1  # half of the first latent pixel
    mask[0, 4:6, :8] = 2  # a quarter of it
    mask[1, 8:, 8:] = 2
    return noise, mask


def test_maps_are_presence_mean_noise_and_shares_of_area() -> None:
    codec = MapCodec(BOTH, 50.0, ORGANS)
    context = codec.encode(*slices(), ALL, ALL)
    assert context.shape == (2, 5, 2, 2) and context.dtype == torch.float32
    presence = torch.ones(2, 2)
    expected = [
        [presence, torch.tensor([[0.2, 0.2], [0.0, 0.8]]),
         presence, torch.tensor([[0.5, 0.0], [0.0, 0.0]]), torch.tensor([[0.25, 0.0], [0.0, 0.0]])],
        [presence, torch.full((2, 2), 0.5),
         presence, torch.zeros(2, 2), torch.tensor([[0.0, 0.0], [0.0, 1.0]])],
    ]  # fmt: skip
    torch.testing.assert_close(context, torch.stack([torch.stack(maps) for maps in expected]))
    assert codec.layout == ContextLayout(BOTH, (2, 3))


@pytest.mark.parametrize("names", [("noise",), ("mask",), BOTH, BOTH[::-1]], ids="+".join)
def test_conditions_lie_where_the_layout_says(names: tuple[str, ...]) -> None:
    codec, whole = MapCodec(names, 50.0, ORGANS), MapCodec(BOTH, 50.0, ORGANS)
    context, other = (one.encode(*slices(), ALL, ALL) for one in (codec, whole))
    assert context.shape[1] == sum(codec.layout.sizes)
    for name, place in codec.layout.slices().items():
        torch.testing.assert_close(context[:, place], other[:, whole.layout.slices()[name]])


@pytest.mark.parametrize("factor", [4, 16])
def test_a_latent_pixel_is_as_large_as_the_autoencoders(factor: int) -> None:
    context = MapCodec(BOTH, 50.0, ORGANS, factor).encode(*slices(), ALL, ALL)
    assert context.shape == (2, 5, 16 // factor, 16 // factor)
    assert float(context[1, 4].mean()) == pytest.approx(0.25)


@pytest.fixture(scope="module")
def autoencoder(small_weights: dict[str, str]) -> LatentCodec:
    return load_autoencoder(small_weights["autoencoder_path"]).eval()


def large(values: torch.Tensor) -> torch.Tensor:
    return values.repeat_interleave(SIZE // 16, -1).repeat_interleave(SIZE // 16, -2)


def test_tokens_are_latents_of_the_conditions_as_pictures(autoencoder: LatentCodec) -> None:
    codec = TokenCodec(BOTH, 50.0, ORGANS, autoencoder, 1.5)
    noise, mask = (large(values) for values in slices())
    context = codec.encode(noise, mask, ALL, ALL)
    assert context.shape == (2, 10, SIZE // 8, SIZE // 8)
    assert codec.layout == ContextLayout(BOTH, (5, 5))
    with torch.no_grad():
        of_noise = autoencoder.encode((noise / 50).clamp(0, 1))[0] * 1.5
        of_mask = autoencoder.encode(mask[:, None] / 2)[0] * 1.5
    torch.testing.assert_close(context[:, 1:5], of_noise)
    torch.testing.assert_close(context[:, 6:], of_mask)
    assert (context[:, (0, 5)] == 1).all() and not context.requires_grad


def test_pictures_show_noise_up_to_white_and_organs_as_gray_levels() -> None:
    noise, mask = slices()
    assert noise_picture(noise, 50.0).unique().tolist() == pytest.approx([0, 0.2, 0.4, 0.5, 1])
    assert mask_picture(mask, ORGANS).unique().tolist() == [0, 0.5, 1]
    assert mask_picture(mask * 0, 0).unique().tolist() == [0]


@pytest.mark.parametrize("kind", ["maps", "tokens"])
def test_what_is_not_told_is_zero(kind: str, autoencoder: LatentCodec) -> None:
    maps = MapCodec(BOTH, 50.0, ORGANS)
    codec = maps if kind == "maps" else TokenCodec(BOTH, 50.0, ORGANS, autoencoder, 1.5)
    noise, mask = (large(values) for values in slices())
    whole = codec.encode(noise, mask, ALL, ALL)
    first = torch.tensor([True, False])
    context = codec.encode(noise, mask, first, ~first)
    places = codec.layout.slices()
    for row, name in enumerate(BOTH):
        torch.testing.assert_close(context[row, places[name]], whole[row, places[name]])
        assert not context[1 - row, places[name]].any()
    assert not codec.encode(noise, mask, NONE, NONE).any()


def test_half_precision_noise_is_told_as_any_other() -> None:
    noise, mask = slices()
    codec = MapCodec(BOTH, 50.0, ORGANS)
    torch.testing.assert_close(codec.encode(noise.half(), mask, ALL, ALL), codec.encode(noise, mask, ALL, ALL))


def test_another_encoding_has_another_key(autoencoder: LatentCodec) -> None:
    codecs = [
        MapCodec(BOTH, 50.0, 2), MapCodec(BOTH, 60.0, 2), MapCodec(BOTH, 50.0, 3), MapCodec(("noise",), 50.0, 2),
        MapCodec(BOTH, 50.0, 2, 4), TokenCodec(BOTH, 50.0, 2, autoencoder, 1.5),
        TokenCodec(BOTH, 50.0, 2, autoencoder, 1.0),
    ]  # fmt: skip
    assert len({str(codec.key) for codec in codecs}) == len(codecs)
    assert MapCodec(BOTH, 50, 2).key == codecs[0].key


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((("noise", "dose"), (2, 2)), "conditions must be some of"),
        ((("noise", "noise"), (2, 2)), "conditions must be some of"),
        (((), ()), "conditions must be some of"),
        ((BOTH, (2, 3), "pictures"), "a context of form 'pictures'"),
        ((BOTH, (2,)), r"sizes \(2,\)"),
    ],
)
def test_layouts_that_are_none_are_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContextLayout(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_a_scale_of_no_noise_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="noise_scale must be above 0 HU"):
        MapCodec(BOTH, scale, ORGANS)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small vision tower of CLIP with random weights, as transformers saves it."""
    transformers = pytest.importorskip("transformers", reason="CLIP is an extra: pip install 'anatodiff[clip]'")
    torch.manual_seed(0)
    config = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, projection_dim=12, num_hidden_layers=2, num_attention_heads=2,
        image_size=32, patch_size=8,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("clip")
    transformers.CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


def test_embeddings_are_those_of_the_vision_tower(clip_folder: Path) -> None:
    from transformers import CLIPVisionModelWithProjection

    codec = CLIPCodec(BOTH, 50.0, ORGANS, clip_folder)
    assert codec.layout == ContextLayout(BOTH, (1, 1), "embeddings") and (codec.features, codec.side) == (12, 32)
    noise, mask = slices()
    context = codec.encode(noise, mask, ALL, ALL)
    assert context.shape == (2, 2, 12) and context.dtype == torch.float32 and not context.requires_grad
    model = CLIPVisionModelWithProjection.from_pretrained(clip_folder).eval()
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).reshape(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).reshape(3, 1, 1)
    for number, picture in enumerate([(noise / 50).clamp(0, 1), mask[:, None] / 2]):
        scaled = F.interpolate(picture, size=(32, 32), mode="bicubic", antialias=True).clamp(0, 1)
        with torch.no_grad():
            expected = model((scaled.repeat(1, 3, 1, 1) - mean) / std).image_embeds
        torch.testing.assert_close(context[:, number], expected)
    assert not torch.allclose(context[0], context[1], atol=1e-4)


def test_embeddings_of_what_is_not_told_are_zero(clip_folder: Path) -> None:
    codec = CLIPCodec(BOTH, 50.0, ORGANS, clip_folder)
    first = torch.tensor([True, False])
    context = codec.encode(*slices(), first, ~first)
    assert context.flatten(2).any(2).tolist() == [[True, False], [False, True]]
    assert not codec.encode(*slices(), NONE, NONE).any()


def test_the_weights_of_clip_are_in_its_key(clip_folder: Path, tmp_path: Path) -> None:
    from transformers import CLIPVisionModelWithProjection

    model = CLIPVisionModelWithProjection.from_pretrained(clip_folder)
    model.visual_projection.weight.data += 0.1
    model.save_pretrained(tmp_path)
    keys = [CLIPCodec(BOTH, 50.0, ORGANS, path).key for path in (clip_folder, clip_folder, tmp_path)]
    assert keys[0] == keys[1] != keys[2]


def test_a_folder_that_is_no_clip_model_is_named(clip_folder: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "none"
    with pytest.raises(WeightsError, match=r"none: no folder of a CLIP model with model\.safetensors"):
        CLIPCodec(BOTH, 50.0, ORGANS, nowhere)
    (tmp_path / "config.json").write_bytes((clip_folder / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(WeightsError, match=r"no folder of a CLIP model with model\.safetensors"):
        CLIPCodec(BOTH, 50.0, ORGANS, tmp_path)
    weights = (clip_folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(WeightsError, match="not a CLIP model that transformers reads") as error:
        CLIPCodec(BOTH, 50.0, ORGANS, tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / "model.safetensors").write_bytes(weights)
    (tmp_path / "config.json").unlink()
    with pytest.raises(WeightsError, match="not a CLIP model that transformers reads") as error:
        CLIPCodec(BOTH, 50.0, ORGANS, tmp_path)
    assert "\n" not in str(error.value)


def test_weights_of_another_model_are_refused(clip_folder: Path, tmp_path: Path) -> None:
    """transformers gives what the file lacks random weights: a network told by those is told nothing."""
    from safetensors.torch import save_file

    (tmp_path / "config.json").write_bytes((clip_folder / "config.json").read_bytes())
    save_file({"encoder.weight": torch.zeros(3)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="not a CLIP model"):
        CLIPCodec(BOTH, 50.0, ORGANS, tmp_path)


def test_without_transformers_the_cure_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(WeightsError, match=r"CLIP needs transformers; install it: pip install 'anatodiff\[clip\]'"):
        CLIPCodec(BOTH, 50.0, ORGANS, os.fspath(tmp_path))
