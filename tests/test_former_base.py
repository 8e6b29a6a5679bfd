"""A base and an adapter of the architecture that shipped first: a plain DiT on 1,000 discrete noise levels.

The files are written tensor by tensor, with the headers of that version, and the samples are those of its code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from anatodiff.engines import SamplingInferer
from anatodiff.networks import load_adapter, load_base, merge_adapter
from anatodiff.weights import WeightsError, save_weights

WIDTH, DEPTH, CHANNELS, PATCH, CLASSES = 32, 4, 4, 2, 3
NETWORK: dict[str, Any] = {
    "input_size": 8, "patch_size": PATCH, "in_channels": CHANNELS, "hidden_size": WIDTH, "depth": DEPTH, "num_heads": 2,
    "mlp_ratio": 4.0, "num_classes": CLASSES, "learn_sigma": True,
}  # fmt: skip
DIFFUSION = {"schedule": "linear", "timesteps": 1000, "prediction": "v", "zero_terminal_snr": False}
FINETUNING = {
    "mode": "difffit", "gamma": "block", "lora_rank": 8, "lora_scale": 1.0, "lora_layers": ["qkv", "proj"],
}  # fmt: skip
LAYERS = {  # name -> rows, columns
    "attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH), "mlp.fc1": (4 * WIDTH, WIDTH),
    "mlp.fc2": (WIDTH, 4 * WIDTH), "adaLN_modulation.1": (6 * WIDTH, WIDTH),
}  # fmt: skip
ENDS = {
    "t_embedder.mlp.0": (WIDTH, 256), "t_embedder.mlp.2": (WIDTH, WIDTH),
    "final_layer.linear": (PATCH**2 * 2 * CHANNELS, WIDTH), "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH),
}  # fmt: skip
# Two samples by that version, the first pixel of each channel.
SAMPLED = {
    "ddim": [[-0.26251, -0.07759, 0.16464, 0.35182], [-0.97927, -0.25571, 0.08046, -0.05488]],
    "ddpm": [[-0.3818, 0.50054, -0.36727, -0.69091], [-0.79181, 0.63766, 0.12166, 0.19047]],
}


class Identity(nn.Module):
    """An autoencoder whose images are its latents."""

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z


def matrices() -> dict[str, tuple[int, ...]]:
    """Shapes of all weights of two dimensions, and of the embedding of the patches."""
    blocks = {f"blocks.{i}.{name}": shape for i in range(DEPTH) for name, shape in LAYERS.items()}
    return {"x_embedder.proj": (WIDTH, CHANNELS, PATCH, PATCH), **blocks, **ENDS}


def draw(shapes: dict[str, tuple[int, ...]], seed: int, size: float, mean: float = 0.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: mean + size * torch.randn(shapes[name], generator=generator) for name in sorted(shapes)}


def write_base(path: Path) -> str:
    weights = draw({f"{name}.weight": shape for name, shape in matrices().items()}, 0, 0.1)
    biases = draw({f"{name}.bias": shape[:1] for name, shape in matrices().items()}, 1, 0.1)
    table = draw({"y_embedder.embedding_table.weight": (CLASSES + 1, WIDTH)}, 2, 0.5)
    settings = {
        "kind": "dit", "network": NETWORK, "scale_factor": 1.5, "classes": ["a", "b", "c"], "autoencoder_sha256": "ae",
        "licence": "CC0", "diffusion": DIFFUSION, "notes": {},
    }  # fmt: skip
    return save_weights(path, {**weights, **biases, **table}, settings, half=True)


def write_adapter(path: Path, base_sha256: str) -> str:
    biases = draw({f"{name}.bias": shape[:1] for name, shape in matrices().items()}, 3, 0.1)
    table = draw({"y_embedder.embedding_table.weight": (2, WIDTH)}, 4, 0.5)
    gammas = draw({f"blocks.{i}.gamma{n}": (WIDTH,) for i in range(DEPTH) for n in (1, 2)}, 5, 0.2, mean=1.0)
    settings = {
        "kind": "adapter", "finetuning": FINETUNING, "num_classes": 1, "shapes": None, "base_sha256": base_sha256,
        "autoencoder_sha256": "ae", "scale_factor": 1.5, "diffusion": DIFFUSION, "classes": ["rare"],
    }  # fmt: skip
    return save_weights(path, {**biases, **table, **gammas}, settings)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """The adapter and its base."""
    adapter, base = tmp_path / "adapter.safetensors", tmp_path / "base.safetensors"
    write_adapter(adapter, write_base(base))
    return adapter, base


def samples(adapter: Path, base: Path | None, sampler: str) -> torch.Tensor:
    read = load_adapter(adapter, base)
    schedule, decoder = read.diffusion.build(), Identity()
    inferer = SamplingInferer(schedule, decoder, read.scale_factor, sampler, 5, seed=1)  # type: ignore[arg-type]
    return inferer(torch.tensor([0, 1]), read.network, torch.zeros(2, dtype=torch.long))  # (2, C, h, w)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_with_its_base_a_former_adapter_gives_the_samples_that_it_gave(files: tuple[Path, Path], sampler: str) -> None:
    found = samples(*files, sampler)
    torch.testing.assert_close(found[:, :, 0, 0], torch.tensor(SAMPLED[sampler]), rtol=1e-3, atol=1e-3)
    merged = files[0].with_name("merged.safetensors")
    merge_adapter(files[0], merged, files[1])
    torch.testing.assert_close(samples(merged, None, sampler), found, rtol=1e-3, atol=1e-3)


def test_without_its_base_a_former_adapter_names_the_one_that_is_needed(files: tuple[Path, Path]) -> None:
    wanted, shipped = load_base(files[1]).sha256[:12], load_base().sha256[:12]
    with pytest.raises(WeightsError, match=f"trained on the base {wanted}, this one is {shipped}; give its file with"):
        load_adapter(files[0])
