"""The layers of a DiT.

Own code after Peebles and Xie, "Scalable Diffusion Models with Transformers", https://arxiv.org/abs/2212.09748.
Parameter names are those of the published checkpoints.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from anatodiff.networks.low_rank import LowRank

GATED_MULTIPLE = 16  # hidden widths that matrix products are fast at


def sinusoids(
    positions: torch.Tensor,
    channels: int,
    sine_first: bool,
    max_period: float = 10_000.0,
) -> torch.Tensor:
    """Embed numbers in sines and cosines of falling frequency (Vaswani et al. 2017).

    Args:
        positions: (N,) numbers.
        channels: even size of the embedding.
        sine_first: sines, then cosines (positions in an image), or the reverse (timesteps).
        max_period: of the slowest sine, in units of 2 pi.

    Returns:
        (N, channels).
    """
    half = channels // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=positions.device) / half)
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


def per_patch(modulation: torch.Tensor) -> torch.Tensor:
    """Give what is for a whole image, (B, N), the form of what is for each patch, (B, 1, N)."""
    return modulation[:, None] if modulation.dim() == 2 else modulation  # (B, 1 or T, N)


class TunedLinear(nn.Linear):
    """A linear layer with the two places where a fine-tune enters: y = gamma (W x + b + scale B A x).

    Both are absent until `set_finetuning` adds one, so that a base has plain DiT's parameter names.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.gamma: nn.Parameter | None
        self.register_parameter("gamma", None)  # DiffFit's own scale of a layer, https://arxiv.org/abs/2304.06648
        self.low_rank: LowRank | None = None  # LoRA's or SeLoRA's addition

    def add_gamma(self) -> None:
        """Give the layer a scale of 1, so that nothing changes yet."""
        self.gamma = nn.Parameter(torch.ones(self.out_features, device=self.weight.device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform; x (..., in_features) -> (..., out_features)."""
        y = F.linear(x, self.weight, self.bias)  # (..., out_features)
        if self.low_rank is not None:
            y = y + self.low_rank(x)  # (..., out_features)
        if self.gamma is not None:
            y = self.gamma * y  # (..., out_features)
        return y


class Attention(nn.Module):
    """Multi-head self-attention over the patches of one image.

    Args:
        hidden_size: width D.
        num_heads: attention heads.
        qk_norm: bring queries and keys to unit root mean square before they are compared (Henry et al.,
            https://arxiv.org/abs/2010.04245, without learned scales).
    """

    def __init__(self, hidden_size: int, num_heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.num_heads, self.qk_norm = num_heads, qk_norm
        self.qkv = TunedLinear(hidden_size, 3 * hidden_size)
        self.proj = TunedLinear(hidden_size, hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend; x (B, T, D) -> (B, T, D)."""
        b, t, d = x.shape
        qkv = self.qkv(x).reshape(b, t, 3, self.num_heads, d // self.num_heads)  # (B, T, 3, heads, D/heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # 3 x (B, heads, T, D/heads)
        if self.qk_norm:
            q, k = F.rms_norm(q, [d // self.num_heads]), F.rms_norm(k, [d // self.num_heads])
        out = attend(q, k, v)  # (B, heads, T, D/heads)
        return self.proj(out.transpose(1, 2).reshape(b, t, d))  # (B, T, D)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attend; queries, keys and values (B, heads, T, d) -> (B, heads, T, d)."""
    if v.dtype == torch.bfloat16 and v.device.type == "cpu" and torch.is_grad_enabled():
        # The gradient of torch's own takes nine times as long here, a third of a small network's training step.
        weights = torch.softmax((q * q.shape[-1] ** -0.5 @ k.transpose(2, 3)).float(), dim=-1)  # (B, heads, T, T)
        return weights.to(v.dtype) @ v  # (B, heads, T, d)
    return F.scaled_dot_product_attention(q, k, v)  # (B, heads, T, d)


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them, or a gated layer in place of the first.

    Args:
        hidden_size: width D.
        ratio: hidden width over D; of a gated layer it is two thirds of that, so that both have as many parameters.
        gated: the product of one half of the first layer's outputs with the SiLU of the other (SwiGLU, Shazeer,
            https://arxiv.org/abs/2002.05202).
    """

    def __init__(self, hidden_size: int, ratio: float, gated: bool = False) -> None:
        super().__init__()
        self.gated = gated
        inner = (
            int(hidden_size * ratio * 2 / 3 / GATED_MULTIPLE) * GATED_MULTIPLE if gated else int(hidden_size * ratio)
        )
        self.fc1 = TunedLinear(hidden_size, 2 * inner if gated else inner)
        self.fc2 = TunedLinear(inner, hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform each patch; x (B, T, D) -> (B, T, D)."""
        x = self.fc1(x)  # (B, T, inner or 2 * inner)
        if self.gated:
            gate, value = x.chunk(2, dim=2)  # 2 x (B, T, inner)
            return self.fc2(F.silu(gate) * value)  # (B, T, D)
        return self.fc2(F.gelu(x, approximate="tanh"))  # (B, T, D)


class DiTBlock(nn.Module):
    """A transformer block: adaLN-Zero (AnatoDiff eq. 6-8), DiffFit's scales (eq. 9-10), additions (eq. 13-14)."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        mlp_ratio: float,
        qk_norm: bool = False,
        gated: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(hidden_size, num_heads, qk_norm)
        self.norm2 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.mlp = FeedForward(hidden_size, mlp_ratio, gated)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 6 * hidden_size))
        self.gamma1: nn.Parameter | None
        self.gamma2: nn.Parameter | None
        # gamma_1 and gamma_2 of eq. 9-10; absent until `set_finetuning` adds them, so a base has plain DiT's keys.
        self.register_parameter("gamma1", None)
        self.register_parameter("gamma2", None)
        # The block's own layers for z_c of eq. 13 and 14; absent but in the last N blocks of AnatoDiff.
        self.shape_attention: nn.Linear | None = None
        self.shape_feedforward: nn.Linear | None = None
        self.asks_shapes = False  # whether its own input is the query of eq. 12

    def add_gammas(self) -> None:
        """Give the block the scales of eq. 9-10, all 1, so that nothing changes yet."""
        like = self.attn.proj.weight
        self.gamma1 = nn.Parameter(torch.ones(len(like), device=like.device))
        self.gamma2 = nn.Parameter(torch.ones(len(like), device=like.device))

    def add_shape_layers(self, width: int, asks: bool) -> None:
        """Give the block its two layers for the prototypes, both zero, so that nothing changes yet.

        Args:
            width: width d of the prototype representation z_c.
            asks: whether the block's own input is the query.
        """
        self.asks_shapes = asks
        hidden_size = self.attn.proj.out_features
        self.shape_attention = nn.Linear(width, hidden_size)
        self.shape_feedforward = nn.Linear(width, hidden_size)
        for layer in (self.shape_attention, self.shape_feedforward):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor, c: torch.Tensor, z_c: torch.Tensor | None = None) -> torch.Tensor:
        """Apply the block.

        Args:
            x: (B, T, D) patches.
            c: (B, D) embedding of time and class, or (B, T, D) one for each patch.
            z_c: (B, T, d) prototype representation; read by the last N blocks only.

        Returns:
            (B, T, D).
        """
        modulation = per_patch(self.adaLN_modulation(c))  # (B, 1 or T, 6 * D)
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=2)  # 6 x (B, 1 or T, D)
        out = gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)  # (B, T, D)
        x = x + (out if self.gamma1 is None else self.gamma1 * out)  # (B, T, D)
        if self.shape_attention is not None and z_c is not None:
            x = x + self.shape_attention(z_c)  # (B, T, D)
        out = gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)  # (B, T, D)
        x = x + (out if self.gamma2 is None else self.gamma2 * out)  # (B, T, D)
        if self.shape_feedforward is not None and z_c is not None:
            x = x + self.shape_feedforward(z_c)  # (B, T, D)
        return x


class FinalLayer(nn.Module):
    """The last modulated normalisation and the projection to pixels of the latent."""

    def __init__(self, hidden_size: int, outputs: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(hidden_size, outputs)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """Project; x (B, T, D), c (B, D) or (B, T, D) -> (B, T, outputs)."""
        shift, scale = per_patch(self.adaLN_modulation(c)).chunk(2, dim=2)  # 2 x (B, 1 or T, D)
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
        self.frequencies = 256
        self.mlp = nn.Sequential(
            nn.Linear(self.frequencies, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        """Embed; t (B,) -> (B, D)."""
        return self.mlp(sinusoids(t, self.frequencies, sine_first=False))  # (B, D)


class LabelEmbedder(nn.Module):
    """A row per class, and the null row last: the label that stands for none."""

    def __init__(self, num_classes: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, hidden_size)

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        """Look up; labels (B,) in [0, num_classes] -> (B, D)."""
        return self.embedding_table(labels)  # (B, D)
