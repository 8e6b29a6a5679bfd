"""A critic that is trained beside the autoencoder and tells its images from real ones."""

from __future__ import annotations

from pathlib import Path

import torch
from ignite.engine import Events
from monai.engines.workflow import Workflow
from monai.losses import PatchAdversarialLoss
from monai.networks.nets import PatchDiscriminator
from monai.utils import CommonKeys
from torch import nn

from anatodiff.losses import PerceptualLoss, ReconstructionLoss
from anatodiff.parallel import world


def build_critic(
    weight: float,
    channels: int,
    levels: int,
    seed: int,
    device: torch.device,
) -> PatchDiscriminator | None:
    """Build a patch discriminator on one channel.

    Args:
        weight: of the adversarial term; 0 builds none.
        channels: feature channels of the first level.
        levels: each halves the resolution; more see larger patches.
        seed: of its first weights.
        device: where it is trained.

    Returns:
        the critic, frozen but for its own training, or None.

    References:
        Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", https://arxiv.org/abs/1611.07004
    """
    if weight == 0:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Of each image on its own: a batch's statistics would tie images together, and those of groups let the
        # critic's opinion of all images drift up and down instead of telling them apart.
        critic = PatchDiscriminator(2, channels, in_channels=1, num_layers_d=levels, norm="INSTANCE")
        return critic.requires_grad_(False).to(device)


def perceptual_loss(
    weight: float,
    texture_weight: float,
    path: str | Path | None,
    layers: list[str],
    patch: int,
    device: torch.device,
    precision: torch.dtype | None = None,
) -> PerceptualLoss | None:
    """Read the network that the perceptual and the texture term need.

    Args:
        weight: of the perceptual term.
        texture_weight: of the texture term; if both are 0 nothing is read.
        path: file of VGG-19's convolutions.
        layers: convolutions to compare.
        patch: side of the squares whose textures are compared, in pixels.
        device: where images are.
        precision: what the network computes in; None: float32.

    Returns:
        the loss, or None.

    Raises:
        ValueError: a weight without a path, or no side.
    """
    if weight == 0 and texture_weight == 0:
        return None
    if path is None:
        raise ValueError(
            f"perceptual_weight is {weight} and texture_weight {texture_weight}, which need VGG-19: give its file as "
            "perceptual_path, or 0 to both"
        )
    if patch < 1:
        raise ValueError(f"texture_patch is {patch}; give the side of a square in pixels, 16 for example")
    return PerceptualLoss(path, layers, patch if texture_weight else 0, precision).to(device)


class CriticTraining:
    """Train the critic on the images of each step, after the autoencoder's own step: a handler.

    Args:
        critic: from `build_critic`; None makes this handler do nothing.
        learning_rate: of its Adam.
        loss: the autoencoder's, which hears the critic from `start` on.
        start: steps that the critic learns alone.

    Raises:
        ValueError: several processes; each would train a critic of its own.
    """

    def __init__(self, critic: nn.Module | None, learning_rate: float, loss: ReconstructionLoss, start: int) -> None:
        if critic is not None and world()[1] > 1:
            raise ValueError(f"adversarial_weight needs one process, not {world()[1]}; start it without torchrun, or 0")
        self.critic, self.hinge = critic, PatchAdversarialLoss(criterion="hinge")
        self.loss, self.start = loss, start
        self.optimizer = None
        if critic is not None:
            self.optimizer = torch.optim.Adam(critic.parameters(), learning_rate, betas=(0.5, 0.9))

    def attach(self, engine: Workflow) -> None:
        """Hook into a trainer; attach before the checkpoints, so that they hold the critic as of the same step."""
        if self.critic is not None:
            engine.add_event_handler(Events.ITERATION_STARTED, self._listen)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)

    def _listen(self, engine: Workflow) -> None:
        self.loss.hears_critic = engine.state.iteration > self.start

    def _step(self, engine: Workflow) -> None:
        assert self.critic is not None and self.optimizer is not None  # else nothing was attached
        real = engine.state.output[CommonKeys.LABEL]  # (B, 1, H, W)
        made = engine.state.output[CommonKeys.PRED]["reconstruction"].detach()  # (B, 1, H, W)
        if not bool(made.isfinite().all()):
            return  # the guard skips this step for the autoencoder, and the critic would never forget it
        self.critic.requires_grad_(True)
        of_real, of_made = self.critic(torch.cat([real, made]))[-1].chunk(2)  # (B, 1, h', w') each
        loss = self.hinge(of_real, True, for_discriminator=True) + self.hinge(of_made, False, for_discriminator=True)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.critic.requires_grad_(False)

    def state_dict(self) -> dict[str, dict]:
        """Return what a checkpoint must keep."""
        if self.critic is None or self.optimizer is None:
            return {}
        return {"critic": self.critic.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, dict]) -> None:
        """Go on from a checkpoint."""
        if self.critic is not None and self.optimizer is not None:
            self.critic.load_state_dict(state["critic"])
            self.optimizer.load_state_dict(state["optimizer"])
