"""The MONAI Label app and the stock monaibundle app, served by MONAI Label 0.8.5 itself."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import label_server
import numpy as np
import pydicom
import pytest
from label_server import LabelServer, fresh_app, user_variables
from support import ROOT, SMALL, make_weights, run_workflow

import orthanc_server
from anatodiff.data import DicomSettings, write_radiograph
from anatodiff.data.phantom import write_phantoms
from orthanc_server import OrthancServer

pytestmark = pytest.mark.skipif(label_server.why_not() is not None, reason=str(label_server.why_not()))

SYNTHETIC_DATA = 0x0008001C
CLASSES = ["normal", "pneumothorax"]
OPTIONS = {**SMALL["train"], "test_fraction": 0.3}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_weights(tmp_path_factory.mktemp("weights"), seed=0)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, 24, CLASSES, seed=3, size=96, workers=1)
    return folder


@pytest.fixture(scope="module")
def server(phantoms: Path, weights: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelServer]:
    root = tmp_path_factory.mktemp("folder")
    studies = shutil.copytree(phantoms, root / "studies")
    with LabelServer(fresh_app(root / "app"), studies, root / "home", weights) as running:
        yield running


@pytest.fixture(scope="module")
def trained(server: LabelServer) -> LabelServer:
    state = server.train(**OPTIONS)
    assert state["status"] == "DONE", state
    return server


def pixels(content: bytes) -> np.ndarray:
    return pydicom.dcmread(io.BytesIO(content)).pixel_array


def test_before_the_first_training_info_answers_and_a_request_is_told_to_train(server: LabelServer) -> None:
    info = server.ask("GET", "/info/").json()
    assert (info["name"], info["labels"], info["datastore"]["total"]) == ("AnatoDiff", [], 24)
    assert set(info["models"]["anatodiff_sample"]["config"]) == {
        "label", "seed", "samples", "guidance_scale", "sampling_steps",
    }  # fmt: skip
    assert info["trainers"]["anatodiff_train"]["config"]["batch_size"] == 16
    answer = server.infer()
    assert answer.status == 409
    assert "train first" in answer.json()["detail"]


def test_an_option_that_is_not_known_is_refused_with_the_cure(server: LabelServer) -> None:
    state = server.train(max_epoch=1)
    assert state["status"] == "ERROR"
    assert state["details"][-1].endswith("did you mean 'max_epochs'?")


def test_a_request_cannot_name_places_or_run_code(server: LabelServer) -> None:
    requests: list[dict[str, object]] = [
        {"output_dir": "/elsewhere"}, {"base_path": "/etc/passwd"}, {"device": "cpu"}, {"bundle_root": "/"},
        {"data_licence": "$__import__('os').abort()"}, {"lora_layers": ["$exit()"]}, {"seed": "@bundle_root"},
        {"seed": "%other.json::seed"}, {"loss": {"_target_": "os.abort"}}, {"threshold": {"_target_": "os.abort"}},
        {"samples_per_class": 2},
    ]  # fmt: skip
    program = f"""
from lib.errors import RequestError
from lib.options import read_options, training_options
from lib.settings import AppSettings
known = training_options(AppSettings.read({str(server.app)!r}, {server.studies!r}, {{}}))
for request in {requests!r}:
    try:
        print(read_options(request, known))
    except RequestError as error:
        print("refused", error)
"""
    run = subprocess.run(
        ["python", "-c", program], capture_output=True, text=True, check=True, cwd=server.app,
        env=user_variables(server.home),
    )  # fmt: skip
    lines = run.stdout.splitlines()
    assert lines.pop() == "{'samples_per_class': 2}"
    assert len(lines) == len(requests) - 1
    assert all(line.startswith("refused option") for line in lines)


def test_training_says_what_it_reached(trained: LabelServer) -> None:
    last = trained.training()["details"]
    assert any("kernel distance" in line for line in last)
    info = trained.ask("GET", "/info/").json()
    assert info["labels"] == CLASSES
    stats = info["train_stats"]["anatodiff_train"]
    assert stats["step"] == stats["steps"] == OPTIONS["max_epochs"] * OPTIONS["epoch_length"]
    assert stats["images"] == {name: 12 for name in CLASSES}
    assert set(stats["quality"]["kernel_distance"]) == {"before", "after", "real"}
    assert {"adapter.safetensors", "model.pt"} <= {file.name for file in (trained.app / "model").iterdir()}


def test_no_patient_is_in_both_parts(trained: LabelServer, phantoms: Path) -> None:
    run = next((trained.app / "model" / "runs").glob("*/losses.csv")).parent
    with open(run / "images" / "labels.csv") as file:
        used = {row["file"]: row["patient_id"] for row in csv.DictReader(file)}
    assert {name: pydicom.dcmread(phantoms / name).PatientID for name in used} == used


def test_a_sample_is_a_marked_radiograph_of_the_class_that_was_asked_for(trained: LabelServer) -> None:
    answer = trained.infer(label="pneumothorax", seed=5)
    assert (answer.status, answer.kind) == (200, "application/dicom")
    image = pydicom.dcmread(io.BytesIO(answer.content))
    assert image[SYNTHETIC_DATA].value == "YES"
    assert (image.Rows, image.Columns) == (SMALL["train"]["image_size"],) * 2
    assert "label pneumothorax" in image.DerivationDescription


def test_the_seed_fixes_the_image_and_without_one_each_is_another(trained: LabelServer) -> None:
    same = [trained.infer(seed=5).content for _ in range(2)]
    assert same[0] == same[1]
    others = [trained.infer().content for _ in range(2)]
    uids = {pydicom.dcmread(io.BytesIO(content)).SOPInstanceUID for content in [same[0], *others]}
    assert len(uids) == 3
    assert not np.array_equal(pixels(others[0]), pixels(others[1]))


def test_the_server_draws_what_the_command_line_draws(
    trained: LabelServer, weights: dict[str, str], tmp_path: Path
) -> None:
    asked = {"seed": 5, "sampling_steps": 3, "guidance_scale": 2.0}
    adapter = str(trained.app / "model" / "adapter.safetensors")
    run_workflow(
        "inference", **weights, **asked, adapter_path=adapter, dataset_dir=str(tmp_path / "out"), formats=["dcm"],
        samples_per_class=2, only_classes=["pneumothorax"],
    )  # fmt: skip
    answer = trained.infer(label="pneumothorax", samples=2, **asked)
    assert answer.kind == "application/zip"
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    for name in ("pneumothorax_00000.dcm", "pneumothorax_00001.dcm"):
        np.testing.assert_array_equal(pixels(archive.read(name)), pydicom.dcmread(tmp_path / "out" / name).pixel_array)
    assert {"manifest.json", "contact_sheet.png"} <= set(archive.namelist())


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"label": "fracture"}, "the adapter's classes are normal, pneumothorax"),
        ({"samples": -1}, "give a whole number from 1 to 100"),
        ({"guidance_scale": -2}, "give a number of at least 0"),
        ({"sampling_steps": 5000}, "give a whole number from 1 to 1000"),
        ({"lable": "normal"}, "did you mean 'label'?"),
        ({"save_label": True}, "is not put into the datastore"),
    ],
)
def test_a_wrong_parameter_is_answered_with_the_cure(
    trained: LabelServer, params: dict[str, object], said: str
) -> None:
    answer = trained.infer(**params)
    assert answer.status == 422
    assert said in answer.json()["detail"]


def test_a_training_can_be_stopped_and_goes_on(trained: LabelServer) -> None:
    options = {**OPTIONS, "seed": 8, "samples_per_class": 4}
    trained.start_training(**{**options, "max_epochs": 10_000})
    for _ in range(600):
        stats = trained.ask("GET", "/info/").json()["train_stats"]["anatodiff_train"]
        if stats["steps"] == 20_000 and stats["step"] >= 4:
            break
        time.sleep(0.5)
    assert trained.ask("DELETE", "/train/").json()["status"] == "STOPPED"
    step = trained.ask("GET", "/info/").json()["train_stats"]["anatodiff_train"]["step"]
    assert trained.train(**{**options, "max_epochs": step // 2 + 1})["status"] == "DONE"
    assert "anatodiff.engines.checkpoints: resumed at step" in trained.said()


def test_conf_that_is_not_known_is_refused(phantoms: Path, tmp_path: Path) -> None:
    server = LabelServer(fresh_app(tmp_path / "app"), phantoms, tmp_path / "home", {"adapter_pth": "x"})
    with pytest.raises(RuntimeError, match="did you mean 'adapter_path'"), server:
        pass


@pytest.mark.skipif(orthanc_server.why_not() is not None, reason=str(orthanc_server.why_not()))
@pytest.mark.parametrize("converted", ["false", "true"])
def test_dicomweb_on_orthanc(phantoms: Path, weights: dict[str, str], tmp_path: Path, converted: str) -> None:
    """Also where images are converted to NIfTI for viewers, which loses the patients, DICOM is read.

    With the conversion a table names the classes by study. A sample that somebody has sent to the PACS is listed, and
    not trained on.
    """
    looks_real = DicomSettings(sop_class="DX", body_part="CHEST", orientation=("L", "F"))
    sample = write_radiograph(
        tmp_path / "sample.dcm", np.eye(96, dtype=np.float32), spacing=(0.1, 0.1), dicom=looks_real
    )
    with OrthancServer(tmp_path / "orthanc") as orthanc:
        wanted, rows = {}, ["study,label"]
        for file in [sample, *sorted(phantoms.glob("*.dcm"))]:
            image = pydicom.dcmread(file, stop_before_pixels=True)
            if image.Modality == "DX" and file != sample:
                wanted[f"{image.SOPInstanceUID}.dcm"] = image.PatientID
                rows.append(f"{image.StudyInstanceUID},{'odd' if len(rows) % 2 else 'even'}")
            store = ["curl", "-sf", "-o", "/dev/null", "--data-binary", f"@{file}", "http://127.0.0.1:8042/instances"]
            subprocess.run(orthanc.inside(store), check=True, env=orthanc.environment())
        assert 6 < len(wanted) < 24
        variables = {
            "MONAI_LABEL_DICOMWEB_SEARCH_FILTER": '{"Modality":"DX"}',
            "MONAI_LABEL_DICOMWEB_CONVERT_TO_NIFTI": converted,
        }
        app, inside = fresh_app(tmp_path / "app"), orthanc.inside([])
        conf, images = weights, {"all": len(wanted)}
        if converted == "true":
            (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
            conf = {**weights, "labels_path": str(tmp_path / "labels.csv")}
            images = {"even": len(wanted) // 2, "odd": len(wanted) - len(wanted) // 2}
        with LabelServer(app, orthanc.base, tmp_path / "home", conf, variables, inside) as server:
            assert server.ask("GET", "/info/").json()["datastore"]["total"] == len(wanted) + 1
            state = server.train(**OPTIONS)
            assert state["status"] == "DONE", state
            stats = server.ask("GET", "/info/").json()["train_stats"]["anatodiff_train"]
            assert stats["images"] == images
            run = app / "model" / "runs" / stats["run"]
            found = {file.name: pydicom.dcmread(file).PatientID for file in (run / "images").glob("*.dcm")}
            assert found == wanted
            assert (run / "rejected.csv").read_text().count("\n") == 1
            answer = server.infer(seed=1)
            assert pydicom.dcmread(io.BytesIO(answer.content))[SYNTHETIC_DATA].value == "YES"


def test_the_stock_app_lists_the_bundle(trained: LabelServer, weights: dict[str, str], tmp_path: Path) -> None:
    """With the bundle as `make train` leaves it, but on small weights, and model.pt where the zoo's bundles have it."""
    command = ["monailabel", "apps", "--download", "--name", "monaibundle", "--output", "apps"]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, env=user_variables(tmp_path / "home"))
    app, bundle = tmp_path / "apps" / "monaibundle", tmp_path / "apps" / "monaibundle" / "model" / "anatodiff"
    bundle.mkdir(parents=True)
    shutil.copytree(ROOT / "configs", bundle / "configs")
    config = json.loads((ROOT / "configs" / "inference.json").read_text())
    (bundle / "configs" / "inference.json").write_text(json.dumps({**config, **weights}))
    (bundle / "models").mkdir()
    shutil.copy(trained.app / "model" / "model.pt", bundle / "models")
    (bundle / "output" / "train").mkdir(parents=True)
    shutil.copy(trained.app / "model" / "adapter.safetensors", bundle / "output" / "train")
    conf, variables = {"models": "anatodiff", "sam2": "false"}, {"BUNDLE_DOWNLOAD_SRC": "ngc"}
    with LabelServer(app, tmp_path / "studies", tmp_path / "home", conf, variables) as server:
        model = server.ask("GET", "/info/").json()["models"]["anatodiff"]
        assert model["config"]["model_filename"] == ["model.pt"]
        assert "Traceback" not in server.said()
