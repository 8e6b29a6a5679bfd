"""Time a training step of a base by its parts, and against the same step in a bare loop.

Steps of the trainer and of the bare loop take turns, on random latents. The times are the processor's, in the median
over the steps, so that other programs on the machine disturb them little; on a GPU they are times of the clock.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import IterationEvents, SupervisedTrainer
from torch import nn

from anatodiff.diffusion import DiffusionSettings
from anatodiff.engines import (
    Checkpoints,
    DiffusionBatch,
    LearningRate,
    LossLog,
    NoisePredictionInferer,
    StepBatches,
    StepGuard,
    TensorBoardLog,
    TrainedEMA,
    UpdateEMA,
    build_optimizer,
    choose_precision,
)
from anatodiff.losses import AnatoDiffLoss
from anatodiff.networks import DiT, build_dit

CLASSES, SIDE, IMAGES = 12, 32, 2000
WARM_UP = 3
PARTS = (
    "rows", "draws and posterior", "noising", "forward", "loss", "backward", "finite gradients", "optimizer",
    "moving average", "logs and the rest",
)  # fmt: skip
EMA_POWER = 6.94


class Latents:
    """Random posteriors in memory, as `LatentDataset` keeps them."""

    def __init__(self) -> None:
        self.mean = torch.randn(IMAGES, 4, SIDE, SIDE)
        self.logvar = torch.full((IMAGES, 4, SIDE, SIDE), -4.0)

    def __len__(self) -> int:
        return IMAGES

    def gather(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return mean and logvar (B, C, h, w) and label (B,) at `indices` (B,)."""
        return {"mean": self.mean[indices], "logvar": self.logvar[indices], "label": indices % CLASSES}


class Clock:
    """Milliseconds of the parts of each step.

    Args:
        device: a GPU is waited for at each reading.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.step: dict[str, float] = defaultdict(float)
        self.steps: list[dict[str, float]] = []

    def now(self) -> float:
        """Milliseconds of the processor, or of the clock on a GPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            return 1000 * time.perf_counter()
        return 1000 * time.process_time()

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a callable so that its time counts for a part."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            start = self.now()
            try:
                return call(*args, **kwargs)
            finally:
                self.step[part] += self.now() - start

        return wrapped

    def median(self, part: str) -> float:
        """Median over the steps after the warm-up."""
        return median(step[part] for step in self.steps[WARM_UP:])


def lean_loop(network: DiT, settings: DiffusionSettings, optimizer: Any, batch: int, amp: str | None) -> Iterator[None]:
    """Train in a bare loop, a step for each `next`: noise, forward, mean square, backward, optimiser."""
    device = network.pos_embed.device
    schedule, precision = settings.build().to(device), choose_precision(amp, device)
    latents = torch.randn(batch, 4, SIDE, SIDE, device=device)
    while True:
        noise, labels = torch.randn_like(latents), torch.randint(CLASSES, (batch,), device=device)
        index = schedule.draw(torch.rand(batch, dtype=torch.float64).to(device))
        noised = schedule.add_noise(latents, noise, index)
        with torch.autocast(device.type, dtype=precision, enabled=precision is not None):
            output = network(noised, schedule.times(index), class_labels=labels)
        loss = nn.functional.mse_loss(output[:, :4].float(), schedule.target(latents, noise, index))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield


def build_trainer(
    network: DiT, settings: DiffusionSettings, optimizer: Any, batch: int, amp: str | None, steps: int, clock: Clock
) -> SupervisedTrainer:
    """Put the trainer of `configs/pretrain.json` together, with a clock on its parts."""
    device, folder = clock.device, Path(tempfile.mkdtemp())
    schedule, guard, ema = settings.build().to(device), StepGuard(), TrainedEMA(network, power=EMA_POWER)
    loss, batches = AnatoDiffLoss(schedule), StepBatches(Latents(), batch, seed=0)
    prepare = DiffusionBatch(schedule, 1.0, CLASSES, 0.1, seed=0, parents=list(range(CLASSES)), domain_share=0.1)
    batches._rows = clock.timed("rows", batches._rows)  # type: ignore[method-assign]
    schedule.add_noise = clock.timed("noising", schedule.add_noise)
    network.forward = clock.timed("forward", network.forward)
    loss.forward = clock.timed("loss", loss.forward)
    optimizer.step = clock.timed("optimizer", optimizer.step)
    ema.update = clock.timed("moving average", ema.update)  # type: ignore[method-assign]
    guard._look = clock.timed("finite gradients", guard._look)  # type: ignore[method-assign]
    start: list[float] = [0.0]

    class Backward:
        """Times the backward pass; attached before all other handlers."""

        def attach(self, engine: SupervisedTrainer) -> None:
            engine.add_event_handler(IterationEvents.LOSS_COMPLETED, lambda: start.append(clock.now()))
            engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self.end)

        def end(self) -> None:
            clock.step["backward"] += clock.now() - start.pop()

    handlers = [Backward(), guard, UpdateEMA(ema), LearningRate(optimizer, 300), LossLog(folder, loss)]
    handlers.append(Checkpoints(folder, network, ema, optimizer, batches, {}, every=10 * steps))
    return SupervisedTrainer(
        device=device,
        max_epochs=1,
        epoch_length=steps,
        train_data_loader=batches,  # type: ignore[arg-type]
        network=network,
        optimizer=optimizer,
        loss_function=loss,
        prepare_batch=clock.timed("draws and posterior", prepare),
        inferer=NoisePredictionInferer(schedule, choose_precision(amp, device)),
        train_handlers=[*handlers, TensorBoardLog(str(folder / "tensorboard"), loss)],  # type: ignore[list-item]
        decollate=False,
    )


def bench(size: str, batch: int, amp: str | None, optimizer_name: str, steps: int, device: torch.device) -> Clock:
    """Time steps of both loops in turn.

    Args:
        size: a name in `DIT_SIZES`.
        batch: images per step.
        amp: as the option.
        optimizer_name: as the option.
        steps: of each loop, the first three not counted.
        device: where to train.

    Returns:
        the clock, with the parts "step" and "bare loop" beside those in `PARTS`.
    """
    learned = "conv" not in size.lower()
    settings = DiffusionSettings(prediction="v") if learned else DiffusionSettings("continuous", prediction="v")
    networks = [build_dit(size, CLASSES, SIDE).to(device).train() for _ in range(2)]
    optimizers = [build_optimizer(network, optimizer_name) for network in networks]
    clock = Clock(device)
    bare = lean_loop(networks[0], settings, optimizers[0], batch, amp)
    trainer = build_trainer(networks[1], settings, optimizers[1], batch, amp, steps, clock)
    began: list[float] = []

    def next_step() -> None:
        if began:
            clock.step["step"] = clock.now() - began.pop()
            known = sum(clock.step[part] for part in PARTS[:-1])
            clock.step[PARTS[-1]] = clock.step["step"] - known
            clock.steps.append(dict(clock.step))
        clock.step.clear()
        clock.timed("bare loop", next)(bare)
        began.append(clock.now())

    trainer.add_event_handler(Events.ITERATION_COMPLETED, next_step)
    trainer.run()
    return clock


def main() -> None:
    """Print a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["DiT-XS/4", "ConvDiT-XS/4"], help="names in DIT_SIZES")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--amp", nargs="+", default=["none", "auto"], help="none, auto, bf16")
    parser.add_argument("--optimizer_name", default="muon")
    parser.add_argument("--steps", type=int, default=25, help="steps of each loop")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    given = (options.batch_size, options.optimizer_name, options.steps, torch.device(options.device))
    for size in options.sizes:
        batch, name, steps, device = given
        clocks = [bench(size, batch, None if amp == "none" else amp, name, steps, device) for amp in options.amp]
        print(f"\n{size}, batches of {batch}, {name}, {options.threads} thread(s) of the CPU, device {device}\n")
        print(f"| ms of a step | {' | '.join(f'amp {amp}' for amp in options.amp)} |\n|---|{'---|' * len(clocks)}")
        for part in (*PARTS, "step", "bare loop"):
            print(f"| {part} | {' | '.join(f'{clock.median(part):.1f}' for clock in clocks)} |")
        rates = (1000 * batch / clock.median("step") for clock in clocks)
        print(f"| images per second | {' | '.join(f'{rate:.1f}' for rate in rates)} |", flush=True)


if __name__ == "__main__":
    main()
