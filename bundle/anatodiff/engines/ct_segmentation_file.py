"""A segmentation of CT slices in a file of the user's own."""

from __future__ import annotations

from pathlib import Path

import torch

from anatodiff.files import sha256_of
from anatodiff.weights import WeightsError


class TorchScriptSegmentation:
    """A network of the user's own: (B, 1, H, W) in [0, 1] to logits (B, 1 + K, h, w), the background first.

    Args:
        path: what `torch.jit.save` wrote.
        n_organs: K.
        device: where to compute.

    Raises:
        WeightsError: the file is missing or holds no TorchScript.
    """

    def __init__(self, path: str | Path, n_organs: int, device: str | torch.device = "cpu") -> None:
        path = Path(path)
        if not path.is_file():
            raise WeightsError(
                f"{path}: no such file; give segmentation_network a TorchScript file, or null to train one here"
            )
        try:
            self.network = torch.jit.load(str(path), map_location=torch.device(device)).eval()
        except RuntimeError as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise WeightsError(
                f"{path}: not a TorchScript file ({reason}); write one by torch.jit.script(network).save()"
            ) from error
        self.path, self.n_organs, self.device = path, n_organs, torch.device(device)
        self.name, self.sha256 = path.name, sha256_of(path)

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Turn images (B, 1, H, W) in [0, 1] into logits (B, 1 + K, h, w).

        Args:
            images: a batch.

        Returns:
            logits, on the CPU.

        Raises:
            WeightsError: the network does not take these images, or its output is not what it should be.
        """
        shape = tuple(images.shape)
        try:
            output = self.network(images.to(self.device))  # (B, 1 + K, h, w)
        except (RuntimeError, torch.jit.Error) as error:
            # TorchScript puts its own traceback first and the reason last.
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
            raise WeightsError(
                f"{self.path}: the network fails on an input of shape {shape} ({reason}); "
                "save one that takes gray slices (B, 1, H, W) of any size"
            ) from error
        is_tensor, outputs = isinstance(output, torch.Tensor), 1 + self.n_organs
        got = tuple(output.shape) if is_tensor else type(output).__name__
        if not is_tensor or output.ndim != 4 or output.shape[:2] != (len(images), outputs):
            raise WeightsError(
                f"{self.path}: of an input of shape {shape} the network makes {got}, not (B, {outputs}, h, w) "
                f"for background and {self.n_organs} organs; give organs those that it knows, in its order"
            )
        if not bool(torch.isfinite(output).all()):
            raise WeightsError(f"{self.path}: the network makes NaN or infinite logits; give one that takes [0, 1]")
        return output.float().cpu()
