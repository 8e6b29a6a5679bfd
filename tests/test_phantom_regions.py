from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from anatodiff.data import read_radiograph
from anatodiff.data.phantom import (
    ABDOMEN_CLASSES,
    ALL_CLASSES,
    CHEST_CLASSES,
    HUMERUS_CLASSES,
    MASK_NAMES,
    Encoding,
    Phantom,
    make_phantom,
    mask_names,
    plan_phantoms,
    write_phantom_dicom,
    write_phantoms,
)
from anatodiff.data.phantom.abdomen_scene import abdomen_scene
from anatodiff.data.phantom.arm_scene import arm_scene
from anatodiff.data.phantom.chest_scene import chest_scene
from anatodiff.data.phantom.devices import add_devices, project_device
from anatodiff.data.phantom.fields import Bone, project_bone
from anatodiff.data.phantom.materials import device_attenuation
from anatodiff.data.phantom.projection import attenuation_coefficients
from anatodiff.data.phantom.rays import View
from anatodiff.data.phantom.shapes import Cone, Cut

SIZE = 128
NEW_CLASSES = ABDOMEN_CLASSES + HUMERUS_CLASSES
cached_phantom = cache(make_phantom)
UIDS = ("2.25.1", "2.25.2", "2.25.3")
# Mean of the pixels in 4 x 4 blocks of two chests, in thousandths, as made before there were other regions.
CHEST_BLOCKS = {
    (11, "normal"): "366 440.4 410.2 395.2 467.8 435.3 426.2 484.1 498.6 572.7 596.6 514.8 582.7 874.4 838.2 599",
    (
        3,
        "tension_pneumothorax",
    ): "356.4 435.8 500.9 381 424.4 412.9 558.3 542.5 388.7 463.9 755.3 562 507.3 630.4 858.5 572.1",
}


@pytest.mark.parametrize(("seed", "label"), list(CHEST_BLOCKS))
def test_chests_are_what_they_were_before_there_were_other_regions(seed: int, label: str) -> None:
    phantom = make_phantom(seed, label, SIZE, view=1)
    blocks = phantom.pixels.reshape(4, SIZE // 4, 4, SIZE // 4).mean(axis=(1, 3))
    np.testing.assert_allclose(
        blocks.ravel() * 1000, [float(value) for value in CHEST_BLOCKS[seed, label].split()], atol=0.6
    )
    assert tuple(phantom.masks) == MASK_NAMES and phantom.body_part == "CHEST" and "devices" not in phantom.counts


def test_old_classes_keep_their_place_since_it_seeds_the_noise() -> None:
    assert ALL_CLASSES[: len(CHEST_CLASSES)] == CHEST_CLASSES
    assert ALL_CLASSES[len(CHEST_CLASSES) :] == NEW_CLASSES


@pytest.mark.parametrize("label", NEW_CLASSES)
def test_same_arguments_same_bytes(label: str) -> None:
    first, second = cached_phantom(2, label, SIZE, 0, 1.0), make_phantom(2, label, SIZE, 0, 1.0)
    assert first.pixels.tobytes() == second.pixels.tobytes() and first.counts == second.counts
    assert all(np.array_equal(first.masks[name], second.masks[name]) for name in mask_names(label, 1.0))
    assert make_phantom(2, label, SIZE, 1).pixels.tobytes() != cached_phantom(2, label, SIZE).pixels.tobytes()


@pytest.mark.parametrize("label", NEW_CLASSES)
@pytest.mark.parametrize("seed", range(4))
def test_masks_lie_in_the_body_and_pixels_are_a_grey_image(label: str, seed: int) -> None:
    phantom = cached_phantom(seed, label, SIZE)
    assert phantom.pixels.dtype == np.float32 and phantom.pixels.min() >= 0 and phantom.pixels.max() <= 1
    assert phantom.pixels.std() > 0.1
    assert tuple(phantom.masks) == mask_names(label)
    body = phantom.masks["body"]
    for name, mask in phantom.masks.items():
        assert (mask & ~body).sum() <= 0.01 * max(mask.sum(), 1), name  # the outermost pixels of a rib may stick out


@pytest.mark.parametrize("seed", range(4))
def test_small_and_large_images_show_the_same_arm(seed: int) -> None:
    small, large = cached_phantom(seed, "humerus_fracture", 96), make_phantom(seed, "humerus_fracture", 192)
    shrunk = large.masks["humerus"].reshape(96, 2, 96, 2).mean(axis=(1, 3)) > 0.5
    overlap = (shrunk & small.masks["humerus"]).sum() / (shrunk | small.masks["humerus"]).sum()
    assert overlap > 0.9 and small.spacing == pytest.approx(2 * large.spacing)


@pytest.mark.parametrize("seed", range(8))
def test_only_a_fracture_has_a_fracture(seed: int) -> None:
    whole, broken = (cached_phantom(seed, label, SIZE) for label in HUMERUS_CLASSES)
    assert not whole.masks["lesion"].any() and whole.counts["fractures"] == 0 and whole.counts["fragments"] == 1
    assert broken.masks["lesion"].any() and broken.counts["fractures"] == 1 and broken.counts["fragments"] == 2
    assert not (broken.masks["lesion"] & ~(broken.masks["humerus"] | _grown(broken.masks["humerus"], 6))).any()
    assert whole.side == broken.side and whole.side in ("left", "right")
    assert whole.body_part == broken.body_part


def _grown(mask: np.ndarray, by: int) -> np.ndarray:
    found = mask.copy()
    for shift in range(-by, by + 1):
        found |= np.roll(mask, shift, 0) | np.roll(mask, shift, 1)
    return found


def test_arms_vary_in_joint_side_and_age() -> None:
    arms = [cached_phantom(seed, "humerus_normal", SIZE) for seed in range(8)]
    assert {arm.body_part for arm in arms} == {"SHOULDER", "HUMERUS"}
    assert {arm.side for arm in arms} == {"left", "right"}
    assert {arm.counts["growth_plates"] for arm in arms} == {0, 2}
    for arm in arms:
        assert arm.masks["scapula"].any() == (arm.body_part == "SHOULDER") != arm.masks["forearm"].any()


def test_fracture_mask_covers_what_the_fracture_changes() -> None:
    """Along an undisplaced cut the bone is missing, and only there."""
    rod = Bone((Cone((0, 0, -60), (0, 0, 60), (12, 12)),), (-99.0, 99.0), (4.0, 4.0), (0.0, 0.0))
    view = View(np.eye(3), np.zeros(3), 1000.0, -50.0, 160.0, (0.0, 0.0))
    texture = np.zeros((48, 48, 48), np.float32)
    cut = Cut(5.0, slope=(0.6, 0.0), rough=0.3)
    whole, inside, none = project_bone(rod, view, SIZE, texture)
    assert inside.any() and not none.any()
    pieces = [
        project_bone(Bone(rod.parts, rod.heights, rod.wall, rod.core, cut=cut, keep=keep), view, SIZE, texture, 5.0)
        for keep in (1, -1)
    ]
    changed = np.abs(whole - pieces[0][0] - pieces[1][0]) > 0.5
    assert not (changed & ~(pieces[0][2] | pieces[1][2])).any()
    centre = SIZE // 2
    assert whole[centre, centre] == pytest.approx(8.0, abs=1.6)  # two walls of 4 mm


def test_cortical_bone_is_bright_and_marrow_is_not() -> None:
    rod = Bone((Cone((0, 0, -60), (0, 0, 60), (12, 12)),), (-99.0, 99.0), (3.0, 3.0), (0.0, 0.0))
    view = View(np.eye(3), np.zeros(3), 1000.0, -50.0, 60.0, (0.0, 0.0))
    path, _, _ = project_bone(rod, view, SIZE, np.zeros((48, 48, 48), np.float32))
    profile = path[SIZE // 2]
    assert profile.max() > 1.8 * profile[SIZE // 2]


@pytest.mark.parametrize("seed", range(4))
def test_abdomen_has_its_organs_where_they_belong(seed: int) -> None:
    phantom = cached_phantom(seed, "abdomen_normal", SIZE)
    rows = {name: np.nonzero(mask)[0].mean() for name, mask in phantom.masks.items() if mask.any()}
    columns = {name: np.nonzero(mask)[1].mean() for name, mask in phantom.masks.items() if mask.any()}
    assert rows["liver"] < rows["psoas"] < rows["pelvis"]
    assert columns["liver"] < columns["spine"] - 3  # on the right, which is left in the picture
    assert phantom.counts["vertebrae"] >= 4 and phantom.counts["ribs"] >= 2
    assert not phantom.masks["lesion"].any() and phantom.counts["dilated_loops"] == 0


@pytest.mark.parametrize("seed", range(4))
def test_ileus_has_more_gas_in_the_same_patient(seed: int) -> None:
    normal, ill = (cached_phantom(seed, label, SIZE) for label in ABDOMEN_CLASSES)
    assert ill.masks["lesion"].any() and np.array_equal(ill.masks["lesion"], ill.masks["small_bowel"])
    assert ill.masks["small_bowel"].sum() > normal.masks["small_bowel"].sum()
    assert ill.counts["dilated_loops"] == ill.counts["small_bowel_pockets"] > 0
    for name in ("liver", "kidneys", "psoas", "spine", "pelvis", "ribs"):
        assert np.array_equal(normal.masks[name], ill.masks[name])


def test_gas_is_where_the_gas_masks_are() -> None:
    normal, ill = (abdomen_scene(4, label, SIZE, 0) for label in ABDOMEN_CLASSES)
    less = normal.attenuation - ill.attenuation
    gas = ill.masks["small_bowel"] & ~normal.masks["small_bowel"] & ~normal.masks["colon"]
    nothing = ~np.any([scene.masks[name] for scene in (normal, ill) for name in ("small_bowel", "colon")], axis=0)
    mu = attenuation_coefficients(ill.exposure.energy)["soft"]
    assert less[gas].min() >= 0 and less[gas].mean() > 3 * mu
    assert np.abs(less[nothing]).mean() < 0.2 * mu * 3  # at most the rim of a bubble, or stool's small ones


@pytest.mark.parametrize("label", ["normal", "abdomen_normal", "humerus_normal"])
def test_devices_change_only_what_their_mask_covers(label: str) -> None:
    bare, share = cached_phantom(5, label, SIZE), cached_phantom(5, label, SIZE, 0, 1.0)
    assert share.masks["devices"].any() and share.counts["devices"] >= 1
    for name in bare.masks:
        assert np.array_equal(bare.masks[name], share.masks[name])
    scene = {"normal": chest_scene, "abdomen_normal": abdomen_scene}.get(label, arm_scene)(5, label, SIZE, 0)
    equipped = add_devices(scene, np.random.default_rng(1))
    added = equipped.attenuation - scene.attenuation
    mask = equipped.masks["devices"]
    assert mask.any() and added[mask].min() > 0.02 and added[~mask].max() < 0.25


def test_share_of_devices_is_kept_and_empty_masks_are_there() -> None:
    phantoms = [make_phantom(seed, "humerus_normal", 32, 0, 0.5) for seed in range(24)]
    carried = [phantom.counts["devices"] > 0 for phantom in phantoms]
    assert 6 <= sum(carried) <= 18
    for phantom, has in zip(phantoms, carried, strict=True):
        assert phantom.masks["devices"].any() == has
    bare = next(seed for seed, has in enumerate(carried) if not has)
    assert phantoms[bare].pixels.tobytes() == make_phantom(bare, "humerus_normal", 32).pixels.tobytes()


def test_a_fresh_fracture_never_has_a_plate() -> None:
    for seed in range(6):
        scene = arm_scene(seed, "humerus_fracture", 64, 0)
        kinds = {device.kind for draw in range(6) for device in scene.equip(np.random.default_rng(draw))}
        assert kinds == {"cast"}
    scene = arm_scene(0, "humerus_normal", 64, 0)
    kinds = {device.kind for draw in range(8) for device in scene.equip(np.random.default_rng(draw))}
    assert kinds == {"plate", "screws", "cast"}
    plate = next(d for draw in range(8) for d in scene.equip(np.random.default_rng(draw)) if d.kind == "plate")
    assert project_device(plate, scene).max() > 1.0


def test_metal_is_denser_than_bone_and_plastic_is_not() -> None:
    bone = attenuation_coefficients(50.0)["bone"]
    assert device_attenuation("steel", 50.0) > device_attenuation("titanium", 50.0) > 3 * bone
    assert device_attenuation("plaster", 50.0) < bone > device_attenuation("plastic", 50.0)
    assert device_attenuation("catheter", 50.0) > device_attenuation("plastic", 50.0)


@pytest.mark.parametrize("dx", [True, False])
@pytest.mark.parametrize(
    ("seed", "label", "word"),
    [(0, "abdomen_normal", "ABDOMEN"), (0, "humerus_normal", ""), (1, "humerus_fracture", "")],
)
def test_files_say_region_view_and_side(tmp_path: Path, seed: int, label: str, word: str, dx: bool) -> None:
    phantom = cached_phantom(seed, label, SIZE)
    path = tmp_path / "x.dcm"
    write_phantom_dicom(path, phantom, Encoding(dx, False, 12, False, True), ("P", "PHANTOM^P"), UIDS)
    ds = pydicom.dcmread(path)
    assert ds.BodyPartExamined == (word or phantom.body_part) and ds.ViewPosition == "AP"
    paired = word == ""
    side = phantom.side[0].upper() if phantom.side and paired else ""
    assert ds.get("ImageLaterality", "") == ((side or "U") if dx else "")
    assert ds.get("Laterality", "") == ("" if dx else side)
    if dx:
        assert ds.AnatomicRegionSequence[0].CodeMeaning.upper() == ds.BodyPartExamined
    assert np.abs(read_radiograph(path).pixels - phantom.pixels).max() < 1e-3


def test_a_folder_mixes_regions_and_devices(tmp_path: Path) -> None:
    labels = ["normal", "abdomen_ileus", "humerus_fracture"]
    table = write_phantoms(
        tmp_path / "a", 3, labels, seed=4, size=48, workers=1, masks=True, images_per_patient=1.0, devices=1.0
    )
    rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
    assert {row[2] for row in rows} == set(labels)
    assert {row[3] for row in rows} == {"chest phantom", "abdomen phantom", "upper arm phantom"}
    for planned in plan_phantoms(3, labels, 4, 1.0):
        phantom: Phantom = make_phantom(planned.seed, planned.label, 48, planned.view, 1.0)
        code = np.asarray(Image.open(tmp_path / "a" / "masks" / f"{Path(planned.file).stem}.png"))
        for bit, name in enumerate(mask_names(planned.label, 1.0)):
            assert np.array_equal((code.astype(int) >> bit) & 1 == 1, phantom.masks[name])
    with pytest.raises(ValueError, match="choose another folder"):
        write_phantoms(tmp_path / "a", 3, labels, seed=4, size=48, workers=1, masks=True, devices=0.5)


def test_bad_shares_are_refused(tmp_path: Path) -> None:
    for share in (-0.1, 1.5):
        with pytest.raises(ValueError, match="devices"):
            make_phantom(0, devices=share)
        with pytest.raises(ValueError, match="devices"):
            write_phantoms(tmp_path, 1, ["normal"], devices=share)
    with pytest.raises(ValueError, match="knee"):
        mask_names("knee")
