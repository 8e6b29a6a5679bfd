"""How a DiT is told of noise and anatomy: as a global vector, as tokens, or as channels of its input."""

from typing import Any

import torch
from torch import nn

from anatodiff.networks.layers import position_embedding

WAYS = ("global", "tokens", "spatial")
FUSIONS = ("concat", "sum")
FEATURES = 768  # of CLIP's vision tower, and of the small encoder that takes its place
WIDTHS = (32, 64, 128)  # of the small encoder's convolutions
FINAL_SIDE = 4  # of the small encoder's last maps: they are flattened, so that the vector knows where things are


class SmallEncoder(nn.Module):
    """Maps of one condition to a global vector, trained with the DiT: what stands in for CLIP where there is none.

    Args:
        channels: of the maps.
        features: length of the vector.
    """

    def __init__(self, channels: int, features: int = FEATURES) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = channels
        for width in WIDTHS:
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.SiLU()]
            before = width
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(FINAL_SIDE), nn.Flatten())
        self.out = nn.Linear(before * FINAL_SIDE**2, features)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Encode; maps (B, C, h, w) -> (B, F)."""
        return self.out(self.layers(maps))  # (B, F)


def projection(inputs: int, outputs: int) -> nn.Sequential:
    """Two linear layers with a SiLU between them: rho of eq. 11, and eta of eq. 13."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.SiLU(), nn.Linear(outputs, outputs))


class GlobalConditions(nn.Module):
    """A vector for all conditions, added to the embedding of time and class (NA-Diff eq. 10-14).

    A condition that is not told (all zero) has the vector zero, whatever the encoder makes of it. The last layer
    starts at zero, so that nothing changes yet.

    Args:
        names: of the conditions.
        sizes: of each condition in the context.
        form: "maps": each is encoded by a `SmallEncoder`; "embeddings": each is a vector of CLIP already.
        features: length of a vector.
        hidden_size: width D of the DiT.
        fusion: "concat" (eq. 12-13) or "sum" (the paper's table 9) of the projected vectors.
    """

    def __init__(
        self, names: list[str], sizes: list[int], form: str, features: int, hidden_size: int, fusion: str
    ) -> None:
        super().__init__()
        self.sizes = sizes
        pairs = zip(names, sizes, strict=True) if form == "maps" else ()
        self.encoders = nn.ModuleDict({name: SmallEncoder(size, features) for name, size in pairs})
        self.project = projection(features, hidden_size)  # one for all conditions, as in eq. 10
        self.fuse = projection(hidden_size * (len(sizes) if fusion == "concat" else 1), hidden_size)
        self.concat = fusion == "concat"
        last = self.fuse[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: torch.Tensor, c: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tell the conditions.

        Args:
            x: (B, T, D) embedded patches.
            c: (B, D) embedding of time and class.
            context: (B, C, h, w) maps, or (B, K, F) embeddings.

        Returns:
            x as it is, and c with the conditions (eq. 14).
        """
        parts = context.split(self.sizes, dim=1)  # K x (B, c, ...)
        told = [part.flatten(1).abs().amax(1, keepdim=True) > 0 for part in parts]  # K x (B, 1)
        if len(self.encoders):
            vectors = [encode(part) for encode, part in zip(self.encoders.values(), parts, strict=True)]  # K x (B, F)
        else:
            vectors = [part.flatten(1) for part in parts]  # K x (B, F)
        projected = [self.project(v) * t.to(v.dtype) for v, t in zip(vectors, told, strict=True)]  # K x (B, D), eq. 11
        fused = torch.cat(projected, dim=1) if self.concat else torch.stack(projected).sum(0)  # (B, K*D or D), eq. 12
        any_told = torch.cat(told, dim=1).any(1, keepdim=True).to(c.dtype)  # (B, 1)
        return x, c + self.fuse(fused) * any_told  # (B, D), eq. 13-14


class TokenConditions(nn.Module):
    """A vector for each patch in the modulation (NA-Diff, section 3.2 and eq. 2): c = LayerNorm(z_y) + f(t) + z_y.

    Args:
        channels: of the context, the latents of the conditions with their channels that say "told".
        patch_size: of the DiT.
        hidden_size: width D of the DiT.
        grid: patches per side.
    """

    positions: torch.Tensor

    def __init__(self, channels: int, patch_size: int, hidden_size: int, grid: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, hidden_size, patch_size, stride=patch_size)  # W_y
        self.register_buffer("positions", position_embedding(grid, hidden_size), persistent=False)  # E_pos
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False)

    def forward(self, x: torch.Tensor, c: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tell the conditions; x (B, T, D), c (B, D), context (B, C, h, w) -> x, and c (B, T, D)."""
        told = (context.flatten(1).abs().amax(1) > 0).to(x.dtype)[:, None, None]  # (B, 1, 1)
        z_y = self.embed(context).flatten(2).transpose(1, 2) + self.positions  # (B, T, D)
        return x, c[:, None] + told * (self.norm(z_y) + z_y)  # (B, T, D), eq. 2


class SpatialConditions(nn.Module):
    """The conditions as more channels of the network's input; the new part of its first layer starts at zero.

    The sum of two embeddings is the embedding of the concatenated channels. The first layer is the patch embedding, or
    the stem's first convolution, where the conditions keep the latent's resolution.

    Args:
        channels: of the context.
        patch_size: of the DiT.
        hidden_size: width D of the DiT.
        stem_channels: channels of the stem's first features; None: there is no stem.
    """

    def __init__(self, channels: int, patch_size: int, hidden_size: int, stem_channels: int | None = None) -> None:
        super().__init__()
        if stem_channels is None:
            self.embed = nn.Conv2d(channels, hidden_size, patch_size, stride=patch_size, bias=False)
        else:
            self.embed = nn.Conv2d(channels, stem_channels, 3, padding=1, bias=False)
        self.tokens = stem_channels is None
        nn.init.zeros_(self.embed.weight)

    def forward(self, x: torch.Tensor, c: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the conditions; x (B, T, D) or (B, C', h, w), c (B, D), context (B, C, h, w) -> x with them, and c."""
        maps = self.embed(context)  # (B, D, h / p, w / p) or (B, C', h, w)
        return x + (maps.flatten(2).transpose(1, 2) if self.tokens else maps), c  # (B, T, D) or (B, C', h, w)


class Conditions(nn.Module):
    """What a DiT is told of a slice, by one way or two at once.

    Args:
        names: of the conditions, in the order of the context.
        sizes: of each along the context's dimension 1.
        form: "maps" or "embeddings".
        ways: of "global" (eq. 10-14), "tokens" (eq. 2) and "spatial".
        features: length of a global vector.
        fusion: of the global vectors, "concat" or "sum".
        hidden_size: width D of the DiT.
        patch_size: of the DiT.
        grid: patches per side.
        stem_channels: channels of the stem's first features; None: there is no stem.

    Raises:
        ValueError: a way or a fusion is not known, or embeddings are asked for a place.
    """

    def __init__(
        self,
        names: list[str],
        sizes: list[int],
        form: str,
        ways: list[str],
        features: int,
        fusion: str,
        hidden_size: int,
        patch_size: int,
        grid: int,
        stem_channels: int | None = None,
    ) -> None:
        super().__init__()
        if not ways or not set(ways) <= set(WAYS):
            raise ValueError(f"condition_ways must be some of {WAYS}, got {ways}")
        if fusion not in FUSIONS:
            raise ValueError(f"condition_fusion must be one of {FUSIONS}, got {fusion!r}")
        if form == "embeddings" and ways != ["global"]:
            raise ValueError(f"embeddings of CLIP have no places: condition_ways must be ['global'], got {ways}")
        self.settings: dict[str, Any] = {
            "names": names,
            "sizes": sizes,
            "form": form,
            "ways": ways,
            "features": features,
            "fusion": fusion,
        }
        channels = sum(sizes)
        parts: dict[str, nn.Module] = {}
        if "global" in ways:
            parts["global"] = GlobalConditions(names, sizes, form, features, hidden_size, fusion)
        if "spatial" in ways:
            parts["spatial"] = SpatialConditions(channels, patch_size, hidden_size, stem_channels)
        if "tokens" in ways:  # last: from here on c has a vector for each patch
            parts["tokens"] = TokenConditions(channels, patch_size, hidden_size, grid)
        self.parts = nn.ModuleDict(parts)

    def forward(self, x: torch.Tensor, c: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tell the conditions.

        Args:
            x: (B, T, D) embedded patches.
            c: (B, D) embedding of time and class.
            context: what is told, see `anatodiff.autoencoders.ContextLayout`.

        Returns:
            x (B, T, D), and c (B, D), or (B, T, D) with tokens.

        Raises:
            ValueError: the context has another layout.
        """
        channels = sum(self.settings["sizes"])
        if context.shape[1] != channels:
            raise ValueError(
                f"these conditions take a context of {channels} channels, got {tuple(context.shape)}; encode it as in "
                "the network's training"
            )
        for part in self.parts.values():
            x, c = part(x, c, context)
        return x, c
