"""What the engines tell a network: contexts in training batches, in pictures of the progress, and in requests."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import SIZE

from anatodiff.autoencoders import (
    ContextLayout,
    CTDataset,
    CTEncoded,
    CTLatents,
    CTRequests,
    LatentCodec,
    MapCodec,
    TokenCodec,
    load_autoencoder,
)
from anatodiff.data import HUWindow, write_ct_mask
from anatodiff.data.ct import make_ct_datalist
from anatodiff.data.phantom import write_ct_phantoms
from anatodiff.diffusion import DiffusionSettings
from anatodiff.engines.batches import DiffusionBatch
from anatodiff.engines.ct_inference import adapter_codec, ct_requests, facts_of
from anatodiff.engines.told import RequestBatches, Told, condition_settings, context_codec, held_back_requests
from anatodiff.engines.workflow import OptionError
from anatodiff.networks import Adapter, build_dit

CPU = torch.device("cpu")
ORGANS = ["liver", "kidneys"]
LAYOUT = ContextLayout(("noise", "mask"), (2, 3))
SIDE = SIZE // 8
DOSES = (0.1, 0.5, 1.0)


@pytest.fixture(scope="module")
def autoencoder(small_weights: dict[str, str]) -> LatentCodec:
    return load_autoencoder(small_weights["autoencoder_path"]).eval()


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[CTDataset, CTDataset]:
    """Two patients to train on and one held back, two slices each at three doses."""
    folder = tmp_path_factory.mktemp("ct")
    write_ct_phantoms(folder / "phantoms", 3, 2, SIZE, seed=1, workers=1)
    datalist = make_ct_datalist(folder / "phantoms", ORGANS, ["noise", "mask"], 0.3)
    train, test = (
        CTDataset(items, SIZE, folder / "cache", HUWindow(-200.0, 300.0), DOSES)
        for items in (datalist.train, datalist.test)
    )
    return train, test


@pytest.fixture(scope="module")
def latents(
    parts: tuple[CTDataset, CTDataset], autoencoder: LatentCodec, tmp_path_factory: pytest.TempPathFactory
) -> CTLatents:
    encoded = CTEncoded(parts[0], tmp_path_factory.mktemp("latents"), autoencoder)
    return CTLatents(encoded, MapCodec(["noise", "mask"], 50.0, len(ORGANS)))


def batch(n: int, start: int = 0) -> dict[str, torch.Tensor]:
    positions = torch.arange(start, start + n)
    zeros = torch.zeros(n, 1, 1, 1)
    return {
        "position": positions, "mean": zeros, "logvar": zeros, "label": torch.zeros(n, dtype=torch.long),
        "context": torch.ones(n, sum(LAYOUT.sizes), 2, 2),
    }  # fmt: skip


def preparation(shown: CTLatents, dropout: float, seed: int = 0, name: str = "train", **options: Any) -> DiffusionBatch:
    schedule = DiffusionSettings().build()
    return DiffusionBatch(schedule, 1.0, 1, 0.0, seed, name, told=Told(LAYOUT, dropout, shown), **options)


def contexts(prepare: DiffusionBatch, given: dict[str, torch.Tensor]) -> torch.Tensor:
    return prepare(given, CPU)[3]["context"]  # (B, C, h, w)


def left_out(context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which images (B,) are not told the noise, and the mask; a condition is told as a whole or not at all."""
    found = []
    for place in LAYOUT.slices().values():
        values = context[:, place].flatten(1)
        assert (values == values[:, :1]).all()
        found.append(values[:, 0] == 0)
    return found[0], found[1]


def test_each_condition_is_left_out_on_its_own_as_often_as_asked(latents: CTLatents) -> None:
    given = batch(1000)
    noise, mask = left_out(contexts(preparation(latents, 0.3), given))
    assert float(noise.float().mean()) == pytest.approx(0.3, abs=0.05)
    assert float(mask.float().mean()) == pytest.approx(0.3, abs=0.05)
    assert float((noise & mask).float().mean()) == pytest.approx(0.09, abs=0.04)
    assert (given["context"] == 1).all(), "the data set's own context was changed"


def test_what_is_left_out_is_a_function_of_seed_and_position(latents: CTLatents) -> None:
    prepare = preparation(latents, 0.5)
    whole = contexts(prepare, batch(40))
    parts = [contexts(prepare, batch(20, start)) for start in (20, 0)]
    torch.testing.assert_close(whole, torch.cat(parts[::-1]))
    torch.testing.assert_close(contexts(preparation(latents, 0.5), batch(40)), whole)
    assert not torch.equal(contexts(preparation(latents, 0.5, seed=1), batch(40)), whole)
    assert not torch.equal(contexts(preparation(latents, 0.5, name="other"), batch(40)), whole)


def test_a_share_of_nothing_or_all_and_validation(latents: CTLatents) -> None:
    assert (contexts(preparation(latents, 0.0), batch(20)) == 1).all()
    assert (contexts(preparation(latents, 1.0), batch(20)) == 0).all()
    assert (contexts(preparation(latents, 1.0, drops_conditions=False), batch(20)) == 1).all()


def test_dropped_conditions_leave_the_other_draws_as_they_are(latents: CTLatents) -> None:
    told = preparation(latents, 0.5)(batch(20), CPU)
    untold = DiffusionBatch(DiffusionSettings().build(), 1.0, 1, 0.0, 0)(batch(20), CPU)
    assert "context" not in untold[3]
    for name in ("noise", "index", "class_labels"):
        torch.testing.assert_close(told[3][name], untold[3][name])
    torch.testing.assert_close(told[0], untold[0])


@pytest.mark.parametrize("dropout", [-0.1, 1.1])
def test_a_share_out_of_range_is_refused(dropout: float, latents: CTLatents) -> None:
    with pytest.raises(OptionError, match="condition_dropout must be 0 to 1"):
        Told(LAYOUT, dropout, latents)


def test_pictures_are_told_of_slices_from_first_to_last(latents: CTLatents) -> None:
    told = Told(LAYOUT, 0.1, latents)
    assert len(latents) == 12
    torch.testing.assert_close(told.preview(3), latents.context[[0, 6, 11]])
    torch.testing.assert_close(told.preview(12), latents.context)
    assert told.preview(1).shape == (1, 5, SIDE, SIDE)
    assert told.preview(0).shape == (0, 5, SIDE, SIDE)


def test_latents_hand_out_what_a_slice_is_told(latents: CTLatents, parts: tuple[CTDataset, CTDataset]) -> None:
    rows = torch.tensor([7, 0])
    found = latents.gather(rows)
    assert set(found) == {"mean", "logvar", "label", "context"}
    data = parts[0]
    codec = MapCodec(["noise", "mask"], 50.0, len(ORGANS))
    torch.testing.assert_close(
        found["context"], codec.encode(data.noise[rows], data.mask[rows], data.has_noise[rows], data.has_mask[rows])
    )
    assert found["mean"].shape == (2, 4, SIDE, SIDE)


class Slices:
    """As much of a `CTDataset` as requests need."""

    def __init__(self, doses: list[float], has_mask: list[bool], value: int = 1) -> None:
        n = len(doses)
        self.doses, self.has_mask = torch.tensor(doses), torch.tensor(has_mask)
        self.has_noise = torch.ones(n, dtype=torch.bool)
        self.noise = torch.arange(n).reshape(n, 1, 1, 1).half()
        self.mask = (self.has_mask * value).to(torch.uint8)[:, None, None]
        self.labels, self.organs = torch.zeros(n, dtype=torch.long), ORGANS

    def __len__(self) -> int:
        return len(self.doses)


def asked(test: Any, train: Any, samples: int, seed: int = 0) -> CTRequests:
    return held_back_requests(test, train, samples, seed)


def test_every_dose_is_asked_for_as_often(parts: tuple[CTDataset, CTDataset]) -> None:
    train, test = parts
    requests = asked(test, train, 9)
    assert len(requests) == 9 and requests.organs == ORGANS
    assert Counter(np.round(requests.doses.tolist(), 3).tolist()) == {dose: 3 for dose in DOSES}
    rows = requests.references
    assert len(set(rows[:6].tolist())) == 6, "a slice is taken twice before all were"
    for name in ("noise", "mask", "has_noise", "has_mask", "doses", "labels"):
        expected = getattr(test, name)[rows]
        torch.testing.assert_close(getattr(requests, name), expected, check_dtype=False)
    assert requests.noise.dtype == torch.float32 and requests.mask.dtype == torch.uint8
    again, other = asked(test, train, 9), [asked(test, train, 9, seed).references for seed in range(1, 9)]
    assert torch.equal(again.references, rows)
    assert any(not torch.equal(one, rows) for one in other)


def test_requests_only_take_slices_with_a_mask() -> None:
    test = Slices([0.1] * 3 + [1.0] * 3, [True, False, True] * 2)
    requests = asked(test, Slices([1.0], [True]), 4)
    assert requests.has_mask.all() and sorted(requests.references.tolist()) == [0, 2, 3, 5]


def test_without_a_held_back_mask_those_of_training_are_taken() -> None:
    test, train = Slices([0.5, 1.0], [False, False]), Slices([0.5, 1.0, 0.5, 1.0], [True] * 4, value=2)
    requests = asked(test, train, 4)
    assert requests.references.tolist() == [-1] * 4
    assert requests.has_mask.all() and (requests.mask == 2).all()
    assert sorted(requests.noise.flatten().tolist()) == [0, 1, 2, 3]


def test_where_nothing_has_a_mask_none_is_needed() -> None:
    requests = asked(Slices([0.5, 1.0], [False] * 2), Slices([0.5, 1.0], [False] * 2), 4)
    assert not requests.has_mask.any() and Counter(requests.references.tolist()) == {0: 2, 1: 2}


@pytest.mark.parametrize("few", [0.5, 1.0])
def test_doses_with_fewer_slices_are_taken_in_turn(few: float) -> None:
    """Scans without a low-dose partner have the full dose alone, where none is simulated."""
    many = 1.5 - few
    test = Slices([few, many, many, many], [True] * 4)
    requests = asked(test, Slices([1.0], [True]), 6)
    assert Counter(requests.doses.tolist()) == {few: 3, many: 3}
    assert Counter(requests.references.tolist()) == {0: 3, 1: 1, 2: 1, 3: 1}


def test_a_dose_without_any_mask_is_not_asked_for() -> None:
    test = Slices([0.5, 1.0, 1.0], [False, True, True])
    assert asked(test, Slices([1.0], [True]), 4).doses.tolist() == [1.0] * 4


def test_no_samples_are_refused() -> None:
    slices = Slices([1.0], [True])
    with pytest.raises(ValueError, match="samples_per_class must be at least 1"):
        asked(slices, slices, 0)


def test_request_batches_number_all_requests(parts: tuple[CTDataset, CTDataset]) -> None:
    requests, codec = asked(parts[1], parts[0], 5), MapCodec(["noise", "mask"], 50.0, len(ORGANS))
    batches = RequestBatches(requests, codec, 2)
    found = list(batches)
    assert len(batches) == len(found) == 3
    assert torch.cat([one["number"] for one in found]).tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(torch.cat([one["label"] for one in found]), requests.labels)
    expected = codec.encode(requests.noise, requests.mask, requests.has_noise, requests.has_mask)
    torch.testing.assert_close(torch.cat([one["context"] for one in found]), expected)


def test_the_way_chooses_the_codec(autoencoder: LatentCodec, tmp_path: Path) -> None:
    def chosen(*ways: str, clip: Path | None = None) -> Any:
        return context_codec(["noise"], ways, 50.0, ORGANS, autoencoder, 1.5, clip)

    assert isinstance(chosen("global", "spatial"), MapCodec)
    assert isinstance(chosen("tokens"), TokenCodec) and isinstance(chosen("global", "tokens"), TokenCodec)
    with pytest.raises(OptionError, match=r"clip_path: CLIP has no places; set condition_ways to \['global'\]"):
        chosen("global", "spatial", clip=tmp_path)
    settings = condition_settings(chosen("tokens"), ["tokens"], "sum")
    assert (settings.layout.sizes, settings.ways, settings.fusion) == ((5,), ["tokens"], "sum")


def adapter(**changes: Any) -> Adapter:
    codec = MapCodec(["noise", "mask"], 50.0, len(ORGANS))
    facts = {
        "conditions": ["noise", "mask"], "noise_scale": 50.0, "organs": ORGANS, "window": [-200.0, 300.0],
        "ways": ["global", "spatial"], "codec": codec.key, "pixel_spacing": None, **changes,
    }  # fmt: skip
    network = build_dit("DiT-XS/8", 1, SIDE)
    return Adapter(network, ["ct"], 1.5, DiffusionSettings(), {"ct": facts}, "hash")


@pytest.fixture
def mask_path(tmp_path: Path) -> Path:
    labels = np.zeros((1, 32, 32), np.uint8)
    labels[0, 8:16, 8:16], labels[0, 20:24, 8:16] = 1, 2
    return write_ct_mask(tmp_path / "mask.nii.gz", labels, (3.0, 1.5, 1.5))


def test_requests_of_files_fit_the_network(autoencoder: LatentCodec, mask_path: Path) -> None:
    organs = {"liver": [1], "kidneys": [2]}
    requests = ct_requests(adapter(), autoencoder, mask_path, None, 12.0, organs, 2)
    assert requests.mask.shape == (2, SIZE, SIZE) and requests.organs == ORGANS
    assert requests.mask.unique().tolist() == [0, 1, 2] and (requests.noise == 12).all()
    alone = ct_requests(adapter(conditions=["noise"]), autoencoder, None, None, 12.0, ["brain"], 1)
    assert not alone.has_mask.any() and alone.has_noise.all()


@pytest.mark.parametrize(
    ("told", "given", "message"),
    [
        (["mask"], {"noise_level": 12.0}, "noise_level: this network was trained on mask alone"),
        (["mask"], {"noise_path": "a.nii"}, "noise_path: this network was trained on mask alone"),
        (["noise"], {"mask_path": "a.nii"}, "mask_path: this network was trained on noise alone"),
        (["noise", "mask"], {"organs": {"liver": [1]}}, r"organs \['liver'\]: this network knows"),
        (["noise", "mask"], {"organs": {"kidneys": [2], "liver": [1]}}, "in this order; name these"),
        (["noise", "mask"], {"mask_path": None}, "nothing is asked for"),
    ],
)
def test_requests_that_the_network_cannot_be_told_are_refused(
    told: list[str], given: dict[str, Any], message: str, autoencoder: LatentCodec, mask_path: Path
) -> None:
    options: dict[str, Any] = {
        "mask_path": mask_path if "mask" in told else None, "noise_path": None, "noise_level": None,
        "organs": {"liver": [1], "kidneys": [2]}, "samples": 1, **given,
    }  # fmt: skip
    with pytest.raises(OptionError, match=message):
        ct_requests(adapter(conditions=told), autoencoder, **options)


def test_an_adapter_of_radiographs_is_no_ct_network(autoencoder: LatentCodec) -> None:
    other = replace(adapter(), settings={})
    for use in (facts_of, lambda one: adapter_codec(one, autoencoder)):
        with pytest.raises(OptionError, match="this adapter is of no CT network"):
            use(other)


def test_conditions_are_encoded_as_in_the_training(autoencoder: LatentCodec) -> None:
    trained = MapCodec(["noise", "mask"], 50.0, len(ORGANS))
    assert adapter_codec(adapter(), autoencoder).key == trained.key
    tokens = TokenCodec(["noise"], 50.0, len(ORGANS), autoencoder, 1.5)
    told = adapter(conditions=["noise"], ways=["tokens"], codec=tokens.key)
    assert isinstance(adapter_codec(told, autoencoder), TokenCodec)
    for wrong in ({"codec": ["clip", "hash", "noise", 50.0, 2], "ways": ["global"]}, {"noise_scale": 40.0}):
        with pytest.raises(OptionError, match="clip_path: this network was trained with another encoder"):
            adapter_codec(adapter(**wrong), autoencoder)
