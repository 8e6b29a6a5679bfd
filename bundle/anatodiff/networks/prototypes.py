"""The Shape Prototype Module: what the training images have in common in shape, offered to the last blocks."""

import math

import torch
from torch import nn

QUERIES = ("input", "block")


class ShapePrototypeModule(nn.Module):
    """Cross-attention from the noised latent to encoded shape prototypes (AnatoDiff eq. 12).

    The blocks hold the layers that add its result (eq. 13-14, `DiTBlock.add_shape_layers`). The prototypes' latents
    travel with the adapter.

    Args:
        prototypes: (K, C, h, w) scaled latents of the cluster centres (eq. 11).
        hidden_size: width D of the DiT.
        width: bottleneck d_k of queries, keys, values and the layers after them.
        query: "input": the embedded noised latent asks once per forward; "block": each block's own input asks.
        learnable: train the prototypes' latents too; else they stay as clustered.
    """

    prototypes: torch.Tensor
    tokens: torch.Tensor | None  # (K, T, D) embedded once, where a stem makes embedding them in each step dear

    def __init__(
        self,
        prototypes: torch.Tensor,
        hidden_size: int,
        width: int = 64,
        query: str = "input",
        learnable: bool = False,
    ) -> None:
        super().__init__()
        if query not in QUERIES:
            raise ValueError(f"spm_query must be one of {QUERIES}, got {query!r}")
        if width < 1:
            raise ValueError(f"spm_width must be at least 1, got {width}")
        self.width, self.query, self.learnable = width, query, learnable
        if learnable:
            self.prototypes = nn.Parameter(prototypes.clone())
        else:
            self.register_buffer("prototypes", prototypes)
        self.register_buffer("tokens", None)
        self.to_query = nn.Linear(hidden_size, width, bias=False)
        self.to_key = nn.Linear(hidden_size, width, bias=False)
        self.to_value = nn.Linear(hidden_size, width, bias=False)
        self.trunk = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def memory(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute keys and values theta_c W_K and theta_c W_V.

        Args:
            theta: (K, T, D) prototypes, embedded by the DiT's own patch embedding.

        Returns:
            keys and values, each (K * T, d).
        """
        theta = theta.flatten(0, 1)  # (K*T, D)
        return self.to_key(theta), self.to_value(theta)  # 2 x (K*T, d)

    def attention(self, z: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Weigh the prototypes' patches: softmax(z W_Q (theta_c W_K)^T / sqrt(d_k)) of eq. 12.

        Args:
            z: (B, T, D) queries.
            keys: (K * T, d).

        Returns:
            (B, T, K * T), each row sums to 1.
        """
        scores = self.to_query(z) @ keys.T / math.sqrt(self.width)  # (B, T, K*T)
        return scores.softmax(dim=-1)  # (B, T, K*T)

    def forward(self, z: torch.Tensor, memory: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Attend to the prototypes (eq. 12), then the light layers that all blocks share.

        Args:
            z: (B, T, D) queries.
            memory: keys and values of `memory`.

        Returns:
            (B, T, d) soft combination of prototypes, z_c.
        """
        keys, values = memory
        return self.trunk(self.attention(z, keys) @ values)  # (B, T, d)
