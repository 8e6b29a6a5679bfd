"""docs/paper.md: the names it points to are there, and each of its commands does what its row says."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import sys
from collections.abc import Callable
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import fire
import numpy as np
import pytest
import torch
from fire.parser import DefaultParseValue
from monai.bundle import run
from support import ROOT, SIZE, make_features

from anatodiff.autoencoders import Autoencoder, load_autoencoder, save_autoencoder
from anatodiff.data import write_radiograph
from anatodiff.networks import Base, DiT, save_base
from anatodiff.weights import Weights, load_weights

TEXT = (ROOT / "docs" / "paper.md").read_text()
PAPER = json.loads((ROOT / "configs" / "paper.json").read_text())
SETTINGS = {**json.loads((ROOT / "configs" / "train.json").read_text()), **PAPER}
IMAGES = 126  # a third of them trains, enough for K = 40
BLOCKS = 9  # enough for N = 9
# What the runs leave out for speed; nothing that a row of a table sets is here.
FAST: dict[str, Any] = {
    "image_size": SIZE, "max_epochs": 1, "epoch_length": 1, "checkpoint_every": 2, "sampling_steps": 2,
    "preview_images": 0, "samples_per_class": 4, "measured": [],
}  # fmt: skip
# Options of rows that the adapter's header does not hold as such: the data.
DATA = {"dataset_dir", "output_dir", "max_images", "test_fraction", "samples_per_class"}
KMEANS_SEED = "prototype_seed"


class Command(NamedTuple):
    """A command of the document: the words before its options, and the options as they are typed."""

    words: tuple[str, ...]
    options: dict[str, str]

    @property
    def name(self) -> str:
        return self.options["output_dir"].removeprefix("output/")

    @property
    def row(self) -> dict[str, Any]:
        """The options of the row itself, as values."""
        own = {key: value for key, value in self.options.items() if key not in {*DATA, "config_file"}}
        return {key: None if value == "$None" else DefaultParseValue(value) for key, value in own.items()}

    @property
    def kind(self) -> str:
        """Equal for commands that run with the same values, but for their folders."""
        given = {key: value for key, value in self.options.items() if key in DATA - {"dataset_dir", "output_dir"}}
        return json.dumps({**SETTINGS, KMEANS_SEED: SETTINGS["seed"], **self.row, "data": given}, sort_keys=True)


def commands() -> list[Command]:
    """All commands of the document, in its order."""
    blocks = re.findall(r"^```sh\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if not line.startswith("#")]
    found = []
    for words in map(shlex.split, lines):
        first = next(i for i, word in enumerate(words) if word.startswith("--"))
        names, values = words[first::2], words[first + 1 :: 2]
        options = {name.removeprefix("--"): value for name, value in zip(names, values, strict=True)}
        found.append(Command(tuple(words[:first]), options))
    return found


TRAININGS = [command for command in commands() if "training" in command.words]
OTHERS = [command for command in commands() if "training" not in command.words]


def rows_of(heading: str) -> list[list[str]]:
    """Cells of the tables under a heading, without the tables' heads; code loses its quotes."""
    sections = re.split(r"^## ", TEXT, flags=re.MULTILINE)
    section = next(part for part in sections if part.startswith(heading))
    bodies = re.findall(r"^\| ---.*\n((?:\|.*\n)+)", section, re.MULTILINE)
    lines = [line for body in bodies for line in body.splitlines()]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def in_process(command: Command, **options: object) -> None:
    """Run a command as typed, with other values for some options."""
    words = [*command.words[command.words.index("run") :]]
    for name, value in {**command.options, **options}.items():
        words += [f"--{name}", str(value)]
    hook = sys.excepthook
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        try:
            fire.Fire({"run": run}, command=words)
        finally:
            sys.excepthook = hook


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Options for small images and weights in place of the data sets and DiT-XL/2."""
    images, folder = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("weights")
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    for i in range(IMAGES):
        random = np.random.default_rng(i)
        image = 0.7 + 0.02 * random.standard_normal((SIZE, SIZE))
        for centre in (0.3, 0.7):
            (shift, height), width = random.normal(0, 0.04, 2), random.uniform(0.06, 0.14)
            image[((x - centre - shift) / width) ** 2 + ((y - 0.5 - height) / 0.3) ** 2 < 1] -= 0.5
        write_radiograph(images / f"image{i:03d}.png", np.clip(image, 0, 1).astype(np.float32))
    paths = {"autoencoder_path": str(folder / "ae.safetensors"), "base_path": str(folder / "dit.safetensors")}
    torch.manual_seed(0)
    save_autoencoder(paths["autoencoder_path"], Autoencoder(4, (8, 8), norm_num_groups=4), {})
    network = DiT(input_size=SIZE // 8, patch_size=4, hidden_size=32, depth=BLOCKS, num_heads=2)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    encoder = load_autoencoder(paths["autoencoder_path"])
    save_base(paths["base_path"], Base(network, 1.5, ["a"], "", encoder.sha256, "CC0"), {})
    cache = tmp_path_factory.mktemp("cache")
    return {**paths, "dataset_dir": str(images), "cache_dir": str(cache)}


Train = Callable[[Command], Path]


@pytest.fixture(scope="module")
def train(places: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Run a command of a table, each distinct one once; returns its folder."""
    done: dict[str, Path] = {}

    def start(command: Command) -> Path:
        if command.kind not in done:
            out = tmp_path_factory.mktemp(command.name)
            in_process(command, **places, **FAST, output_dir=out)
            done[command.kind] = out
        return done[command.kind]

    return start


def adapter_of(folder: Path) -> Weights:
    return load_weights(folder / "adapter.safetensors", "adapter")


@pytest.mark.parametrize("command", TRAININGS, ids=[command.name for command in TRAININGS])
def test_command_of_a_row_does_what_the_row_says(command: Command, train: Train) -> None:
    adapter = adapter_of(train(command))
    assert command.row  # a row that sets nothing is no row
    assert {key: adapter.settings["run"][key] for key in command.row} == command.row
    assert ("shapes.prototypes" in adapter.tensors) == (adapter.settings["run"]["n_prototypes"] > 0)
    if adapter.settings["shapes"] is not None:
        assert len(adapter.tensors["shapes.prototypes"]) == adapter.settings["run"]["n_prototypes"]
        assert adapter.settings["shapes"]["blocks"] == adapter.settings["run"]["spm_blocks"]


def test_seed_of_kmeans_changes_the_prototypes_alone(train: Train) -> None:
    rows = {command.row[KMEANS_SEED]: command for command in TRAININGS if KMEANS_SEED in command.row}
    prototypes = {seed: adapter_of(train(command)).tensors["shapes.prototypes"] for seed, command in rows.items()}
    plain = next(command for command in TRAININGS if command.row == {"prototype_method": "kmeans"})
    assert torch.equal(prototypes[0], adapter_of(train(plain)).tensors["shapes.prototypes"])
    assert list(rows) == [0, 1, 2, 3]
    assert not any(torch.equal(prototypes[0], prototypes[seed]) for seed in (1, 2, 3))
    assert {adapter_of(train(command)).settings["run"]["data"] for command in rows.values()} == {
        adapter_of(train(plain)).settings["run"]["data"]
    }


def test_no_binarization_gives_gray_prototypes(train: Train) -> None:
    gray, binary = (
        next(command for command in TRAININGS if command.row == {"threshold": value}) for value in (None, 150)
    )
    assert not torch.equal(*(adapter_of(train(c)).tensors["shapes.prototypes"] for c in (gray, binary)))


@pytest.mark.parametrize("command", OTHERS, ids=lambda command: command.options["config_file"])
def test_command_of_the_measures(
    command: Command, train: Train, places: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    trained = next(row for row in TRAININGS if row.options["output_dir"] == command.options["run_dir"])
    same = ("dataset_dir", "max_images", "test_fraction", "seed")
    assert [command.options.get(key) for key in same] == [trained.options.get(key) for key in same]
    out, folder = train(trained), tmp_path_factory.mktemp("features")
    in_process(
        command, run_dir=out, dataset_dir=places["dataset_dir"], cache_dir=places["cache_dir"], image_size=SIZE,
        feature_network=make_features(folder, seed=0),
    )  # fmt: skip
    measures = json.loads((out / "evaluation.json").read_text())["metrics"]
    assert {"fid", "precision", "recall"} <= set(measures)


def test_every_table_has_its_rows() -> None:
    count = {number: sum(c.name.startswith(f"table{number}-") for c in TRAININGS) for number in range(1, 9)}
    assert count == {1: 12, 2: 3, 3: 4 + 6, 4: 8, 5: 5, 6: 4, 7: 7, 8: 2}
    names = [command.name for command in TRAININGS]
    assert len(set(names)) == len(names)


def test_every_equation_has_a_row() -> None:
    numbers = [row[0] for row in rows_of("Equations")]
    assert [int(number) for number in numbers if number.isdigit()] == list(range(1, 20))


def test_names_in_the_tables_are_there() -> None:
    cells = [cell for row in rows_of("Equations") for cell in pairwise(row)]
    found = [(file, name) for file, name in cells if file.endswith(".py")]
    assert len(found) >= 19
    for file, name in found:
        assert (ROOT / file).is_file(), file
        module = file.removeprefix("bundle/").removesuffix(".py").replace("/", ".")
        reduce(getattr, name.split("."), importlib.import_module(module))


def test_settings_in_the_table_are_those_of_the_configs() -> None:
    said = {option: json.loads(value) for _, _, option, value in rows_of("Settings")}
    assert said == {option: SETTINGS[option] for option in said}
    assert set(PAPER) <= set(said)
    assert all(row[1] in ("stated", "inherited", "ours") for row in rows_of("Settings"))
