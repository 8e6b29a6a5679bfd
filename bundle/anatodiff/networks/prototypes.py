"""The Shape Prototype Module: what the training images have in common in shape, offered to the last blocks."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

QUERIES = ("input", "block")


class ShapePrototypeModule(nn.Module):
    """Cross-attention from the noised latent to encoded shape prototypes (AnatoDiff eq. 12-14).

    The prototypes' latents are a buffer, so they travel with the adapter. The output layers start at zero: before the
    first step the network is exactly its base.

    Args:
        prototypes: (K, C, h, w) scaled latents of the cluster centres (eq. 11).
        hidden_size: width D of the DiT.
        blocks: number N of last blocks that receive the prototypes.
        width: bottleneck d of queries, keys, values and the layers after them.
        query: "input": the embedded noised latent asks once per forward; "block": each block's own input asks.
    """

    prototypes: torch.Tensor

    def __init__(
        self,
        prototypes: torch.Tensor,
        hidden_size: int,
        blocks: int,
        width: int = 64,
        query: str = "input",
    ) -> None:
        super().__init__()
        if query not in QUERIES:
            raise ValueError(f"spm_query must be one of {QUERIES}, got {query!r}")
        if blocks < 1 or width < 1:
            raise ValueError(f"spm_blocks and spm_width must be at least 1, got {blocks} and {width}")
        self.blocks, self.width, self.query = blocks, width, query
        self.register_buffer("prototypes", prototypes)
        self.to_query = nn.Linear(hidden_size, width, bias=False)
        self.to_key = nn.Linear(hidden_size, width, bias=False)
        self.to_value = nn.Linear(hidden_size, width, bias=False)
        self.trunk = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.after_attention = nn.ModuleList(nn.Linear(width, hidden_size) for _ in range(blocks))
        self.after_feedforward = nn.ModuleList(nn.Linear(width, hidden_size) for _ in range(blocks))
        for layer in [*self.after_attention, *self.after_feedforward]:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def memory(self, embed: Callable[[torch.Tensor], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute keys and values theta_c W_K and theta_c W_V.

        Args:
            embed: the DiT's own patch embedding, (K, C, h, w) -> (K, T, D).

        Returns:
            keys and values, each (K * T, d).
        """
        theta = embed(self.prototypes).flatten(0, 1)  # (K*T, D)
        return self.to_key(theta), self.to_value(theta)  # 2 x (K*T, d)

    def forward(self, z: torch.Tensor, memory: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Attend to the prototypes (eq. 12), then the light layers that all blocks share.

        Args:
            z: (B, T, D) queries.
            memory: keys and values of `memory`.

        Returns:
            (B, T, d) soft combination of prototypes, z_c.
        """
        keys, values = memory
        scores = self.to_query(z) @ keys.T / math.sqrt(self.width)  # (B, T, K*T)
        return self.trunk(scores.softmax(dim=-1) @ values)  # (B, T, d)
