"""DiT: a diffusion transformer on latents, plain or between a convolutional stem and head.

Own code after Peebles and Xie, "Scalable Diffusion Models with Transformers", https://arxiv.org/abs/2212.09748.
Without a stem the parameter names are those of the published checkpoints.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import nn

from anatodiff.networks.conditions import Conditions
from anatodiff.networks.layers import (
    DiTBlock,
    FinalLayer,
    LabelEmbedder,
    PatchEmbed,
    TimestepEmbedder,
    position_embedding,
)
from anatodiff.networks.prototypes import ShapePrototypeModule
from anatodiff.networks.stem import ConvHead, ConvStem, check_stem


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
        stem: settings of the convolutional stem and head, see `anatodiff.networks.stem.check_stem`; None: the plain
            DiT, whose tokens are linear maps of patches.
        qk_norm: normalise queries and keys, see `Attention`; the plain DiT does not.
        gated_mlp: gated feed-forward layers, see `FeedForward`; the plain DiT has none.

    Raises:
        ValueError: sizes do not fit each other.

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
        stem: Mapping[str, Any] | None = None,
        qk_norm: bool = False,
        gated_mlp: bool = False,
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
        if stem is not None:
            self.settings["stem"] = check_stem(stem, patch_size)
        self.settings |= {name: True for name, used in (("qk_norm", qk_norm), ("gated_mlp", gated_mlp)) if used}
        self.input_size, self.patch_size, self.in_channels = input_size, patch_size, in_channels
        self.null_label = num_classes  # the label that stands for no class
        self.out_channels = 2 * in_channels if learn_sigma else in_channels
        self.stem, self.head = self._stem_and_head()
        # The last level of the stem has the resolution of the latent, halved once for each level after the first.
        self.token_patch = patch_size if stem is None else patch_size // 2 ** (len(stem["channels"]) - 1)
        self.token_channels = self.out_channels if stem is None else int(stem["channels"][-1])
        embedded = in_channels if stem is None else self.token_channels
        self.x_embedder = PatchEmbed(self.token_patch, embedded, hidden_size)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size)
        self.register_buffer("pos_embed", position_embedding(input_size // patch_size, hidden_size))
        block = hidden_size, num_heads, mlp_ratio, qk_norm, gated_mlp
        self.blocks = nn.ModuleList([DiTBlock(*block) for _ in range(depth)])
        self.final_layer = FinalLayer(hidden_size, self.token_patch**2 * self.token_channels)
        self.shapes: ShapePrototypeModule | None = None
        self._memory: tuple[torch.Tensor, torch.Tensor] | None = None
        self.conditions: Conditions | None = None
        self._initialise()

    @property
    def num_classes(self) -> int:
        """Number of classes, the null label not counted."""
        return self.null_label

    def _stem_and_head(self) -> tuple[ConvStem | None, ConvHead | None]:
        """Build the convolutional stem and head, or neither."""
        settings, width = self.settings.get("stem"), self.settings["hidden_size"]
        if settings is None:
            return None, None
        levels = settings["channels"], settings["blocks"], width
        return ConvStem(self.in_channels, *levels), ConvHead(*levels, self.out_channels)

    def _initialise(self) -> None:
        """Start as DiT does: each block is the identity, the output is zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.flatten(1))
        for name, parameter in self.named_parameters():
            if name == "x_embedder.proj.bias" or name.endswith(("adaLN_modulation.1.weight", "conv2.weight")):
                nn.init.zeros_(parameter)
            elif name.startswith(("y_embedder.", "t_embedder.")) and name.endswith("weight"):
                nn.init.normal_(parameter, std=0.02)
        if self.head is None:
            nn.init.zeros_(self.final_layer.linear.weight)
        else:
            nn.init.zeros_(self.head.output.weight)
            nn.init.zeros_(cast(torch.Tensor, self.head.output.bias))

    def _check(self, x: torch.Tensor) -> None:
        side = self.input_size
        if x.shape[1] != self.in_channels or x.shape[2] != side or x.shape[3] != side:
            raise ValueError(
                f"this DiT takes latents of {self.in_channels} x {side} x {side}, got {x.shape[1]} x {x.shape[2]} x "
                f"{x.shape[3]}; set image_size to 8 times the DiT's input size, or give another base"
            )

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Embed clean latents, without a class, as tokens with their positions; x (B, C, h, w) -> (B, T, D)."""
        self._check(x)
        if self.stem is not None:
            x = self.stem(self.stem.start(x), self.clean_embedding(x))[-1]  # (B, C', h', w')
        return self.x_embedder(x) + self.pos_embed  # (B, T, D)

    def clean_embedding(self, x: torch.Tensor) -> torch.Tensor:
        """Embed the time of clean latents and the null label, for x (B, ...) -> (B, D)."""
        labels = torch.full((len(x),), self.null_label, dtype=torch.long, device=x.device)  # (B,)
        return self.t_embedder(torch.zeros(len(x), device=x.device)) + self.y_embedder(labels)  # (B, D)

    def prototype_tokens(self) -> torch.Tensor:
        """Return theta_c of eq. 12, the embedded prototypes, (K, T, D)."""
        assert self.shapes is not None
        tokens = self.shapes.tokens
        return self.embed(self.shapes.prototypes) if tokens is None else tokens  # (K, T, D)

    def unpatchify(self, x: torch.Tensor) -> torch.Tensor:
        """Put patches together; x (B, T, p * p * C) -> (B, C, h', w'): the output, or the map that the head takes."""
        side, p = self.input_size // self.patch_size, self.token_patch
        x = x.reshape(-1, side, side, p, p, self.token_channels)  # (B, h'/p, w'/p, p, p, C)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(-1, self.token_channels, side * p, side * p)  # (B, C, h', w')

    def add_shapes(self, shapes: ShapePrototypeModule, blocks: int) -> None:
        """Offer prototypes to the last blocks.

        Args:
            shapes: the Shape Prototype Module.
            blocks: number N of last blocks that receive them.
        """
        if not 1 <= blocks <= len(self.blocks):
            raise ValueError(
                f"spm_blocks is {blocks}, the network has {len(self.blocks)}; choose 1 to {len(self.blocks)}"
            )
        self.shapes = shapes
        if self.stem is not None and not shapes.learnable:
            # A stem costs a tenth of a step for 25 prototypes: they are embedded once, by the base's weights.
            with torch.no_grad():
                shapes.register_buffer("tokens", self.embed(shapes.prototypes))
        for block in self.blocks[len(self.blocks) - blocks :]:
            cast(DiTBlock, block).add_shape_layers(shapes.width, asks=shapes.query == "block")

    def add_conditions(self, settings: dict[str, Any]) -> None:
        """Make the network take conditions; any that it has are replaced.

        Args:
            settings: of `Conditions`, without what the network says itself.
        """
        width, patch = self.settings["hidden_size"], self.patch_size
        channels = None if self.stem is None else self.stem.input.out_channels
        grid = self.input_size // patch
        conditions = Conditions(hidden_size=width, patch_size=patch, grid=grid, stem_channels=channels, **settings)
        self.conditions = conditions.to(self.final_layer.linear.weight.device)

    @contextlib.contextmanager
    def fixed_prototypes(self) -> Iterator[None]:
        """Compute the prototypes' keys and values once for all calls inside: they do not depend on t."""
        if self.shapes is not None:
            self._memory = self.shapes.memory(self.prototype_tokens())
        try:
            yield
        finally:
            self._memory = None

    def forward(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor | None = None,
        context: torch.Tensor | None = None,
        class_labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predict the noise (or what else the base predicts), and the variance fraction if it is learned.

        Args:
            x: (B, C, h, w) noised, scaled latents.
            timesteps: (B,) times, 0 to 999, or 0 to 1 for a flow; None is 0 for all.
            context: what the conditions are, see `anatodiff.autoencoders.ContextLayout`, where the network has
                conditions; else (B, T, D) tokens that are added to the patches. None tells nothing.
            class_labels: (B,) classes; None is the null label for all.

        Returns:
            (B, out_channels, h, w).
        """
        if timesteps is None:
            timesteps = torch.zeros(len(x), device=x.device)  # (B,)
        if class_labels is None:
            class_labels = torch.full((len(x),), self.null_label, dtype=torch.long, device=x.device)  # (B,)
        self._check(x)
        c = self.t_embedder(timesteps) + self.y_embedder(class_labels)  # (B, D)
        skips: list[torch.Tensor] = []
        if self.stem is not None:
            x = self.stem.start(x)  # (B, C', h, w)
            if self.conditions is not None and context is not None:
                x, c = self.conditions(x, c, context)  # (B, C', h, w), (B, D) or (B, T, D)
            skips = self.stem(x, c)
            x = skips[-1]  # (B, C'', h', w')
        x = self.x_embedder(x) + self.pos_embed  # (B, T, D)
        if context is not None:
            if self.conditions is None:
                x = x + context  # (B, T, D)
            elif self.stem is None:
                x, c = self.conditions(x, c, context)  # (B, T, D), (B, D) or (B, T, D)
        memory = self._memory
        z_c: torch.Tensor | None = None  # annotated for TorchScript
        if self.shapes is not None:
            if memory is None:
                memory = self.shapes.memory(self.prototype_tokens())  # 2 x (K*T, d)
            if self.shapes.query == "input":
                z_c = self.shapes(x, memory)  # (B, T, d)
        for block in self.blocks:
            if self.shapes is not None and memory is not None:
                z_c = self.shapes(x, memory) if block.asks_shapes else z_c  # (B, T, d)
            x = block(x, c, z_c)  # (B, T, D)
        x = self.unpatchify(self.final_layer(x, c))  # (B, C'', h', w'), or the output where there is no head
        return x if self.head is None else self.head(x, skips, c)  # (B, out_channels, h, w)
