"""CT phantoms: anatomy where it belongs, exact labels, noise as photons make it, folders that are read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from anatodiff.data import find_ct, read_ct_item
from anatodiff.data.phantom import CTPhantom, make_ct_phantom, write_ct_phantoms
from anatodiff.data.phantom.ct import LABELS
from anatodiff.data.phantom.ct.noise import ANGLES, WATER, backproject, dose_pair, line_integrals, ramp_filter

SIZE = 128
WITH_LESIONS = 5


@cache
def abdomen(seed: int = WITH_LESIONS) -> CTPhantom:
    return make_ct_phantom(seed, "abdomen", slices=4, size=SIZE)


@cache
def chest() -> CTPhantom:
    return make_ct_phantom(2, "chest", slices=4, size=SIZE)


def core(mask: np.ndarray, pixels: int = 2) -> np.ndarray:
    return np.stack([binary_erosion(part, iterations=pixels) for part in mask])


def middle(phantom: CTPhantom, name: str) -> np.ndarray:
    """Slice, row and column of an organ's middle; rows run to posterior, columns to the patient's left."""
    return np.argwhere(phantom.mask(name)).mean(axis=0)


def test_the_same_seed_is_the_same_patient_and_another_is_not() -> None:
    again = make_ct_phantom(WITH_LESIONS, "abdomen", slices=4, size=SIZE)
    for name in ("clean", "full_dose", "low_dose", "labels"):
        np.testing.assert_array_equal(getattr(again, name), getattr(abdomen(), name))
    other = abdomen(4)
    assert np.abs(other.clean - abdomen().clean).mean() > 50
    assert abdomen().spacing != other.spacing


def test_another_size_is_the_same_anatomy() -> None:
    small = make_ct_phantom(WITH_LESIONS, "abdomen", slices=4, size=SIZE // 2)
    assert (small.labels == abdomen().labels[:, ::2, ::2]).mean() > 0.9
    assert small.spacing[1] == pytest.approx(2 * abdomen().spacing[1])


def test_slices_are_of_one_patient_from_the_feet_to_the_head() -> None:
    liver = abdomen().mask("liver").sum(axis=(1, 2))
    assert (liver > 100).all() and middle(abdomen(), "kidneys")[0] < middle(abdomen(), "spleen")[0]
    lungs = abdomen().mask("lungs").sum(axis=(1, 2))
    assert lungs[0] == 0 and lungs[-1] >= lungs[1]


@pytest.mark.parametrize("seed", [WITH_LESIONS, 0, 4])
def test_organs_of_the_abdomen_lie_where_they_do_in_people(seed: int) -> None:
    phantom = abdomen(seed)
    liver, spleen, bone, stomach = (middle(phantom, name) for name in ("liver", "spleen", "bone", "stomach"))
    centre = np.argwhere(phantom.mask("body")).mean(axis=0)
    assert liver[2] < centre[2] < spleen[2]
    assert bone[1] > centre[1] > stomach[1]
    fluid = {"liver": (30, 130), "spleen": (40, 135), "kidneys": (20, 210), "vessels": (30, 210), "bone": (100, 900)}
    for name, (low, high) in fluid.items():
        assert low < phantom.clean[core(phantom.mask(name), 1)].mean() < high, name
    assert (phantom.clean[phantom.labels == 0] < -300).mean() > 0.99


def test_organs_of_the_chest_lie_where_they_do_in_people() -> None:
    phantom = chest()
    heart, bone = middle(phantom, "heart"), middle(phantom, "bone")
    assert heart[1] < bone[1] and heart[2] > SIZE / 2 - 2  # before the spine, and more to the left
    assert -920 < phantom.clean[core(phantom.mask("lungs"))].mean() < -760
    assert phantom.mask("lungs").mean() > 0.15 and phantom.mask("spleen").mean() < 0.02
    assert middle(phantom, "liver")[2] < SIZE / 2 and phantom.mask("liver")[0].any()


def test_labels_are_exact_and_lesions_are_darker_than_their_liver() -> None:
    phantom = abdomen()
    assert phantom.labels.dtype == np.uint8 and set(np.unique(phantom.labels)) <= set(range(len(LABELS)))
    lesions = phantom.mask("liver_lesion")
    assert lesions.any() and (phantom.mask("liver") & lesions).sum() == lesions.sum()
    healthy = core(phantom.mask("liver") & ~lesions)
    assert phantom.clean[core(lesions, 1)].mean() < phantom.clean[healthy].mean() - 10
    # A label ends where the values change: of all pixels of the liver's edge, none is fat or air by more than half.
    edge = phantom.mask("liver") & ~core(phantom.mask("liver"), 1)
    assert (phantom.clean[edge] < -60).mean() < 0.06
    with pytest.raises(ValueError, match="'tail' is unknown: choose one of background"):
        phantom.mask("tail")


def test_patients_differ_and_some_have_lesions() -> None:
    lesions = [make_ct_phantom(seed, slices=3, size=48).mask("liver_lesion").any() for seed in range(6)]
    assert 1 <= sum(lesions) < 6


def test_noise_grows_as_the_dose_falls() -> None:
    phantom = abdomen()
    liver = core(phantom.mask("liver") & ~phantom.mask("liver_lesion"))
    noise = [(part - phantom.clean)[liver] for part in (phantom.full_dose, phantom.low_dose)]
    assert noise[1].std() / noise[0].std() == pytest.approx(2.0, rel=0.1)  # a quarter of the photons
    assert all(abs(part.mean()) < 1.5 for part in noise)
    # What the low dose adds is not correlated with what was there: x_ld is x_fd and inserted noise.
    added = (phantom.low_dose - phantom.full_dose)[liver]
    assert added.var() / noise[0].var() == pytest.approx(1 / 0.25 - 1, rel=0.15)
    assert abs(np.corrcoef(added, noise[0])[0, 1]) < 0.1


def disc(size: int, radius: float, pixel: float) -> np.ndarray:
    axis = (np.arange(size) - (size - 1) / 2) * pixel
    return np.where(np.hypot(*np.meshgrid(axis, axis)) < radius, 0.0, -1000.0)[None].astype(np.float32)


def test_line_integrals_of_a_disc_are_its_chords() -> None:
    size, pixel, radius = 128, 2.0, 90.0
    paths = line_integrals(WATER * (1 + disc(size, radius, pixel) / 1000), pixel)
    place = (np.arange(paths.shape[-1]) - (paths.shape[-1] - 1) / 2) * pixel
    chords = 2 * WATER * np.sqrt(np.clip(radius**2 - place**2, 0, None))
    inside = np.abs(place) < 0.9 * radius
    np.testing.assert_allclose(paths[0][:, inside], np.broadcast_to(chords[inside], (ANGLES, inside.sum())), rtol=0.03)


def test_an_off_centre_object_is_reconstructed_where_it_lies() -> None:
    hu = np.full((1, 64, 64), -1000.0, np.float32)
    hu[0, 12:20, 40:50] = 0.0
    found = backproject(line_integrals(WATER * (1 + hu / 1000), 3.0), 3.0, 64)[0]
    assert np.argwhere(found > 0.6 * WATER).mean(axis=0) == pytest.approx([15.5, 44.5], abs=0.3)
    assert found[14:18, 42:48].mean() == pytest.approx(WATER, rel=0.05)


def test_variance_in_the_middle_of_a_disc_is_that_of_theory() -> None:
    size, pixel, radius, photons = 96, 3.0, 110.0, 2e5
    hu = np.repeat(disc(size, radius, pixel), 20, axis=0)
    full, low = dose_pair(hu, pixel, 0.5, np.random.default_rng(0), photons)
    centre = np.s_[:, size // 2 - 3 : size // 2 + 3, size // 2 - 3 : size // 2 + 3]
    # Every ray through the middle counts N photons, and ln N has the variance 1 / N; filtering and summing are linear.
    weights = ramp_filter(line_integrals(WATER * (1 + hu[:1] / 1000), pixel).shape[-1], pixel)
    gain = (weights[1:-1] ** 2).sum() * 2 / (2 * (len(weights) - 1))
    variance = np.exp(2 * radius * WATER) / photons * gain * (np.pi / ANGLES) ** 2 * ANGLES * (1000 / WATER) ** 2
    # Between two bins neighbours are mixed, which smooths a little.
    assert 0.7 * variance < (full - hu)[centre].var() < 1.02 * variance
    assert (low - hu)[centre].var() / (full - hu)[centre].var() == pytest.approx(2.0, rel=0.15)


def test_noise_has_the_spectrum_of_the_ramp() -> None:
    hu = np.repeat(disc(96, 120.0, 3.0), 16, axis=0)
    noise = (dose_pair(hu, 3.0, 1.0, np.random.default_rng(1))[0] - hu)[:, 24:72, 24:72]
    power = (np.abs(np.fft.fft2(noise - noise.mean(axis=(1, 2), keepdims=True))) ** 2).mean(axis=0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(48), np.fft.fftfreq(48)))
    rings = [power[(frequency > low) & (frequency <= low + 0.06)].mean() for low in (0.0, 0.12, 0.4)]
    assert rings[1] > 1.5 * rings[0] and rings[1] > 3 * rings[2]


def test_more_of_the_body_makes_more_noise() -> None:
    phantom = abdomen()
    noise = np.abs(phantom.full_dose - phantom.clean)
    far = phantom.labels == 0
    far[:, SIZE // 6 : -SIZE // 6] = False
    assert noise[core(phantom.mask("body"), 12)].mean() > 1.3 * noise[far].mean()


def test_a_folder_is_read_back_with_masks_and_dose_pairs(tmp_path: Path) -> None:
    folder = write_ct_phantoms(tmp_path / "ct", 2, 3, 64, seed=5, regions=("abdomen", "chest"), workers=1)
    items = find_ct(folder, needs=("mask", "low_dose"))
    assert [item.image.name for item in items] == ["abdomen_0000_ct.nii.gz", "chest_0001_ct.nii.gz"]
    case = read_ct_item(items[0], n_labels=len(LABELS))
    assert case.slices.shape == (3, 64, 64) and case.mask is not None and case.low_dose is not None
    liver = case.mask == LABELS.index("liver")
    assert 20 < case.slices[liver].mean() < 150 and np.argwhere(liver)[:, 2].mean() < 32
    assert case.low_dose[liver].std() > case.slices[liver].std()
    header = nib.load(items[0].image).header
    assert header["descrip"].item().decode().startswith("SYNTHETIC CT phantom")
    assert json.loads((folder / "phantoms.json").read_text())["labels"] == list(LABELS)
    with pytest.raises(ValueError, match="choose another folder"):
        write_ct_phantoms(folder, 3, 3, 64, seed=5, workers=1)


def test_an_interrupted_folder_goes_on_and_several_processes_write_the_same(tmp_path: Path) -> None:
    one = write_ct_phantoms(tmp_path / "1", 2, 2, 48, workers=1)
    kept, lost = one / "abdomen_0000_ct.nii.gz", one / "abdomen_0001_ct.nii.gz"
    before, time = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    write_ct_phantoms(one, 2, 2, 48, workers=1)
    assert lost.read_bytes() == before and kept.stat().st_mtime_ns == time
    two = write_ct_phantoms(tmp_path / "2", 2, 2, 48, workers=2)
    assert {file.name: file.read_bytes() for file in one.iterdir()} == {
        file.name: file.read_bytes() for file in two.iterdir()
    }


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: make_ct_phantom(0, "head"), "region 'head' is unknown: choose one of abdomen, chest"),
        (lambda: make_ct_phantom(-1), "seed -1 must be 0 or more"),
        (lambda: make_ct_phantom(0, slices=0), "of 0 slices: give 1 to"),
        (lambda: make_ct_phantom(0, size=8), "size 8 is too small"),
        (lambda: make_ct_phantom(0, dose=0), "dose 0: give a share of the full dose"),
        (lambda: make_ct_phantom(0, dose=1.5), "dose 1.5: give a share"),
        (lambda: make_ct_phantom(0, photons=0), "photons 0: give 1 or more"),
    ],
)
def test_bad_settings_are_refused(make: Callable[[], CTPhantom], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make()


def test_a_folder_with_bad_settings_is_not_begun(tmp_path: Path) -> None:
    for wrong in ({"patients": 0}, {"dose": 0.0}, {"size": 8}, {"regions": ("head",)}, {"regions": ()}):
        with pytest.raises(ValueError, match=r"give|choose|use"):
            write_ct_phantoms(tmp_path / "ct", **{"patients": 1, **wrong})  # type: ignore[arg-type]
    assert not (tmp_path / "ct").exists()
