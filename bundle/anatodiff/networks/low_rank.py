"""Low-rank additions to linear layers: LoRA, and SeLoRA, which lets them grow where the data ask for it."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class LowRank(nn.Module):
    """The addition scale * B A x of LoRA; B starts at zero, so nothing changes before the first step.

    With `start` below `rank` it is SeLoRA's: only the first rows of A and columns of B learn, and `grow` adds one when
    it would raise the layer's Fisher information enough. The columns that wait are zero, so the output needs no mask;
    their gradients come for free, tell what they would add, and are cleared by `hold` before the optimiser sees them.

    Args:
        in_features: size of x.
        out_features: size of the layer's output.
        rank: rank r, the largest one for SeLoRA.
        scale: factor of the addition, alpha / r in LoRA's terms.
        start: rank to start with; None: all of it.

    References:
        Hu et al., "LoRA", https://arxiv.org/abs/2106.09685; Mao et al., "SeLoRA", https://arxiv.org/abs/2408.07196
    """

    active: torch.Tensor
    fisher: torch.Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        scale: float = 1.0,
        start: int | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= rank <= min(in_features, out_features):
            raise ValueError(f"lora_rank must be 1 to {min(in_features, out_features)}, got {rank}")
        self.scale = scale
        self.a = nn.Parameter(torch.empty(rank, in_features))
        self.b = nn.Parameter(torch.zeros(out_features, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        self.register_buffer("active", torch.arange(rank) < (rank if start is None else start))
        self.register_buffer("fisher", torch.zeros(rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the addition; x (..., in_features) -> (..., out_features)."""
        return self.scale * F.linear(F.linear(x, self.a), self.b)  # (..., out_features)

    @torch.no_grad()
    def hold(self, loss_scale: float = 1.0) -> None:
        """Add the squared gradients to the Fisher information of each rank, then clear those of the ranks that wait.

        Args:
            loss_scale: what the loss was multiplied with before its gradients (fp16); steps that overflow are left out.
        """
        if self.a.grad is None or self.b.grad is None:
            return
        squares = (self.a.grad / loss_scale).square().sum(1) + (self.b.grad / loss_scale).square().sum(0)  # (r,)
        self.fisher += torch.where(squares.isfinite().all(), squares, 0.0)
        self.a.grad.masked_fill_(~self.active[:, None], 0)
        self.b.grad.masked_fill_(~self.active, 0)

    @torch.no_grad()
    def grow(self, threshold: float) -> bool:
        """Start the next rank if it raises the Fisher information of the layer by the factor `threshold` or more.

        Args:
            threshold: ratio of the information with the next rank to that without it, above 1.

        Returns:
            whether the layer has grown; the information counts from zero again.
        """
        used = int(self.active.sum())
        now = float(self.fisher[:used].sum())
        grows = used < len(self.active) and now > 0 and now + float(self.fisher[used]) >= threshold * now
        if grows:
            self.active[used] = True
        self.fisher.zero_()
        return grows

    def product(self) -> torch.Tensor:
        """Return what the addition adds to the layer's weight, (out_features, in_features)."""
        return self.scale * self.b @ self.a


class ConvLowRank(LowRank):
    """The addition scale * B A x to a convolution: A of the kernel's size into r channels, B of 1 x 1 out of them.

    Args:
        in_channels: channels of x.
        out_channels: channels of the convolution's output.
        kernel: side of the kernel, odd.
        rank: rank r, the largest one for SeLoRA.
        scale: factor of the addition, alpha / r in LoRA's terms.
        start: rank to start with; None: all of it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        rank: int,
        scale: float = 1.0,
        start: int | None = None,
    ) -> None:
        super().__init__(in_channels * kernel**2, out_channels, rank, scale, start)
        self.in_channels, self.kernel = in_channels, kernel

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the addition; x (B, in_channels, h, w) -> (B, out_channels, h, w)."""
        a = self.a.view(-1, self.in_channels, self.kernel, self.kernel)  # (r, in_channels, k, k)
        down = F.conv2d(x, a, padding=self.kernel // 2)  # (B, r, h, w)
        return self.scale * F.conv2d(down, self.b[:, :, None, None])  # (B, out_channels, h, w)

    def product(self) -> torch.Tensor:
        """Return what the addition adds to the kernel, (out_channels, in_channels, k, k)."""
        return super().product().view(-1, self.in_channels, self.kernel, self.kernel)
