from __future__ import annotations

import csv
from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from anatodiff.data.phantom import (
    ALL_CLASSES,
    CHEST_CLASSES,
    MASK_NAMES,
    PHANTOM_CLASSES,
    RARE_CLASS,
    Phantom,
    make_phantom,
    plan_phantoms,
    write_phantoms,
)
from anatodiff.data.phantom.geometry import Ellipsoid, Stack, union_depth
from anatodiff.data.phantom.projection import attenuation_coefficients
from anatodiff.data.phantom.rays import Rays

SIZE = 128
cached_phantom = cache(make_phantom)


def middle_column(mask: np.ndarray) -> float:
    return float(np.nonzero(mask)[1].mean())


def cardiothoracic_ratio(phantom: Phantom) -> float:
    heart = np.nonzero(phantom.masks["heart"].any(axis=0))[0]
    chest = np.nonzero((phantom.masks["right_lung"] | phantom.masks["left_lung"]).any(axis=0))[0]
    return float(np.ptp(heart) / np.ptp(chest))


def straight_rays(x: float, z: float) -> Rays:
    def one(value: float) -> np.ndarray:
        return np.full((1, 1), value, np.float32)

    return Rays(one(x), one(z), one(0), one(0), one(1))


def test_chord_of_ellipsoid_is_exact() -> None:
    near, far = Ellipsoid((10, 5, -3), (20, 30, 40)).interval(straight_rays(10 + 12, -3))
    assert far[0, 0] - near[0, 0] == pytest.approx(2 * 30 * 0.8, rel=1e-5)
    near, far = Ellipsoid((10, 5, -3), (20, 30, 40)).interval(straight_rays(31, -3))
    assert far[0, 0] == near[0, 0]


def test_chord_of_stack_is_exact() -> None:
    stack = Stack.from_knots((-50, 50), (0, 0), (7, 7), (30, 30), (20, 20))
    near, far = stack.interval(straight_rays(18, 0))
    assert (near[0, 0], far[0, 0]) == (pytest.approx(7 - 16, abs=1e-3), pytest.approx(7 + 16, abs=1e-3))
    near, far = stack.interval(straight_rays(18, 60))
    assert far[0, 0] == near[0, 0]


def test_union_counts_overlap_once() -> None:
    pairs = [(-30.0, -10.0), (0.0, 0.0), (-20.0, 5.0), (20.0, 25.0), (21.0, 22.0)]
    intervals = [(np.full((2, 2), near, np.float32), np.full((2, 2), far, np.float32)) for near, far in pairs]
    np.testing.assert_allclose(union_depth(intervals), 40.0, atol=1e-2)


def test_attenuation_is_that_of_tissue() -> None:
    mu = attenuation_coefficients(60.0)
    assert mu["soft"] == pytest.approx(0.2048 * 1.06 / 10)
    assert mu["lung"] < mu["fat"] < mu["soft"] < mu["bone"]
    assert attenuation_coefficients(40.0)["bone"] / mu["bone"] > attenuation_coefficients(40.0)["soft"] / mu["soft"]


def test_same_arguments_same_bytes() -> None:
    first, second = make_phantom(3, "nodule", SIZE), make_phantom(3, "nodule", SIZE)
    assert first.pixels.tobytes() == second.pixels.tobytes()
    assert all(np.array_equal(first.masks[name], second.masks[name]) for name in MASK_NAMES)
    assert make_phantom(4, "nodule", SIZE).pixels.tobytes() != first.pixels.tobytes()
    assert make_phantom(3, "nodule", SIZE, view=1).pixels.tobytes() != first.pixels.tobytes()


def test_pixels_are_a_grey_image() -> None:
    phantom = cached_phantom(0, size=SIZE)
    assert phantom.pixels.shape == (SIZE, SIZE) and phantom.pixels.dtype == np.float32
    assert phantom.pixels.min() >= 0 and phantom.pixels.max() <= 1 and phantom.pixels.std() > 0.1
    assert tuple(phantom.masks) == MASK_NAMES
    assert phantom.label == "normal" and phantom.side is None and not phantom.masks["lesion"].any()
    assert phantom.counts["lungs"] == 2 and phantom.counts["nodules"] == 0


def test_geometry_does_not_depend_on_size() -> None:
    small, large = make_phantom(5, size=96), make_phantom(5, size=288)
    assert small.spacing == pytest.approx(3 * large.spacing)
    for name in ("right_lung", "heart", "abdomen"):
        shrunk = large.masks[name].reshape(96, 3, 96, 3).mean(axis=(1, 3)) > 0.5
        overlap = (shrunk & small.masks[name]).sum() / (shrunk | small.masks[name]).sum()
        assert overlap > 0.93, name


@pytest.mark.parametrize("seed", range(3))
def test_anatomy_lies_where_it_belongs(seed: int) -> None:
    phantom = cached_phantom(seed, size=SIZE)
    right, left = middle_column(phantom.masks["right_lung"]), middle_column(phantom.masks["left_lung"])
    spine = middle_column(phantom.masks["spine"])
    assert right < spine < left
    assert middle_column(phantom.masks["heart"]) > spine
    lungs = phantom.masks["right_lung"] | phantom.masks["left_lung"]
    assert phantom.pixels[lungs].mean() < phantom.pixels[phantom.masks["heart"]].mean() - 0.1
    tops = [np.nonzero(phantom.masks["abdomen"][:, int(column)])[0].min() for column in (right, left)]
    assert tops[0] <= tops[1] + 1
    assert phantom.counts["ribs"] >= 14
    assert 0.01 < phantom.masks["ribs"].mean() < 0.4


def test_ribs_brighten_the_lung() -> None:
    phantom = make_phantom(1, size=256)
    lungs = phantom.masks["right_lung"] | phantom.masks["left_lung"]
    assert phantom.pixels[lungs & phantom.masks["ribs"]].mean() > phantom.pixels[lungs & ~phantom.masks["ribs"]].mean()


@pytest.mark.parametrize("label", ["effusion", "pneumothorax", "nodule", RARE_CLASS])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lesion_lies_in_the_struck_lung(label: str, seed: int) -> None:
    ill, healthy = cached_phantom(seed, label, SIZE), cached_phantom(seed, size=SIZE)
    lesion = ill.masks["lesion"]
    assert lesion.any() and ill.side in ("left", "right")
    spine = middle_column(ill.masks["spine"])
    assert (middle_column(lesion) > spine) == (ill.side == "left")
    other = ill.masks["right_lung" if ill.side == "left" else "left_lung"]
    seen = lesion & ~ill.masks["heart"] & ~ill.masks["abdomen"]
    difference = ill.pixels - healthy.pixels
    change = float(difference[seen].mean() - difference[other].mean())  # the window of the display follows both lungs
    assert change < 0 if label in ("pneumothorax", RARE_CLASS) else change > 0
    assert (ill.counts["nodules"] in (1, 2, 3)) == (label == "nodule")


def test_effusion_hides_the_costophrenic_angle() -> None:
    ill, healthy = cached_phantom(2, "effusion", SIZE), cached_phantom(2, size=SIZE)
    name = f"{ill.side}_lung"
    lowest = np.nonzero(healthy.masks[name].any(axis=1))[0].max()
    corner = healthy.masks[name].copy()
    corner[: lowest - SIZE // 20] = False
    assert ill.masks["lesion"][corner].mean() > 0.8


def test_cardiomegaly_has_a_wide_heart() -> None:
    for seed in range(3):
        normal, ill = (cardiothoracic_ratio(cached_phantom(seed, label, SIZE)) for label in ("normal", "cardiomegaly"))
        assert ill > 0.55 > 0.53 > normal


def test_tension_pneumothorax_moves_the_heart_away_and_the_diaphragm_down() -> None:
    for seed in range(3):
        normal, ill = cached_phantom(seed, size=SIZE), cached_phantom(seed, RARE_CLASS, SIZE)
        moved = middle_column(ill.masks["heart"]) - middle_column(normal.masks["heart"])
        assert moved * (1 if ill.side == "right" else -1) > 0.03 * SIZE
        column = int(middle_column(normal.masks[f"{ill.side}_lung"]))
        domes = [np.nonzero(phantom.masks["abdomen"][:, column])[0] for phantom in (normal, ill)]
        assert len(domes[1]) == 0 or domes[1].min() > domes[0].min()


@pytest.mark.parametrize(
    ("arguments", "word"), [((0, "fracture"), "fracture"), ((-1,), "seed"), ((0, "normal", 8), "size")]
)
def test_bad_arguments_are_named(arguments: tuple, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        make_phantom(*arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("phantoms")
    table = write_phantoms(target, 18, PHANTOM_CLASSES, seed=7, size=64, workers=2, masks=True, images_per_patient=1.5)
    assert table == target / "labels.csv"
    return target


def read_table(folder: Path) -> list[dict[str, str]]:
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def test_files_hold_the_pixels_of_the_plan(folder: Path) -> None:
    for planned in plan_phantoms(18, PHANTOM_CLASSES, 7, 1.5):
        ds = pydicom.dcmread(folder / planned.file)
        values = ds.pixel_array / (2**ds.BitsStored - 1)
        shown = 1 - values if ds.PhotometricInterpretation == "MONOCHROME1" else values
        phantom = make_phantom(planned.seed, planned.label, 64, planned.view)
        assert np.abs(shown - phantom.pixels).max() <= 0.5001 / (2**ds.BitsStored - 1)
        assert float(ds.PixelSpacing[0]) == pytest.approx(phantom.spacing, rel=1e-4)
        code = np.asarray(Image.open(folder / "masks" / f"{Path(planned.file).stem}.png"))
        for bit, name in enumerate(MASK_NAMES):
            assert np.array_equal((code >> bit) & 1 == 1, phantom.masks[name])


def test_files_are_varied_valid_dicom(folder: Path) -> None:
    seen, uids = defaultdict(set), []
    for row in read_table(folder):
        ds = pydicom.dcmread(folder / row["file"])
        assert (ds.BitsAllocated, ds.HighBit, ds.PixelRepresentation) == (16, ds.BitsStored - 1, 0)
        assert ds.BurnedInAnnotation == "NO" and str(ds.PatientName).startswith("PHANTOM^")
        assert ds.PatientID == row["patient_id"]
        assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID
        for uid in (ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID):
            assert pydicom.uid.UID(uid).is_valid
        uids.append(ds.SOPInstanceUID)
        seen["modality"].add(ds.Modality)
        seen["photometric"].add(ds.PhotometricInterpretation)
        seen["bits"].add(ds.BitsStored)
        seen["syntax"].add(ds.file_meta.TransferSyntaxUID.name)
        seen["label"].add(row["label"])
    assert len(set(uids)) == 18
    assert seen["modality"] == {"CR", "DX"} and seen["photometric"] == {"MONOCHROME1", "MONOCHROME2"}
    assert seen["bits"] == {10, 12, 14} and seen["label"] == set(PHANTOM_CLASSES)
    assert seen["syntax"] == {"Explicit VR Little Endian", "RLE Lossless"}


def test_some_patients_have_two_images_of_one_anatomy() -> None:
    images = defaultdict(list)
    for planned in plan_phantoms(60, PHANTOM_CLASSES, 7, 1.5):
        images[planned.patient_id].append(planned)
    counts = {len(group) for group in images.values()}
    assert counts == {1, 2}
    for group in images.values():
        assert len({(planned.seed, planned.label) for planned in group}) == 1
        assert len({planned.view for planned in group}) == len(group)
    assert all(len(group) == 1 for group in _by_patient(plan_phantoms(20, ["normal"], 1, 1.0)).values())


def _by_patient(plan: list) -> dict[str, list]:
    groups = defaultdict(list)
    for planned in plan:
        groups[planned.patient_id].append(planned)
    return groups


def test_complete_folder_is_left_alone_and_a_broken_one_is_completed(folder: Path) -> None:
    arguments = {"seed": 7, "size": 64, "workers": 1, "masks": True, "images_per_patient": 1.5}
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    write_phantoms(folder, 18, PHANTOM_CLASSES, **arguments)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    lost = folder / read_table(folder)[3]["file"]
    content = lost.read_bytes()
    lost.unlink()
    (folder / "labels.csv").unlink()
    write_phantoms(folder, 18, PHANTOM_CLASSES, **arguments)
    assert lost.read_bytes() == content
    with pytest.raises(ValueError, match="choose another folder"):
        write_phantoms(folder, 18, PHANTOM_CLASSES, **{**arguments, "size": 96})


def test_bad_plans_are_refused() -> None:
    for n, labels, images in ((0, ["normal"], 1.0), (3, [], 1.0), (3, ["broken"], 1.0), (3, ["normal"], 2.5)):
        with pytest.raises(ValueError, match="phantoms"):
            plan_phantoms(n, labels, 0, images)


def test_all_classes_hold_the_rare_one() -> None:
    assert set(CHEST_CLASSES) == {*PHANTOM_CLASSES, "tension_pneumothorax"}
    assert set(CHEST_CLASSES) < set(ALL_CLASSES)
