"""Sampled CT on disk: HU, requests and marks come back as they were, and no copy is released."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer

from anatodiff.autoencoders import CTRequests
from anatodiff.data import HU_WINDOWS, read_ct, read_ct_mask, read_ct_noise, read_radiograph
from anatodiff.engines import CTSampleWriter, file_requests
from anatodiff.engines.batches import EngineBatch
from anatodiff.engines.manifest import Provenance, differences
from anatodiff.engines.pictures import GAP, TEXT_HEIGHT

SIDE, N = 32, 5
WINDOW = HU_WINDOWS["abdomen"]
PROVENANCE = Provenance({"adapter": "ab12" * 16}, {"data": "CC0"}, {"seed": 7})


def requests(organs: tuple[str, ...] = ("liver", "left kidney")) -> CTRequests:
    """Five slices: the last one without a map, the first one without a mask."""
    random = torch.Generator().manual_seed(0)
    mask = torch.randint(0, 3, (N, SIDE, SIDE), generator=random, dtype=torch.uint8)
    has_mask, has_noise = torch.ones(N, dtype=torch.bool), torch.ones(N, dtype=torch.bool)
    has_mask[0], has_noise[-1] = False, False
    return CTRequests(
        noise=(30 * torch.rand(N, 1, SIDE, SIDE, generator=random)) * has_noise[:, None, None, None],
        mask=mask * has_mask[:, None, None],
        has_noise=has_noise,
        has_mask=has_mask,
        doses=torch.tensor([0.05, 0.25, 0.5, torch.nan, 1.0]),
        labels=torch.zeros(N, dtype=torch.int64),
        references=torch.tensor([3, 14, -1, -1, 0]),
        organs=list(organs),
    )


def images(n: int = N, side: int = SIDE) -> torch.Tensor:
    return torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(1))


class Gives(Inferer):
    """Samples what it is told to."""

    def __init__(self, samples: torch.Tensor) -> None:
        self.samples = samples

    def __call__(self, inputs, network):  # type: ignore[no-untyped-def]
        return self.samples[inputs]


class RefusesThird:
    """Takes the third sample for a copy."""

    def __init__(self) -> None:
        self.refused: list[str] = []

    def is_copy(self, image: torch.Tensor, sample: str, label: str, number: int) -> bool:
        self.refused += [sample] if number == 2 else []
        return number == 2

    def write(self, folder: Path, of: int) -> None:
        (folder / "refused.json").write_text(json.dumps({"samples": of}))


def prepare(batchdata: dict[str, torch.Tensor], device: torch.device, non_blocking: bool = False) -> EngineBatch:
    return batchdata["number"], batchdata["number"], (), {}


def write(folder: Path, asked: CTRequests | None = None, samples: torch.Tensor | None = None, **options: Any) -> Path:
    """Sample in batches of two; returns the folder."""
    asked = requests() if asked is None else asked
    samples = images(len(asked)) if samples is None else samples
    writer = CTSampleWriter(folder, asked, WINDOW, PROVENANCE, **options)
    SupervisedEvaluator(
        device=torch.device("cpu"), val_data_loader=[{"number": part} for part in torch.arange(len(asked)).split(2)],
        network=torch.nn.Identity(), prepare_batch=prepare, inferer=Gives(samples), val_handlers=[writer],
        decollate=False,
    ).run()  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("samples"), body_part="ABDOMEN")


def test_slices_come_back_in_hu_on_the_grid_of_their_requests(folder: Path) -> None:
    asked = requests()
    for number in range(N):
        stem = folder / f"sample_{number:05d}"
        volume = read_ct(f"{stem}_ct.nii.gz")
        hu = WINDOW.to_hu(images()[number].numpy())
        np.testing.assert_array_equal(volume.slices, hu)
        assert volume.spacing == pytest.approx((3.0, 1.5, 1.5))
        series = read_ct(f"{stem}_dicom")
        np.testing.assert_array_equal(series.slices, np.rint(hu))
        assert series.spacing == pytest.approx((3.0, 1.5, 1.5)) and series.meta["body_part"] == "ABDOMEN"
        np.testing.assert_allclose(series.affine, volume.affine, atol=1e-4)
        if asked.has_mask[number]:
            np.testing.assert_array_equal(read_ct_mask(f"{stem}_seg.nii.gz", volume, 3)[0], asked.mask[number])
        if asked.has_noise[number]:
            noise = read_ct_noise(f"{stem}_noise.nii.gz")
            np.testing.assert_array_equal(noise.slices, asked.noise[number])
            np.testing.assert_array_equal(noise.affine, volume.affine)
    assert not (folder / "sample_00000_seg.nii.gz").exists() and not (folder / "sample_00004_noise.nii.gz").exists()


def test_every_file_says_synthetic(folder: Path) -> None:
    for file in folder.glob("*.nii.gz"):
        header = nib.load(file).header
        assert header["descrip"].item().decode().startswith("SYNTHETIC")
        assert "not of a patient" in header.extensions[0].get_content().decode()
    (file,) = (folder / "sample_00003_dicom").iterdir()
    dataset = pydicom.dcmread(file)
    assert dataset[0x0008001C].value == "YES" and dataset.Modality == "CT"
    facts = dataset.DerivationDescription
    assert all(word in facts for word in ("seed 7", "number 3", "ab12" * 16, PROVENANCE.recipe_sha256))


def test_the_table_says_what_was_asked_for(folder: Path) -> None:
    with open(folder / "requests.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["sample"] for row in rows] == [f"sample_{number:05d}" for number in range(N)]
    assert [row["dose"] for row in rows] == ["0.05", "0.25", "0.5", "", "1"]
    assert [row["organs"] for row in rows] == [""] + ["liver;left kidney"] * 4
    assert [row["reference"] for row in rows] == ["3", "14", "", "", "0"]


def test_the_manifest_lists_every_file_and_the_sheet_shows_all(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    there = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert set(manifest["files_sha256"]) == there - {"manifest.json"}
    assert "sample_00001_dicom/slice_0001.dcm" in manifest["files_sha256"]
    assert manifest["counts"]["images"] == {"ct": N} and differences(folder / "manifest.json") == []
    sheet = read_radiograph(folder / "contact_sheet.png").pixels
    step = GAP + SIDE

    def tile(row: int, column: int) -> np.ndarray:
        top, left = GAP + TEXT_HEIGHT + row * (step + TEXT_HEIGHT), GAP + column * step
        return sheet[top : top + SIDE, left : left + SIDE]

    asked = requests()
    for number in range(N):
        rows = (asked.noise[number, 0] / asked.noise.max(), asked.mask[number] / 2, images()[number, 0])
        for row, expected in enumerate(rows):
            np.testing.assert_allclose(tile(row, number), expected, atol=1 / 255)
    assert sheet.shape == (GAP + 3 * (step + TEXT_HEIGHT), GAP + N * step)


def test_what_is_read_from_files_is_written_beside_the_samples(tmp_path: Path, folder: Path) -> None:
    asked = file_requests(
        folder / "sample_00002_seg.nii.gz", folder / "sample_00002_noise.nii.gz", None, {"a": [1], "b": [2]}, SIDE, 2
    )
    again = write(tmp_path / "again", asked, images(2))
    volume = read_ct(again / "sample_00001_ct.nii.gz")
    np.testing.assert_array_equal(read_ct_mask(again / "sample_00001_seg.nii.gz", volume)[0], requests().mask[2])
    np.testing.assert_array_equal(read_ct_noise(again / "sample_00001_noise.nii.gz").slices, requests().noise[2])


def test_a_copy_is_not_written_and_its_earlier_files_go(tmp_path: Path) -> None:
    write(tmp_path)
    assert (tmp_path / "sample_00002_dicom").is_dir()
    write(tmp_path, refusal=RefusesThird(), overwrite=True)
    assert not list(tmp_path.glob("sample_00002*")) and len(list(tmp_path.glob("*_ct.nii.gz"))) == N - 1
    assert json.loads((tmp_path / "refused.json").read_text()) == {"samples": N}
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["counts"]["refused_as_copies"] == 1 and "refused.json" not in manifest["files_sha256"]
    assert "sample_00002" not in (tmp_path / "requests.csv").read_text()


def test_files_are_replaced_only_where_that_is_said(tmp_path: Path) -> None:
    write(tmp_path, formats=("nii.gz",), spacing=(5, 0.8, 0.7))
    assert not list(tmp_path.glob("*_dicom"))
    assert read_ct(tmp_path / "sample_00000_ct.nii.gz").spacing == pytest.approx((5, 0.8, 0.7))
    with pytest.raises(FileExistsError, match=r"holds files already; give another dataset_dir, or --overwrite True"):
        write(tmp_path)
    write(tmp_path, formats=("dcm",), overwrite=True)
    assert not list(tmp_path.glob("*_ct.nii.gz")) and len(list(tmp_path.glob("*_dicom"))) == N
    assert differences(tmp_path / "manifest.json") == []


@pytest.mark.parametrize(
    "options, message",
    [
        ({"formats": ("png",)}, r"formats must be among \('nii.gz', 'dcm'\), got 'png'"),
        ({"spacing": (1.5, 1.5)}, r"spacing \(1.5, 1.5\): give three positive numbers"),
        ({"spacing": (3, 0, 1.5)}, "give three positive numbers, mm between slices, rows and columns"),
        ({"body_part": "TOE"}, "body_part 'TOE': give None or one of"),
        ({"asked": requests(("a;b", "c"))}, "give names without ';'"),
        ({"samples": images(N, 64)}, "samples of 64 pixels, requests of 32: give both one image_size"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write(tmp_path, **options)
    assert not list(tmp_path.iterdir())
