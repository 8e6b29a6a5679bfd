"""The autoencoder's loss."""

from __future__ import annotations

import torch
from monai.losses import PatchAdversarialLoss
from torch import nn

from anatodiff.losses.perceptual import PerceptualLoss
from anatodiff.losses.texture import raster_profile

RASTER = 8  # pixels per latent pixel, along each side
LEAST_GRADIENT = 1e-8  # of a critic that says the same of all images


class ReconstructionLoss(nn.Module):
    """Error of pixels and of differences, the posterior's distance from a standard normal, and four optional terms.

    The optional ones keep what a mean error rubs out: how a network sees the image and its texture, and whether a
    critic that is trained beside (`anatodiff.engines.CriticTraining`) takes it for real. The raster term is the squared
    error of `raster_profile`: grain must not be larger at some places of the 8 x 8 patches than at others.

    Args:
        kl_weight: weight of the Kullback-Leibler divergence per latent value (Rombach et al. use 1e-6).
        edge_weight: weight of the error of horizontal and vertical differences; keeps edges sharp.
        norm: 1 for absolute errors, 2 for squared ones (the best signal-to-noise ratio).
        perceptual: compares feature maps and textures; None compares none.
        perceptual_weight: weight of the error of the feature maps.
        texture_weight: weight of the error of the textures.
        raster_weight: weight of the raster term.
        critic: patch discriminator; None asks none.
        adversarial_weight: size of its hinge term's gradient in the image, relative to that of all other terms, but the
            term itself never counts more than once: a critic that knows nothing yet must not be shouted.

    References:
        Esser et al., "Taming Transformers for High-Resolution Image Synthesis", https://arxiv.org/abs/2012.09841
    """

    def __init__(
        self,
        kl_weight: float = 1e-6,
        edge_weight: float = 1.0,
        norm: int = 1,
        perceptual: PerceptualLoss | None = None,
        perceptual_weight: float = 0.0,
        texture_weight: float = 0.0,
        raster_weight: float = 0.0,
        critic: nn.Module | None = None,
        adversarial_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if norm not in (1, 2):
            raise ValueError(f"pixel_norm is {norm}; choose 1 or 2")
        self.kl_weight, self.edge_weight, self.norm = kl_weight, edge_weight, norm
        self.perceptual = perceptual
        self.weights_seen = {"perceptual": perceptual_weight, "texture": texture_weight}
        self.raster_weight = raster_weight
        self.critic, self.adversarial_weight = critic, adversarial_weight
        self.hinge = PatchAdversarialLoss(criterion="hinge")
        self.hears_critic = True  # `CriticTraining` has it wait for a critic that has learned something
        self.parts: dict[str, float] = {}

    def forward(self, prediction: dict[str, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """Compute the loss.

        Args:
            prediction: reconstruction (B, 1, H, W), mean and logvar (B, C, h, w).
            target: (B, 1, H, W) in [0, 1].

        Returns:
            the loss, a scalar.
        """
        image, mean, logvar = (prediction[name] for name in ("reconstruction", "mean", "logvar"))
        error = image - target  # (B, 1, H, W)
        terms = {
            "pixels": (1.0, self._size(error)),
            "edges": (self.edge_weight, self._size(error.diff(dim=2)) + self._size(error.diff(dim=3))),
            "kl": (self.kl_weight, 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()),
        }
        if self.raster_weight:
            raster = (raster_profile(image, RASTER) - raster_profile(target, RASTER)).square().mean()
            terms["raster"] = (self.raster_weight, raster)
        if self.perceptual is not None:
            seen = self.perceptual(image, target)
            terms |= {name: (self.weights_seen[name], value) for name, value in seen.items()}
        self.parts = {name: float(value.detach()) for name, (_, value) in terms.items()}
        loss = torch.stack([weight * value for weight, value in terms.values()]).sum()
        return loss if self.critic is None else loss + self._adversarial(image, loss)

    def _adversarial(self, image: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Ask the critic about images (B, 1, H, W); weighted by the gradients of both in the image (Esser, eq. 7)."""
        assert self.critic is not None
        opinion = self.critic(image)[-1]  # (B, 1, h', w')
        value = self.hinge(opinion, target_is_real=True, for_discriminator=False)
        self.parts["adversarial"] = float(value.detach())
        if not image.requires_grad:  # in validation
            return self.adversarial_weight * value
        sizes = [torch.autograd.grad(term, image, retain_graph=True)[0].norm() for term in (others, value)]
        weight = (self.adversarial_weight * sizes[0] / sizes[1].clamp_min(LEAST_GRADIENT)).clamp_max(1)
        weight = weight if self.hears_critic else torch.zeros_like(weight)
        self.parts["adversarial_weight"] = float(weight)
        return weight.detach() * value

    def _size(self, error: torch.Tensor) -> torch.Tensor:
        return error.abs().mean() if self.norm == 1 else error.square().mean()
