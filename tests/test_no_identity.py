"""Canaries in every text attribute of DICOM files: none comes out in anything that is written or printed."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian
from support import SIZE, SMALL, run_bundle

from anatodiff.data import RadiographError, read_radiograph
from anatodiff.data.dicom_file import write_dicom

TEXTS = ("AE", "CS", "SH", "LO", "LT", "PN", "ST", "UC", "UR", "UT")
# What decides whether and how the image is shown: their canaries are in files of their own, see below.
DECIDING = {
    "SpecificCharacterSet", "Modality", "SOPClassUID", "PhotometricInterpretation", "PresentationLUTShape",
    "VOILUTFunction", "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "NumberOfFrames",
    "BurnedInAnnotation", "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing",
}  # fmt: skip
PATIENTS = 8
PNG_TEXT_CHUNKS = (b"zTXt", b"iTXt", b"iCCP")


BIRD = "KANARIENVOGEL"  # in every text; three characters tell which
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NUMBERS = {
    "DA": "17350823", "DT": "17350823113907", "TM": "113907.735108", "AS": "735Y", "DS": "735108231", "IS": "735108231",
    "UI": "1.2.826.73510823",
}  # fmt: skip
IDENTIFIERS = ("PatientID", "PatientName", "AccessionNumber", "StudyInstanceUID", "SOPInstanceUID", "PatientBirthDate")


@dataclass
class Canaries:
    """Texts that must not come out.

    Args:
        planted: attribute that each text was planted in.
        identifiers: those of the texts by which a person is known, which must not come out as plain hashes either.
    """

    planted: dict[str, str] = field(default_factory=dict)
    identifiers: set[str] = field(default_factory=set)

    def new(self, where: str, vr: str, patient: int = 0) -> str:
        number = len(self.planted)
        if vr in NUMBERS:
            value = NUMBERS[vr] + (f".{patient}" if vr == "UI" else "")
        else:
            value = BIRD + "".join(DIGITS[number // 36**place % 36] for place in (2, 1, 0))
        self.planted[value] = f"{where} of patient {patient}"
        if where in IDENTIFIERS:
            self.identifiers.add(value)
        return value


def plant(dataset: Dataset, canaries: Canaries, patient: int) -> None:
    """Fill every text attribute of the dictionary that is not there yet, also within a sequence and private ones."""
    nested = Dataset()
    for _tag, (vr, _, _, retired, keyword) in sorted(DicomDictionary.items()):
        if keyword in DECIDING or not keyword or _tag >> 16 < 8 or keyword in dataset:
            continue
        if vr in TEXTS or (vr in NUMBERS and not retired):
            setattr(dataset, keyword, canaries.new(keyword, vr, patient))
    nested.PatientName = canaries.new("a nested name", "PN", patient)
    nested.StudyDate = canaries.new("a nested date", "DA", patient)
    dataset.RequestAttributesSequence = Sequence([nested])
    block = dataset.private_block(0x0099, canaries.new("a private creator", "LO", patient), create=True)
    block.add_new(0x01, "LO", canaries.new("a private attribute", "LO", patient))
    block.add_new(0x02, "UN", canaries.new("unknown bytes", "LO", patient).encode())


def radiograph(path: Path, patient: int, canaries: Canaries, **deciding: str) -> None:
    """Write a file that is full of identity, with pixels that differ."""
    dataset = FileDataset(
        "", Dataset(), file_meta=FileMetaDataset(), preamble=b"KANARIENVOGEL PREAMBLE".ljust(128, b"\0")
    )
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    random = np.random.default_rng(patient)
    stored = (2000 + 1500 * np.sin(9 * x + patient) * np.cos(7 * y) + 20 * random.random((SIZE, SIZE))).astype("<u2")
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    dataset.Modality, dataset.PhotometricInterpretation = "CR", "MONOCHROME2"
    plant(dataset, canaries, patient)
    for keyword, value in deciding.items():
        # Past pydicom's own check of the value: devices write what they like.
        tag, vr = pydicom.datadict.tag_for_keyword(keyword), pydicom.datadict.dictionary_VR(keyword)
        dataset[keyword] = pydicom.dataelem.RawDataElement(
            pydicom.tag.Tag(tag), vr, len(value) + len(value) % 2, value.ljust(len(value) + len(value) % 2).encode(),
            0, False, True,
        )  # fmt: skip
        canaries.planted[value] = keyword
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.SourceApplicationEntityTitle = canaries.new("the sender", "AE", patient)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    write_dicom(dataset, str(path))


REFUSED = {
    "Modality": "KANARIENVOGELMOD",
    "PhotometricInterpretation": "KANARIENVOGELGRA",
    "RescaleSlope": "KANARIENVOGELSLO",
    "NumberOfFrames": "KANARIENVOGELFRA",
    "WindowCenter": "KANARIENVOGELCEN",
    "SOPClassUID": "1.2.826.73510823.99",
}
SHOWN = {
    "VOILUTFunction": "KANARIENVOGELFUN",
    "PresentationLUTShape": "KANARIENVOGELSHA",
    "PixelSpacing": "KANARIENVOGELSPA",
    "SpecificCharacterSet": "KANARIENVOGELCHA",
}


def encoded(text: str) -> Iterator[bytes]:
    """A text as it may come out: plain, small, turned around, or in other encodings."""
    raw = text.encode()
    yield from (raw, text.lower().encode(), raw[::-1], text.encode("utf-16-le"), text.encode("utf-16-be"))
    yield from (raw.hex().encode(), raw.hex().upper().encode())
    for shift in range(3):  # base64 of a longer text that has it somewhere
        whole = base64.b64encode(b"\0" * shift + raw + b"\0" * (-(shift + len(raw)) % 3))
        yield whole[4 if shift else 0 : len(whole) - 4]


def hashed(text: str) -> Iterator[bytes]:
    """The hashes of a text that anybody can compute, or the start of them."""
    for name in ("md5", "sha1", "sha256", "sha512", "blake2b", "blake2s"):
        yield hashlib.new(name, text.encode()).hexdigest()[:16].encode()
    yield hashlib.blake2b(text.encode(), digest_size=8).hexdigest().encode()


def contents(folders: Iterable[Path]) -> Iterator[tuple[str, bytes]]:
    """Everything that lies in the folders: names, bytes, and what is compressed in them."""
    for folder in folders:
        for file in sorted(folder.rglob("*")):
            yield f"name of {file.name}", str(file.relative_to(folder)).encode()
            if not file.is_file():
                continue
            content = file.read_bytes()
            yield file.name, content
            if content.startswith(b"\x1f\x8b"):
                yield f"{file.name} inflated", gzip.decompress(content)
            if content.startswith(b"\x89PNG"):
                yield f"{file.name} inflated", b"".join(_png_texts(content))


def _png_texts(content: bytes) -> Iterator[bytes]:
    at = 8
    while at + 8 <= len(content):
        length, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        if kind in PNG_TEXT_CHUNKS:
            chunk = content[at + 8 : at + 8 + length]
            yield zlib.decompress(chunk[chunk.index(b"\x78") :])
        at += 12 + length


def found(canaries: Canaries, places: Iterable[tuple[str, bytes]]) -> list[str]:
    """Return what came out, with the place and what stands around it."""
    texts = [BIRD, *NUMBERS.values()]
    forms = {form: text for text in texts if len(text) > 5 for form in encoded(text)}
    forms |= {form: f"hash of {canaries.planted[text]}" for text in canaries.identifiers for form in hashed(text)}
    hits = []
    for name, content in places:
        for form, what in forms.items():
            at = content.find(form)
            if at >= 0:
                hits.append(f"{what} in {name}: {content[max(at - 30, 0) : at + 50]!r}")
    return hits


@pytest.fixture(scope="module")
def canaries() -> Canaries:
    return Canaries()


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory, canaries: Canaries) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for patient in range(PATIENTS):
        radiograph(folder / f"{patient}.dcm", patient, canaries)
    for number, (keyword, value) in enumerate({**REFUSED, **SHOWN}.items(), PATIENTS):
        radiograph(folder / f"{number}.dcm", number, canaries, **{keyword: value})
    return folder


def test_the_search_finds_what_is_there(tmp_path: Path, films: Path, canaries: Canaries) -> None:
    assert len(canaries.planted) > 10_000
    name = next(text for text, where in canaries.planted.items() if where == "PatientName of patient 3")
    identifier = next(text for text, where in canaries.planted.items() if where == "PatientID of patient 0")
    (tmp_path / "a").write_bytes(b"..." + base64.b64encode(b"ab" + name.encode()))
    key = hashlib.blake2b(identifier.encode(), digest_size=8).hexdigest()
    (tmp_path / "b.gz").write_bytes(gzip.compress(key.encode()))
    hits = found(canaries, contents([tmp_path]))
    assert [hit.split(":")[0] for hit in hits] == [f"{BIRD} in a", "hash of PatientID of patient 0 in b.gz inflated"]
    assert len(found(canaries, contents([films]))) > len(list(films.iterdir()))


@pytest.mark.parametrize("number", range(PATIENTS + len(REFUSED) + len(SHOWN)))
def test_reading_gives_no_canary(films: Path, canaries: Canaries, number: int) -> None:
    path = films / f"{number}.dcm"
    if PATIENTS <= number < PATIENTS + len(REFUSED):
        with pytest.raises(RadiographError) as caught:
            read_radiograph(path)
        said = f"{str(caught.value).replace(str(path), '')} {caught.value.reason}"
    else:
        read = read_radiograph(path)
        said = f"{read.meta} {read.spacing}"
    assert found(canaries, [("what is said", said.encode())]) == []


def test_nothing_that_is_written_or_printed_has_a_canary(
    films: Path, canaries: Canaries, small_weights: dict[str, str], tmp_path: Path
) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    weights = [part for name, path in small_weights.items() for part in (f"--{name}", path)]
    places = ["--dataset_dir", films, "--cache_dir", cache, "--test_fraction", 0.4]

    def settings(name: str) -> list[object]:
        return [part for key, value in SMALL[name].items() for part in (f"--{key}", value)]

    trained = run_bundle("train.json", *places, *weights, *settings("train"), "--output_dir", out)
    drawn = run_bundle("inference.json", "--run_dir", out, *weights, *settings("inference"), "--samples_per_class", 6)
    more = [*settings("evaluate"), "--generated_dir", out / "generated", "--nearest_k", 2]
    adapter = ["--adapter_path", out / "adapter.safetensors", *weights]
    measured = run_bundle("evaluate.json", "--run_dir", out, *places, *adapter, *more)
    for process in (trained, drawn, measured):
        assert process.returncode == 0, process.stderr[-2000:]
    assert (out / "report.html").is_file() and json.loads((out / "datalist.json").read_text())["rejected"]
    printed = "\n".join(process.stdout + process.stderr for process in (trained, drawn, measured))
    hits = found(canaries, [*contents([out, cache]), ("what is printed", printed.encode())])
    assert hits == []
