"""The real radiographs of the base: who may be used, and that no patient and no near-duplicate is in two parts."""

from __future__ import annotations

import csv
import hashlib
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import ROOT, smooth_pictures

from anatodiff.data.near_duplicates import groups, near_duplicates
from anatodiff.data.split import PARTS, hashed_part

PROGRAM = runpy.run_path(str(ROOT / "scripts" / "base_data.py"))
DIVISION = "9846233ce7710c9db08ed7f56bd66682cc4ac2235de05f36db38395c4ffec930"  # of what ships
OPEN_COLUMNS = ("file", "patient_id", "label", "region", "domain", "licence", "source")


def picture(path: Path, number: int) -> None:
    """Write an image unlike all others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(number).random((12, 12))
    Image.fromarray((255 * values).astype(np.uint8)).resize((96, 80), Image.Resampling.BICUBIC).save(path)


def write_source(root: Path, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Path:
    root.mkdir()
    for row in rows:
        picture(root / row[0], int(hashlib.sha256(row[0].encode()).hexdigest()[:6], 16))
    with open(root / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return root


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two source folders as the real ones, small."""
    root = tmp_path_factory.mktemp("sources")
    rows = []
    for i in range(400):
        finding = ("No Finding", "Mass", "Mass|Edema", "Hernia", "Effusion")[i % 5]
        age = "paediatric 9y" if i % 40 == 1 else "adult 40y"
        rows.append((f"nih_cxr14/{i:04d}.png", f"nih-{i // 2}", finding, "chest", age, "free", "NIH"))
    rows += [(f"hannover/h{i}.png", f"mhh-{i}", "COVID-19", "chest", "adult", "CC BY 3.0", "MHH") for i in range(60)]
    for i in range(0, 600, 3):
        region = ("leg", "hand", "hand+shoulder", "leg+hip", "hip", "hand+leg")[i // 3 % 6]
        label = "fractured;hardware" if i % 2 else "not fractured;multiscan" if i % 30 == 0 else "not fractured"
        rows.append((f"fracatlas/IMG{i:07d}.png", f"u-{i}", label, region, "all ages", "CC BY 4.0", "FracAtlas"))
    opened = write_source(root / "open", OPEN_COLUMNS, rows)
    covid = [
        (f"covid/{name}.png", f"cohen-{name}", label, licence, "someone")
        for name, label, licence in (
            ("a", "COVID-19", "CC BY"), ("b", "todo", "CC BY 4.0"), ("c", "COVID-19", "CC BY-SA"),
            ("d", "COVID-19", "CC BY-NC-SA"),
        )
    ]  # fmt: skip
    covid.append(("kermany/k.png", "k", "normal", "CC BY 4.0", "Kermany"))
    return opened, write_source(root / "cxr", ("file", "patient_id", "label", "licence", "source"), covid)


def made(sources: tuple[Path, Path], output: Path) -> dict[str, list[dict[str, str]]]:
    arguments = ["--open_dir", sources[0], "--cxr_dir", sources[1], "--output_dir", output]
    assert PROGRAM["main"]([str(argument) for argument in arguments]) == 0
    tables = {}
    for part in PARTS:
        with open(output / part / "labels.csv", newline="") as file:
            tables[part] = list(csv.DictReader(file))
    return tables


@pytest.fixture(scope="module")
def tables(sources: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    return made(sources, tmp_path_factory.mktemp("base"))


def test_who_may_not_be_used_is_in_no_part(tables: dict[str, list[dict[str, str]]]) -> None:
    originals = {row["original"] for rows in tables.values() for row in rows}
    assert {name for name in originals if name.startswith("cxr/")} == {"cxr/covid/a.png", "cxr/covid/b.png"}
    assert not originals & {f"open/nih_cxr14/{i:04d}.png" for i in range(1, 400, 40)}  # under 18
    numbers = [int(name[-11:-4]) for name in originals if "fracatlas" in name]
    assert numbers and not [number for number in numbers if number // 3 % 6 in (3, 4)]  # hips


def test_no_patient_is_in_two_parts_and_two_hospitals_are_for_training_only(
    tables: dict[str, list[dict[str, str]]],
) -> None:
    patients = [{row["patient_id"] for row in rows} for rows in tables.values()]
    assert sum(map(len, patients)) == len(set().union(*patients))
    for part, rows in tables.items():
        for row in rows:
            pack = row["file"].split("/")[0]
            assert part == ("train" if pack in ("hannover", "covid") else hashed_part(row["patient_id"]))


def test_classes_follow_the_training_images(tables: dict[str, list[dict[str, str]]]) -> None:
    rows = {row["original"]: row for part in tables.values() for row in part}
    assert rows["cxr/covid/a.png"]["label"] == "COVID-19"
    assert rows["cxr/covid/b.png"]["label"] == "other finding"  # "todo" states none
    found = {row["label"] for row in rows.values() if row["domain"] == "chest radiograph"}
    assert found == {"COVID-19", "no finding", "mass", "edema", "hernia", "effusion", "other finding"}
    edema = rows["open/nih_cxr14/0002.png"]
    assert edema["label"] == "edema"  # rarer than mass, which it has as well
    domains = {number: rows[f"open/fracatlas/IMG{number:07d}.png"]["domain"] for number in (3, 6, 18, 33)}
    assert domains == {
        3: "hand radiograph", 6: "shoulder radiograph", 18: "leg radiograph", 33: "leg radiograph",
    }  # fmt: skip
    assert rows["open/fracatlas/IMG0000003.png"]["label"] == "fracture"  # with hardware
    assert "open/fracatlas/IMG0000000.png" not in rows  # two views, too few for a class


def test_a_finding_without_enough_images_gives_way_to_the_next_one() -> None:
    row = PROGRAM["Row"]

    def rows(count: int, *findings: str) -> list:
        chest = PROGRAM["CHEST"]
        return [row(Path(f"{findings}{i}"), "", "p", "train", chest, findings, "", "", "") for i in range(count)]

    labelled = PROGRAM["with_labels"](rows(4, "rare", "common") + rows(20, "common") + rows(3, "alone"), least=5)
    assert [one.label for one in labelled] == ["common"] * 24 + ["other finding"] * 3


def test_images_are_copied_byte_for_byte_and_the_division_is_the_same_again(
    sources: tuple[Path, Path], tables: dict[str, list[dict[str, str]]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert made(sources, tmp_path) == tables
    for part, rows in tables.items():
        for row in rows:
            assert (tmp_path / part / row["file"]).read_bytes() == (sources[0].parent / row["original"]).read_bytes()
    lines = sorted(f"{row['original']},{part}\n" for part, rows in tables.items() for row in rows)
    text = capsys.readouterr().out
    assert hashlib.sha256("".join(lines).encode()).hexdigest() in text
    assert text == (tmp_path / "counts.md").read_text()


def test_a_source_without_enough_patients_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    row = ("nih_cxr14/1.png", "nih-1", "Mass", "chest", "adult 40y", "free", "NIH")
    limb = ("fracatlas/IMG0000001.png", "u", "fractured", "leg", "", "CC BY 4.0", "FracAtlas")
    opened = write_source(tmp_path / "open", OPEN_COLUMNS, [row, limb])
    cxr = write_source(tmp_path / "cxr", ("file", "patient_id", "label", "licence", "source"), [])
    arguments = ["--open_dir", str(opened), "--cxr_dir", str(cxr), "--output_dir", str(tmp_path / "out")]
    assert PROGRAM["main"](arguments) == 1
    assert "no image is left for the part" in capsys.readouterr().err


def test_one_patient_in_eight_is_held_out_twice_and_the_rule_stays() -> None:
    parts = [hashed_part(f"nih-{i}") for i in range(8000)]
    assert [parts.count(part) / 1000 for part in PARTS] == pytest.approx([6, 1, 1], abs=0.1)
    assert [hashed_part(f"nih-{i}") for i in (2, 7, 1280)] == ["test", "validation", "train"]


def test_near_duplicates_are_found_shifted_mirrored_and_brighter_and_strangers_are_not(tmp_path: Path) -> None:
    first, second, third, fourth = (image[0].numpy() for image in smooth_pictures(4, seed=3))
    images = {
        "a": first, "shifted": np.roll(first, 1, axis=1), "mirrored": first[:, ::-1], "brighter": 0.2 + 0.7 * first,
        "b": second, "c": third, "d": fourth,
    }  # fmt: skip
    files = []
    for name, values in images.items():
        files.append(tmp_path / f"{name}.png")
        large = Image.fromarray((255 * values.clip(0, 1)).astype(np.uint8)).resize((192, 192), Image.Resampling.BICUBIC)
        large.save(files[-1])
    pairs = near_duplicates(files)
    assert {(0, 1), (0, 2), (0, 3)} <= set(pairs)
    assert groups(len(files), pairs) == [0, 0, 0, 0, 4, 5, 6]


def test_groups_join_what_is_joined_by_others() -> None:
    assert groups(6, [(4, 5), (1, 4), (0, 3)]) == [0, 1, 2, 0, 1, 1]
    assert groups(3, []) == [0, 1, 2]


def test_the_real_sources_give_the_division_of_the_base_that_ships(shared_data: Path, tmp_path: Path) -> None:
    found = made((shared_data / "radiographs_open", shared_data / "cxr"), tmp_path)
    assert [len(found[part]) for part in PARTS] == [2327, 398, 340]
    assert not [row for rows in found.values() for row in rows if "kermany" in row["original"]]
    assert DIVISION in (tmp_path / "counts.md").read_text()
