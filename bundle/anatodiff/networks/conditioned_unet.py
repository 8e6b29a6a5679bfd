"""The U-Nets that conditional DiTs are compared with: Seg-Diff, SPADE and ControlNet, of MONAI's networks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from monai.networks.nets import ControlNet, DiffusionModelUNet, SPADEDiffusionModelUNet
from torch import nn

ARCHITECTURES = ("unet", "seg-diff", "spade", "controlnet")
COUNTS = ("in_channels", "num_res_blocks", "num_classes", "norm_num_groups", "num_head_channels")
SHARED = ("channels", "num_res_blocks", "attention_levels", "norm_num_groups", "num_head_channels")


class ConditionedUNet(nn.Module):
    """Diffusion U-Net: noised latent, time, conditions and class in, noise out; called as `DiT` is.

    Args:
        architecture: how the conditions enter. "unet": not at all. "seg-diff": as further channels of the noised latent
            at each step (Konz et al.). "spade": as scales and shifts of the decoder's normalised features (Park et
            al.). "controlnet": through a copy of the encoder that adds to the features of an unconditional U-Net, and
            that at first adds nothing (Zhang et al.).
        input_size: side of the latent in pixels, a multiple of 2 to the power of the number of levels less one.
        in_channels: channels of the latent.
        context_channels: channels of the conditions' maps; 0 for "unet", and for it alone.
        channels: widths of the levels, from the finest; multiples of `norm_num_groups` and of `num_head_channels`.
        num_res_blocks: residual blocks of each level.
        attention_levels: which levels have self-attention.
        num_classes: number of classes; label `num_classes` is the null label.
        learn_sigma: also predict the variance fraction (output has 2C channels).
        norm_num_groups: groups of the normalisation.
        num_head_channels: width of an attention head.

    Raises:
        ValueError: an argument is out of range or does not fit another.

    References:
        Konz et al., https://arxiv.org/abs/2402.05210; Park et al., https://arxiv.org/abs/1903.07291; Zhang et al.,
        https://arxiv.org/abs/2302.05543; Rombach et al. (the U-Net), https://arxiv.org/abs/2112.10752
    """

    def __init__(
        self,
        architecture: str,
        input_size: int = 32,
        in_channels: int = 4,
        context_channels: int = 0,
        channels: Sequence[int] = (64, 128, 128),
        num_res_blocks: int = 1,
        attention_levels: Sequence[bool] = (False, True, True),
        num_classes: int = 1,
        learn_sigma: bool = False,
        norm_num_groups: int = 32,
        num_head_channels: int = 32,
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "architecture": architecture,
            "input_size": input_size,
            "in_channels": in_channels,
            "context_channels": context_channels,
            "channels": list(channels),
            "num_res_blocks": num_res_blocks,
            "attention_levels": list(attention_levels),
            "num_classes": num_classes,
            "learn_sigma": learn_sigma,
            "norm_num_groups": norm_num_groups,
            "num_head_channels": num_head_channels,
        }
        _check(self.settings)
        self.architecture, self.context_channels = architecture, context_channels
        self.input_size, self.in_channels = input_size, in_channels
        self.null_label = num_classes  # the label that stands for no class
        self.out_channels = 2 * in_channels if learn_sigma else in_channels
        self.shapes = self.conditions = None  # a DiT's parts: here the conditions are part of the architecture
        self.unet = self._unet()
        self.control = self._control() if architecture == "controlnet" else None
        self.copy_encoder()

    @property
    def num_classes(self) -> int:
        """Number of classes, the null label not counted."""
        return self.null_label

    def _shape(self) -> dict[str, Any]:
        """What MONAI's networks have in common."""
        shared = {name: self.settings[name] for name in SHARED}
        return {**shared, "spatial_dims": 2, "num_class_embeds": self.num_classes + 1}

    def _unet(self) -> nn.Module:
        if self.architecture == "spade":
            return SPADEDiffusionModelUNet(
                in_channels=self.in_channels,
                out_channels=self.out_channels,
                label_nc=self.context_channels,
                spade_intermediate_channels=self.settings["channels"][0],
                **self._shape(),
            )
        joined = self.context_channels if self.architecture == "seg-diff" else 0
        return DiffusionModelUNet(
            in_channels=self.in_channels + joined, out_channels=self.out_channels, **self._shape()
        )

    def _control(self) -> nn.Module:
        return ControlNet(
            in_channels=self.in_channels,
            conditioning_embedding_in_channels=self.context_channels,
            # One width only: the maps have the latent's resolution already, and each further one would halve it.
            conditioning_embedding_num_channels=self.settings["channels"][:1],
            **self._shape(),
        )

    def copy_encoder(self) -> None:
        """Start the ControlNet, where there is one, as its U-Net's encoder; what that lacks stays as it is."""
        if self.control is not None:
            self.control.load_state_dict(self.unet.state_dict(), strict=False)

    @contextlib.contextmanager
    def fixed_prototypes(self) -> Iterator[None]:
        """Do nothing: a U-Net has no prototypes; samplers ask every network."""
        yield

    def forward(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor | None = None,
        context: torch.Tensor | None = None,
        class_labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predict the noise (or what else the schedule asks for), and the variance fraction if it is learned.

        Args:
            x: (B, C, h, w) noised, scaled latents.
            timesteps: (B,) times, 0 to 999, or 0 to 1 for a flow; None is 0 for all.
            context: (B, context_channels, h, w) maps of the conditions; zero, as None, says nothing.
            class_labels: (B,) classes; None is the null label for all.

        Returns:
            (B, out_channels, h, w).

        Raises:
            ValueError: the latents or the conditions have another shape.
        """
        if timesteps is None:
            timesteps = torch.zeros(len(x), device=x.device)  # (B,)
        if class_labels is None:
            class_labels = torch.full((len(x),), self.null_label, dtype=torch.long, device=x.device)  # (B,)
        maps = self._maps(x, context)  # (B, context_channels, h, w)
        if self.architecture == "spade":
            return self.unet(x, timesteps, maps, class_labels=class_labels)  # (B, out_channels, h, w)
        if self.control is not None:
            down, middle = self.control(x, timesteps, maps, class_labels=class_labels)  # lists of (B, D, h', w')
            return self.unet(
                x,
                timesteps,
                class_labels=class_labels,
                down_block_additional_residuals=tuple(down),
                mid_block_additional_residual=middle,
            )  # (B, out_channels, h, w)
        return self.unet(torch.cat([x, maps], 1), timesteps, class_labels=class_labels)  # (B, out_channels, h, w)

    def _maps(self, x: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
        side = self.input_size
        if x.shape[1:] != (self.in_channels, side, side):
            raise ValueError(
                f"this U-Net takes latents of {self.in_channels} x {side} x {side}, got "
                f"{' x '.join(map(str, x.shape[1:]))}; set image_size to 8 times its input size, or give another one"
            )
        wanted = (len(x), self.context_channels, side, side)
        if context is None or self.architecture == "unet":  # which no condition enters
            return x.new_zeros(wanted)  # (B, context_channels, h, w)
        if context.shape != wanted:
            raise ValueError(
                f"this {self.architecture} takes conditions of shape {wanted}, got {tuple(context.shape)}; give maps "
                "in the layout that it was built for"
            )
        return context.to(x.dtype)  # (B, context_channels, h, w)


def _check(settings: dict[str, Any]) -> None:
    architecture, channels = settings["architecture"], settings["channels"]
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture must be one of {ARCHITECTURES}, got {architecture!r}")
    maps = settings["context_channels"]
    if maps < 0 or (architecture == "unet") != (maps == 0):
        raise ValueError(
            f"context_channels is {maps} for {architecture!r}; it is 0 for 'unet' and at least 1 for all others"
        )
    for name in COUNTS:
        if settings[name] < 1:
            raise ValueError(f"{name} must be at least 1, got {settings[name]}")
    if not channels or len(channels) != len(settings["attention_levels"]):
        raise ValueError(f"channels {channels} and attention_levels {settings['attention_levels']} must be as many")
    groups, head = settings["norm_num_groups"], settings["num_head_channels"]
    if any(width < 1 or width % groups or width % head for width in channels):
        raise ValueError(f"channels {channels} must be multiples of norm_num_groups {groups}, num_head_channels {head}")
    step = 2 ** (len(channels) - 1)
    if settings["input_size"] < 1 or settings["input_size"] % step:
        raise ValueError(f"input_size {settings['input_size']} must be a multiple of {step}: each level halves it")
