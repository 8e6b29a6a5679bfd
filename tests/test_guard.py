"""A step whose loss or gradient is no number changes nothing and is counted; several in a row end the run."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer

from anatodiff.engines import StepGuard
from anatodiff.engines.checkpoint_files import read_checkpoint
from anatodiff.engines.guard import MOST_IN_A_ROW, NoNumberError
from anatodiff.engines.inferers import NoisePredictionInferer
from anatodiff.losses import Prediction
from anatodiff.weights import load_weights

Run = Callable[..., Path]


class Trained:
    """A small training whose loss is spoiled in some batches; keeps the weights after each."""

    def __init__(self, spoil: dict[int, Callable[[torch.Tensor], torch.Tensor]], accumulation_steps: int = 1) -> None:
        torch.manual_seed(0)
        self.network, self.guard = torch.nn.Linear(4, 1), StepGuard(accumulation_steps)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=0.1, weight_decay=0.5)
        self.after: list[torch.Tensor] = []
        self.trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=1,
            train_data_loader=[{"image": torch.randn(8, 4), "label": torch.randn(8, 1)} for _ in range(8)],
            network=self.network,
            optimizer=self.optimizer,
            loss_function=self.loss,
            train_handlers=[self.guard],
            accumulation_steps=accumulation_steps,
        )
        self.spoil = spoil
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, self.keep)

    def loss(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        loss = torch.nn.functional.mse_loss(prediction, target)
        return self.spoil.get(self.trainer.state.iteration, lambda loss: loss)(loss)

    def keep(self) -> None:
        self.after.append(self.network.weight.detach().clone())

    def run(self) -> Trained:
        self.trainer.run()
        return self

    def changed(self) -> list[int]:
        """Batches after which the weights are others than before."""
        return [n + 1 for n in range(1, len(self.after)) if not torch.equal(self.after[n - 1], self.after[n])]


def infinite_gradient(loss: torch.Tensor) -> torch.Tensor:
    return loss + (0 * loss).sqrt()  # 0, and its derivative is 0 / 0


SPOILS = {
    "NaN": lambda loss: loss * math.nan,
    "infinite": lambda loss: loss * math.inf,
    "a gradient that is no number": infinite_gradient,
}


@pytest.mark.parametrize("spoil", list(SPOILS))
def test_one_bad_step_changes_nothing_and_is_counted(spoil: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", "anatodiff")
    trained = Trained({3: SPOILS[spoil]}).run()
    assert trained.changed() == [2, 4, 5, 6, 7, 8]
    assert int(trained.optimizer.state[trained.network.weight]["step"]) == 7  # nor have its moments moved
    assert trained.guard.state_dict() == {"skipped": 1, "in_a_row": 0}
    assert "at step 3: its update is skipped (1 so far)" in caplog.text
    assert "1 of 8 updates were skipped" in caplog.text


def test_large_gradients_whose_sum_overflows_are_numbers_and_are_used(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", "anatodiff")
    trained = Trained({})
    for parameter in trained.network.parameters():
        parameter.register_hook(lambda gradient: torch.full_like(gradient, 3e38))
    assert trained.run().changed() == [2, 3, 4, 5, 6, 7, 8]
    assert not caplog.messages


def test_a_run_without_bad_steps_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert Trained({}).run().changed() == [2, 3, 4, 5, 6, 7, 8]
    assert not caplog.messages


def test_several_in_a_row_end_the_run(caplog: pytest.LogCaptureFixture) -> None:
    spoil = dict.fromkeys(range(2, 2 + MOST_IN_A_ROW), SPOILS["NaN"])
    assert Trained({n: spoil[n] for n in list(spoil)[:-1]}).run().guard.skipped == MOST_IN_A_ROW - 1
    trained = Trained(spoil)
    with pytest.raises(NoNumberError, match=rf"nan at step {1 + MOST_IN_A_ROW}, .*lower learning_rate"):
        trained.run()
    assert trained.changed() == []


def test_one_bad_batch_spoils_the_sum_that_it_is_in() -> None:
    trained = Trained({3: SPOILS["NaN"]}, accumulation_steps=2).run()
    assert trained.changed() == [2, 6, 8]
    assert trained.guard.skipped == 1


def test_the_scaler_of_fp16_keeps_its_overflows_and_they_are_counted() -> None:
    """A real scaler, on the CPU: its scale is so large that the gradients of the first steps overflow."""
    trained = Trained({6: SPOILS["NaN"]})
    trained.trainer.amp, scaler = True, torch.amp.GradScaler("cpu", init_scale=2.0**127 * 1.5)
    trained.trainer.add_event_handler(Events.STARTED, lambda: setattr(trained.trainer, "scaler", scaler))
    trained.run()
    bad = 8 - int(trained.optimizer.state[trained.network.weight]["step"])
    assert bad >= 2
    assert trained.guard.skipped == bad
    assert 6 not in trained.changed()


@pytest.fixture
def spoiled_third(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the network says is no number in the third step of a training on batches of four."""
    infer = NoisePredictionInferer.__call__

    def call(self: NoisePredictionInferer, *arguments: Any, **named: Any) -> Prediction:
        found = infer(self, *arguments, **named)
        spoiled = arguments[1].training and Spoiled.step == 3
        Spoiled.step += int(arguments[1].training)
        return Prediction(found.output * math.nan, found.noised) if spoiled else found

    monkeypatch.setattr(NoisePredictionInferer, "__call__", call)


class Spoiled:
    step = 1


@pytest.mark.usefixtures("spoiled_third")
def test_a_bad_step_is_in_the_losses_and_the_result_and_survives_a_stop(run: Run, tmp_path: Path) -> None:
    folders = []
    for parts in ((2,), (1, 2)):
        Spoiled.step, out = 1, tmp_path / f"parts{len(parts)}"
        for epochs in parts:
            options = {"epoch_length": 3, "topology_weight": 1e-3, "edge_weight": 0.1, "measured": []}
            run("train", output_dir=str(out), max_epochs=epochs, **options)
            if epochs == 1:
                assert read_checkpoint(out / "checkpoint.pt")["guard"] == {"skipped": 1, "in_a_row": 1}
        folders.append(out)
    for name in ("losses.csv", "adapter.safetensors"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    assert load_weights(out / "adapter.safetensors", "adapter").settings["skipped_steps"] == 1
    rows = (out / "losses.csv").read_text().splitlines()
    assert rows[3].startswith("3,nan,nan,nan,nan")
    assert "nan" not in "".join(rows[:3] + rows[4:])
