"""Bases of several kinds of image: domains, a small second folder, and the programs that make such folders."""

from __future__ import annotations

import csv
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run
from PIL import Image
from support import ROOT, make_base, with_domains

from anatodiff.data import DatasetError, make_sources
from anatodiff.diffusion import DiffusionSettings
from anatodiff.engines import DiffusionBatch, StepBatches, extra_folder
from anatodiff.engines.workflow import OptionError
from anatodiff.networks import load_base


class Rows:
    """A dataset whose rows tell their own index."""

    def __init__(self, n: int, first: int) -> None:
        self.n, self.first = n, first

    def __len__(self) -> int:
        return self.n

    def gather(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"row": indices + self.first}


def folder_of(root: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    """Write small images and the table (file, patient, label, domain)."""
    root.mkdir()
    for number, row in enumerate(rows):
        Image.fromarray(np.tile(np.arange(40, dtype=np.uint8) + number, (40, 1))).save(root / row[0])
    with open(root / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "patient_id", "label", "domain"), *rows])
    return root


@pytest.fixture
def large(tmp_path: Path) -> Path:
    rows = [(f"a{i}.png", f"p{i}", "sick" if i % 2 else "well", "chest" if i < 6 else "arm") for i in range(12)]
    return folder_of(tmp_path / "large", rows)


def test_domains_come_first_and_are_the_parents_of_their_classes(large: Path, tmp_path: Path) -> None:
    small = folder_of(tmp_path / "small", [("b0.png", "q0", "well", "real"), ("b1.png", "q1", "odd", "")])
    sources = make_sources(large, small, test_fraction=0.25)
    assert sources.classes == [
        "arm",
        "chest",
        "real",
        "odd",
        "arm/sick",
        "arm/well",
        "chest/sick",
        "chest/well",
        "real/well",
    ]
    assert sources.parents == [0, 1, 2, 3, 0, 0, 1, 1, 2]
    assert sources.extra is not None
    names = {Path(row["image"]).name: sources.classes[row["label"]] for row in sources.train + sources.extra}
    assert names.items() >= {"b0.png": "real/well", "b1.png": "odd"}.items()
    assert all(name == ("chest" if int(file[1:-4]) < 6 else "arm") + ("/sick" if int(file[1:-4]) % 2 else "/well")
               for file, name in names.items() if file.startswith("a"))  # fmt: skip
    assert not {row["patient"] for row in sources.train} & {row["patient"] for row in sources.test}


def test_a_table_without_domains_gives_plain_classes(small_images: Path) -> None:
    sources = make_sources(small_images, test_fraction=0.3)
    assert (sources.classes, sources.parents, sources.extra) == (["common", "rare"], [0, 1], None)


def test_each_batch_takes_its_share_from_the_small_set() -> None:
    batches = iter(StepBatches(Rows(50, 0), 16, seed=0, extra=Rows(7, 1000), extra_share=0.13))
    seen = [next(batches) for _ in range(40)]
    counts = [int((batch["row"] >= 1000).sum()) for batch in seen]
    assert counts == [2] * 40  # 0.13 of 16, rounded down
    assert all(torch.equal(batch["position"], 16 * step + torch.arange(16)) for step, batch in enumerate(seen))
    drawn = torch.cat([batch["row"] for batch in seen])
    assert drawn[drawn >= 1000].unique(return_counts=True)[1].tolist() == [12, 12, 12, 11, 11, 11, 11] or (
        sorted(drawn[drawn >= 1000].unique(return_counts=True)[1].tolist()) == [11] * 4 + [12] * 3
    )  # in turn
    assert len(drawn[drawn < 1000].unique()) == 50


@pytest.mark.parametrize("share", [0.05, 1.0])
def test_a_share_that_is_no_image_or_all_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="at least one"):
        StepBatches(Rows(50, 0), 16, seed=0, extra=Rows(7, 0), extra_share=share)


def test_labels_are_dropped_to_nothing_and_to_the_domain() -> None:
    prepare = DiffusionBatch(
        DiffusionSettings().build(),
        1.0,
        null_label=9,
        label_dropout=0.2,
        seed=0,
        parents=[0, 0, 0],
        domain_share=0.3,
    )
    n = 2000
    batch = {
        "position": torch.arange(n), "mean": torch.zeros(n, 1, 1, 1), "logvar": torch.zeros(n, 1, 1, 1),
        "label": torch.full((n,), 2),
    }  # fmt: skip
    labels = prepare(batch, torch.device("cpu"))[3]["class_labels"]
    shares = [float((labels == label).float().mean()) for label in (9, 0, 2)]
    np.testing.assert_allclose(shares, [0.2, 0.24, 0.56], atol=0.03)


def test_a_share_beyond_one_is_refused() -> None:
    with pytest.raises(ValueError, match="domain_share must be 0 to 1"):
        DiffusionBatch(DiffusionSettings().build(), 1.0, 9, label_dropout=0.6, seed=0, domain_share=1.5)


def test_base_knows_its_domains_and_a_fine_tune_starts_from_one(
    run: Run, small_images: Path, small_weights: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "base.safetensors"
    (tmp_path / "images").mkdir()
    images = with_domains(small_images, tmp_path / "images")
    run("pretrain", dataset_dir=images, weights_path=str(path), output_dir=str(tmp_path / "pretrain"))
    base = load_base(path)
    assert base.classes[:2] == ["domain0", "domain1"]
    assert len(base.classes) == 6
    with pytest.raises(ValueError, match=r"start_class 'domain2' is no class of the base; .* domain0, domain1"):
        run("train", base_path=str(path), start_class="domain2")
    out = run("train", base_path=str(path), start_class="domain1", learning_rate=0.0)
    other = run("train", base_path=str(path), start_class="domain0", learning_rate=0.0, output_dir=str(tmp_path / "o"))
    assert (out / "samples" / "rare_00000.dcm").read_bytes() != (other / "samples" / "rare_00000.dcm").read_bytes()


def program(name: str, *arguments: Any) -> int:
    return runpy.run_path(str(ROOT / "scripts" / f"{name}.py"))["main"]([str(argument) for argument in arguments])


def test_parts_share_no_patient_and_copy_no_image(small_images: Path, tmp_path: Path) -> None:
    assert (
        program(
            "split_folder", "--dataset_dir", small_images, "--output_dir", tmp_path, "--parts", "study=18", "base=rest"
        )
        == 0
    )
    study, base = (make_sources(tmp_path / part, test_fraction=0.3) for part in ("study", "base"))
    sets = [{row["patient"] for row in part.train + part.test} for part in (study, base)]
    assert not sets[0] & sets[1]
    assert [len(part.train + part.test) for part in (study, base)] == [18, 10]
    assert {file.name for file in tmp_path.rglob("*") if file.is_file()} == {"labels.csv"}


def test_parts_are_taken_of_the_files_asked_for(
    small_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    given = ("--dataset_dir", small_images, "--output_dir", tmp_path, "--parts", "a=6", "b=rest")
    assert program("split_folder", *given, "--only", "image0*") == 0
    rows = [line for part in ("a", "b") for line in (tmp_path / part / "labels.csv").read_text().splitlines()[1:]]
    assert len(rows) == 10 and all(row.startswith("images/image0") for row in rows)
    assert program("split_folder", *given, "--only", "other/*") == 1
    assert "no file is 'other/*'" in capsys.readouterr().err


def test_nothing_left_for_a_part_is_said(small_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ("--dataset_dir", small_images, "--output_dir", tmp_path, "--parts", "a=28", "b=rest")
    assert program("split_folder", *arguments) == 1
    assert "nothing is left for the part 'b'" in capsys.readouterr().err


def test_a_held_out_folder_takes_the_place_of_a_share(large: Path, tmp_path: Path) -> None:
    held = folder_of(tmp_path / "held", [("c0.png", "r0", "well", "chest"), ("c1.png", "r1", "sick", "arm")])
    sources = make_sources(large, test_fraction=0.5, validation_dir=held)
    assert len(sources.train) == 12
    assert [Path(row["image"]).name for row in sources.test] == ["c0.png", "c1.png"]
    assert [sources.classes[row["label"]] for row in sources.test] == ["chest/well", "arm/sick"]
    assert list(sources.lists) == ["dataset_dir", "validation_dir"]


@pytest.mark.parametrize("place", ["large", "small"])
def test_a_patient_of_the_training_is_refused_in_the_held_out_folder(place: str, large: Path, tmp_path: Path) -> None:
    small = folder_of(tmp_path / "small", [("b0.png", "q0", "well", "chest"), ("b1.png", "q1", "well", "chest")])
    patient, other = ("p3", "a3.png") if place == "large" else ("q1", "b1.png")
    held = folder_of(tmp_path / "held", [("c0.png", "r0", "well", "chest"), ("c1.png", patient, "well", "chest")])
    with pytest.raises(DatasetError, match=rf"c1\.png is of the same patient as .*{other}"):
        make_sources(large, small, validation_dir=held)


def test_a_class_that_the_training_lacks_is_refused_by_name(large: Path, tmp_path: Path) -> None:
    held = folder_of(tmp_path / "held", [("c0.png", "r0", "well", "chest"), ("c1.png", "r1", "odd", "chest")])
    with pytest.raises(DatasetError, match="no training image is of class chest/odd"):
        make_sources(large, validation_dir=held)


def test_phantoms_of_chests_are_a_second_folder(tmp_path: Path) -> None:
    folder = extra_folder(None, tmp_path, phantom_images=4)
    assert folder is not None
    phantoms = make_sources(folder, test_fraction=0)
    assert len(phantoms.train) == 4
    assert phantoms.classes[0] == "chest phantom" and set(phantoms.parents[1:]) == {0}
    assert extra_folder(None, tmp_path) is None
    for place, count in (("/data", 4), (None, -1)):
        with pytest.raises(OptionError, match="extra_phantoms"):
            extra_folder(place, tmp_path, count)


def test_a_base_that_goes_on_keeps_scale_and_licence_of_its_start(
    run: Run, small_weights: dict[str, str], tmp_path: Path
) -> None:
    """Weights under a licence do not lose it by being trained further, and see latents of the scale that they know."""
    start, path = make_base(tmp_path, 0, small_weights["autoencoder_path"]), tmp_path / "base.safetensors"
    run("pretrain", start_path=start, data_licence="CC BY 4.0", weights_path=str(path))
    base = load_base(path)
    assert base.licence == "CC BY 4.0; went on from a base of: CC0"
    assert base.scale_factor == 1.5
