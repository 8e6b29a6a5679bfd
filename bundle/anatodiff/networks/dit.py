"""DiT: a diffusion transformer on latents, with the places where AnatoDiff's fine-tune enters.

Own code after Peebles and Xie, "Scalable Diffusion Models with Transformers", https://arxiv.org/abs/2212.09748.
Parameter names follow the published checkpoints, so that those load by path.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from anatodiff.networks.prototypes import ShapePrototypeModule

FREQUENCY_CHANNELS = 256  # of the timestep's sinusoids
MAX_PERIOD = 10_000.0


def sinusoids(positions: torch.Tensor, channels: int, sine_first: bool) -> torch.Tensor:
    """Embed numbers in sines and cosines of falling frequency (Vaswani et al. 2017).

    Args:
        positions: (N,) numbers.
        channels: even size of the embedding.
        sine_first: sines, then cosines (positions in an image), or the reverse (timesteps).

    Returns:
        (N, channels).
    """
    half = channels // 2
    frequencies = torch.exp(-math.log(MAX_PERIOD) * torch.arange(half, device=positions.device) / half)
    angles = positions[:, None].float() * frequencies  # (N, channels/2)
    parts = [angles.sin(), angles.cos()] if sine_first else [angles.cos(), angles.sin()]
    return torch.cat(parts, dim=1)  # (N, channels)


def position_embedding(grid: int, channels: int) -> torch.Tensor:
    """Build the fixed 2-D position embedding: half of the channels for the column, half for the row.

    Args:
        grid: patches per side.
        channels: multiple of 4.

    Returns:
        (1, grid * grid, channels).
    """
    along = torch.arange(grid)
    columns = sinusoids(along.repeat(grid), channels // 2, sine_first=True)  # (T, D/2)
    rows = sinusoids(along.repeat_interleave(grid), channels // 2, sine_first=True)  # (T, D/2)
    return torch.cat([columns, rows], dim=1)[None]  # (1, T, D)


class Attention(nn.Module):
    """Multi-head self-attention over the patches of one image."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend; x (B, T, D) -> (B, T, D)."""
        b, t, d = x.shape
        qkv = self.qkv(x).reshape(b, t, 3, self.num_heads, d // self.num_heads)  # (B, T, 3, heads, D/heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # 3 x (B, heads, T, D/heads)
        out = F.scaled_dot_product_attention(q, k, v)  # (B, heads, T, D/heads)
        return self.proj(out.transpose(1, 2).reshape(b, t, d))  # (B, T, D)


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, hidden_size: int, ratio: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, int(hidden_size * ratio))
        self.fc2 = nn.Linear(int(hidden_size * ratio), hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform each patch; x (B, T, D) -> (B, T, D)."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))  # (B, T, D)


class DiTBlock(nn.Module):
    """A transformer block with adaLN-Zero (AnatoDiff eq. 6-8), DiffFit's scales (eq. 9-10) and additions (eq. 13-14)."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(hidden_size, num_heads)
        self.norm2 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.mlp = FeedForward(hidden_size, mlp_ratio)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 6 * hidden_size))
        # gamma_1 and gamma_2 of eq. 9-10; absent until `set_finetuning` adds them, so a base has plain DiT's keys.
        self.register_parameter("gamma1", None)
        self.register_parameter("gamma2", None)

    def forward(
        self,
        x: torch.Tensor,
        c: torch.Tensor,
        shapes: ShapePrototypeModule | None = None,
        shape_context: torch.Tensor | None = None,
        position: int = 0,
    ) -> torch.Tensor:
        """Apply the block.

        Args:
            x: (B, T, D) patches.
            c: (B, D) embedding of time and class.
            shapes: the Shape Prototype Module, in the last N blocks only.
            shape_context: (B, T, d) prototype representation z_c.
            position: which of the last N blocks this is.

        Returns:
            (B, T, D).
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c)[:, None].chunk(6, dim=2)  # (B, 1, D)
        out = gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)  # (B, T, D)
        x = x + (out if self.gamma1 is None else self.gamma1 * out)  # (B, T, D)
        if shapes is not None and shape_context is not None:
            x = x + shapes.after_attention[position](shape_context)  # (B, T, D)
        out = gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)  # (B, T, D)
        x = x + (out if self.gamma2 is None else self.gamma2 * out)  # (B, T, D)
        if shapes is not None and shape_context is not None:
            x = x + shapes.after_feedforward[position](shape_context)  # (B, T, D)
        return x


class FinalLayer(nn.Module):
    """The last modulated normalisation and the projection to pixels of the latent."""

    def __init__(self, hidden_size: int, outputs: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(hidden_size, outputs)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """Project; x (B, T, D), c (B, D) -> (B, T, outputs)."""
        shift, scale = self.adaLN_modulation(c)[:, None].chunk(2, dim=2)  # 2 x (B, 1, D)
        return self.linear(self.norm_final(x) * (1 + scale) + shift)  # (B, T, outputs)


class PatchEmbed(nn.Module):
    """Cut a latent into patches and embed each."""

    def __init__(self, patch_size: int, in_channels: int, hidden_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, hidden_size, patch_size, stride=patch_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Embed; x (B, C, h, w) -> (B, T, D)."""
        return self.proj(x).flatten(2).transpose(1, 2)  # (B, T, D)


class TimestepEmbedder(nn.Module):
    """Embed the timestep."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(FREQUENCY_CHANNELS, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        """Embed; t (B,) -> (B, D)."""
        return self.mlp(sinusoids(t, FREQUENCY_CHANNELS, sine_first=False))  # (B, D)


class LabelEmbedder(nn.Module):
    """A row per class, and the null row last: the label that stands for none."""

    def __init__(self, num_classes: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, hidden_size)

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        """Look up; labels (B,) in [0, num_classes] -> (B, D)."""
        return self.embedding_table(labels)  # (B, D)


class DiT(nn.Module):
    """Diffusion transformer: noised latent, time and class in, noise (and variance) out.

    Args:
        input_size: side of the latent in pixels.
        patch_size: side of a patch in latent pixels.
        in_channels: channels of the latent.
        hidden_size: width D, a multiple of 4 and of `num_heads`.
        depth: number of blocks L.
        num_heads: attention heads.
        mlp_ratio: hidden width of the feed-forward layers over D.
        num_classes: number of classes; label `num_classes` is the null label.
        learn_sigma: also predict the variance fraction (output has 2C channels).

    References:
        Peebles and Xie, https://arxiv.org/abs/2212.09748
    """

    def __init__(
        self,
        input_size: int = 32,
        patch_size: int = 4,
        in_channels: int = 4,
        hidden_size: int = 192,
        depth: int = 8,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        num_classes: int = 1,
        learn_sigma: bool = True,
    ) -> None:
        super().__init__()
        if input_size % patch_size or hidden_size % num_heads or hidden_size % 4:
            raise ValueError(
                f"input_size {input_size} must be a multiple of patch_size {patch_size}, "
                f"hidden_size {hidden_size} of 4 and of num_heads {num_heads}"
            )
        self.settings: dict[str, Any] = {
            "input_size": input_size,
            "patch_size": patch_size,
            "in_channels": in_channels,
            "hidden_size": hidden_size,
            "depth": depth,
            "num_heads": num_heads,
            "mlp_ratio": mlp_ratio,
            "num_classes": num_classes,
            "learn_sigma": learn_sigma,
        }
        self.patch_size, self.in_channels, self.num_classes = patch_size, in_channels, num_classes
        self.out_channels = 2 * in_channels if learn_sigma else in_channels
        self.x_embedder = PatchEmbed(patch_size, in_channels, hidden_size)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size)
        self.register_buffer("pos_embed", position_embedding(input_size // patch_size, hidden_size))
        self.blocks = nn.ModuleList(DiTBlock(hidden_size, num_heads, mlp_ratio) for _ in range(depth))
        self.final_layer = FinalLayer(hidden_size, patch_size**2 * self.out_channels)
        self.shapes: ShapePrototypeModule | None = None
        self._memory: tuple[torch.Tensor, torch.Tensor] | None = None
        self._initialise()

    @property
    def null_label(self) -> int:
        """The label that stands for no class."""
        return self.num_classes

    def _initialise(self) -> None:
        """Start as DiT does: each block is the identity, the output is zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.flatten(1))
        nn.init.zeros_(self.x_embedder.proj.bias)
        for embedding in (self.y_embedder.embedding_table, self.t_embedder.mlp[0], self.t_embedder.mlp[2]):
            nn.init.normal_(embedding.weight, std=0.02)
        for module in [*(block.adaLN_modulation[1] for block in self.blocks), self.final_layer.adaLN_modulation[1]]:
            nn.init.zeros_(module.weight)
        nn.init.zeros_(self.final_layer.linear.weight)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Cut latents into embedded patches with their positions; x (B, C, h, w) -> (B, T, D)."""
        return self.x_embedder(x) + self.pos_embed  # (B, T, D)

    def unpatchify(self, x: torch.Tensor) -> torch.Tensor:
        """Put patches together; x (B, T, p * p * out_channels) -> (B, out_channels, h, w)."""
        side, p = math.isqrt(x.shape[1]), self.patch_size
        x = x.reshape(-1, side, side, p, p, self.out_channels)  # (B, h/p, w/p, p, p, C)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(-1, self.out_channels, side * p, side * p)  # (B, C, h, w)

    @contextlib.contextmanager
    def fixed_prototypes(self) -> Iterator[None]:
        """Compute the prototypes' keys and values once for all calls inside: they do not depend on t."""
        self._memory = None if self.shapes is None else self.shapes.memory(self.embed)
        try:
            yield
        finally:
            self._memory = None

    def forward(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        context: torch.Tensor | None = None,
        class_labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predict the noise, and the variance fraction if it is learned.

        Args:
            x: (B, C, h, w) noised, scaled latents.
            timesteps: (B,) times, 0 to 999.
            context: (B, T, D) tokens that are added to the patches (e.g. an embedded anatomy mask), or None.
            class_labels: (B,) classes; None is the null label for all.

        Returns:
            (B, out_channels, h, w).
        """
        if class_labels is None:
            class_labels = torch.full((len(x),), self.null_label, device=x.device)  # (B,)
        x = self.embed(x)  # (B, T, D)
        if context is not None:
            x = x + context  # (B, T, D)
        c = self.t_embedder(timesteps) + self.y_embedder(class_labels)  # (B, D)
        first = len(self.blocks) - (0 if self.shapes is None else self.shapes.blocks)
        memory, shape_context = self._memory, None
        if self.shapes is not None:
            memory = self.shapes.memory(self.embed) if memory is None else memory  # 2 x (K*T, d)
            shape_context = self.shapes(x, memory) if self.shapes.query == "input" else None  # (B, T, d)
        for i, block in enumerate(self.blocks):
            if self.shapes is None or i < first:
                x = block(x, c)  # (B, T, D)
                continue
            if self.shapes.query == "block" and memory is not None:
                shape_context = self.shapes(x, memory)  # (B, T, d)
            x = block(x, c, self.shapes, shape_context, i - first)  # (B, T, D)
        return self.unpatchify(self.final_layer(x, c))  # (B, out_channels, h, w)
