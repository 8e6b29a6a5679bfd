"""Files for `fuzz_reader.py`: good ones of every kind, and what pipelines and attackers make of them."""

from __future__ import annotations

import gzip
import io
import random
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLossless, JPEGLosslessSV1

from anatodiff.data.dicom_file import READ_KEYWORDS, write_dicom
from dicom_samples import LOSSLESS, LOSSY, NATIVE, plain_dataset, scene, write_encoded

SYNTAXES = (
    *NATIVE, *LOSSLESS, *LOSSY, "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.203",
    "1.2.840.10008.1.2.4.110", "1.2.840.10008.1.2.4.100", "1.2.840.113619.5.2", "1.2.3", "", "x" * 64,
)  # fmt: skip
VRS = (b"SQ", b"OB", b"OW", b"UN", b"US", b"SS", b"DS", b"IS", b"CS", b"UI", b"UT", b"FD", b"AT", b"PN", b"??", b"\0\0")
LENGTHS = (0, 1, 2, 3, 7, 0xFF, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
NUMBERS = (0, 1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 255, 4096, 6000, 32767, 32768, 65535)
TEXTS = (
    "nan", "inf", "-inf", "1e308", "-1e308", "1e-320", "0", "-0", "", " ", "\\", "1\\2\\3", "1e9999", "9" * 300, "\0",
    "%s%n", "../../x", "=1+1", "\x1b[31m", "YES", "MONOCHROME1", "PALETTE COLOR", "RGB", "INVERSE", "SIGMOID", "ä",
)  # fmt: skip
ITEM = b"\xfe\xff\x00\xe0"
DEPTHS = (10, 100, 1000, 20_000)  # of nested sequences
# Tag of the sequence, one that is passed over and one that is read, and whether its ends are there.
NESTINGS = ((0x00081140, False), (0x00081140, True), (0x00283010, False), (0x00283010, True))
MAX_GARBAGE = 64  # bytes
BOMB_BYTES = 160 << 20  # unpacked; above what the reader takes
Mutation = Callable[[bytes, random.Random, list[bytes]], bytes]


def generated_seeds() -> list[bytes]:
    """Make good files: DICOM of every transfer syntax, PNG, JPEG and NIfTI."""
    seeds: list[bytes] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seed.dcm"
        for syntax in (*NATIVE, *LOSSLESS, *LOSSY):
            for bits, signed in ((8, False), (12, True), (16, False)):
                if syntax == JPEGBaseline8Bit and bits != 8:
                    continue
                shape = (34, 48) if syntax in (JPEGLossless, JPEGLosslessSV1) else (33, 47)
                seeds.append(write_encoded(path, scene(bits, signed, shape), bits, syntax).read_bytes())
    seeds += [_dicom_with_tables(), seeds[0][132:], *_pictures(), *_volumes()]
    return seeds


def hostile_seeds() -> list[bytes]:
    """Make files that are meant to harm: bombs, depths and lies about sizes."""
    zeros = bytes(BOMB_BYTES)
    deflated = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    plain = _bytes_of(plain_dataset(scene(12, False), 12))
    swapped = plain.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")  # the length is wrong by two: mended
    start = 144 + struct.unpack("<I", plain[140:144])[0]
    bomb = deflated.compress(plain[start:]) + deflated.compress(zeros) + deflated.flush()
    seeds = [_with_syntax("1.2.840.10008.1.2.1.99", bomb), swapped, gzip.compress(_nifti() + zeros, 1, mtime=0)]
    # Sixteen million empty elements.
    seeds.append(plain[:start] + struct.pack("<HH2sH", 9, 16, b"LO", 0) * 2_000_000)
    seeds += [_nested(plain[:start], depth, plain[start:], *how) for depth in DEPTHS for how in NESTINGS]
    text = zlib.compress(bytes(60 << 20))
    seeds += [
        _png_with(b"zTXt", b"a\0\0" + text),
        _png_with(b"iCCP", b"a\0\0" + text),
        _png_with(b"tEXt", b"", 100_000),
    ]
    image = io.BytesIO()
    Image.new("L", (5000, 5000)).save(image, format="JPEG", progressive=True)
    data = image.getvalue()
    scan = data[data.index(b"\xff\xda") : data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)]
    seeds.append(data[:-2] + scan * 300 + b"\xff\xd9")
    for rows, columns in ((65535, 65535), (6000, 6000), (32, 65535), (1, 1), (0, 0)):
        for syntax in (*LOSSLESS, *LOSSY, ExplicitVRLittleEndian):
            dataset = plain_dataset(scene(8, False), 8)
            dataset.Rows, dataset.Columns = rows, columns
            if syntax != ExplicitVRLittleEndian:
                dataset.PixelData = encapsulate([struct.pack("<16L", 1, 64, *[0] * 14) + b"\x81\x00" * 400])
            dataset.file_meta.TransferSyntaxUID = syntax
            seeds.append(_bytes_of(dataset))
    return seeds


def mutant(seeds: list[bytes], hostile: list[bytes], seed: int, index: int) -> bytes:
    """Make one file, a function of (seed, index) and the seeds.

    Args:
        seeds: good files.
        hostile: bad ones; each is used once as it is, the first of all.
        seed: of the draws.
        index: which.

    Returns:
        its content.
    """
    if index < len(hostile):
        return hostile[index]
    draw = random.Random(f"{seed} {index}")
    data = seeds[index % len(seeds)]
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        data = draw.choice(MUTATIONS)(data, draw, seeds)
    return data


def _flip(data: bytes, draw: random.Random, seeds: list[bytes]) -> bytes:
    changed = bytearray(data)
    # Headers are a small part of a file, and where most goes wrong.
    limit = len(changed) if draw.random() < 0.5 else min(len(changed), 1200)
    for _ in range(draw.choice((1, 2, 8, 64))):
        changed[draw.randrange(limit)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _cut(data: bytes, draw: random.Random, seeds: list[bytes]) -> bytes:
    return data[: draw.randrange(1, len(data))]


def _splice(data: bytes, draw: random.Random, seeds: list[bytes]) -> bytes:
    other = draw.choice(seeds)
    return data[: draw.randrange(len(data))] + other[draw.randrange(len(other)) :]


def _repeat(data: bytes, draw: random.Random, seeds: list[bytes]) -> bytes:
    start = draw.randrange(len(data))
    chunk = data[start : start + draw.choice((1, 8, 100, 1000))]
    return data[:start] + chunk * draw.choice((2, 3, 50)) + data[start:]


def _drop(data: bytes, draw: random.Random, seeds: list[bytes]) -> bytes:
    start = draw.randrange(len(data))
    return data[:start] + data[start + draw.choice((1, 2, 4, 8, 100)) :] or b"\0"


def _insert(data: bytes, draw: random.Random, seeds: list[bytes]) -> bytes:
    start = draw.randrange(len(data))
    return data[:start] + draw.randbytes(draw.randrange(1, MAX_GARBAGE)) + data[start:]


def _overwrite(data: bytes, draw: random.Random, seeds: list[bytes]) -> bytes:
    width = draw.choice((2, 4, 8))
    start = draw.randrange(max(1, len(data) - width))
    value = (draw.choice(LENGTHS) & (1 << 8 * width) - 1).to_bytes(width, draw.choice(("little", "big")))
    return data[:start] + value + data[start + width :]


def _element_bytes(data: bytes, draw: random.Random, seeds: list[bytes]) -> bytes:
    """Change VR, length or place of an element that the reader looks at."""
    tag = pydicom.tag.Tag(draw.choice(READ_KEYWORDS))
    start = data.find(struct.pack("<HH", tag.group, tag.element))
    if start < 0 or start + 12 > len(data):
        return _overwrite(data, draw, seeds)
    kind = draw.randrange(4)
    if kind == 0:
        return data[: start + 4] + draw.choice(VRS) + data[start + 6 :]
    if kind == 1:
        return data[: start + 6] + struct.pack("<H", draw.choice(LENGTHS) & 0xFFFF) + data[start + 8 :]
    if kind == 2:
        return data[: start + 8] + struct.pack("<I", draw.choice(LENGTHS)) + data[start + 12 :]
    return data[:start] + data[start : start + 12] * draw.choice((2, 40)) + data[start + 12 :]


def _element_value(data: bytes, draw: random.Random, seeds: list[bytes]) -> bytes:
    """Give an element another value, in a file that is well formed."""
    dataset = _dataset(data)
    if dataset is None:
        return _overwrite(data, draw, seeds)
    keyword = draw.choice(READ_KEYWORDS[:-1])
    vr = pydicom.datadict.dictionary_VR(keyword)
    values: tuple[object, ...] = NUMBERS if vr[1:] == "S" and vr[0] in "UO" else TEXTS
    if vr in ("US", "US or SS"):
        values, vr = NUMBERS, draw.choice(("US", "UL", "FD", "LO")) if draw.random() < 0.2 else "US"
        if vr == "LO":
            values = TEXTS
    if vr == "SQ":
        vr, values = draw.choice(
            (("SQ", ([_table(draw)],)), ("SQ", ([],)), ("LO", TEXTS), ("UN", (draw.randbytes(40),)))
        )
    dataset.pop(keyword, None)
    element = pydicom.DataElement(pydicom.tag.Tag(keyword), vr, b"" if vr != "SQ" else [], validation_mode=0)
    value = draw.choice(values)
    element._value = str(value) if vr in ("DS", "IS", "LO", "CS", "UI") else value
    try:
        dataset[keyword] = element
    except (TypeError, ValueError):  # nothing that a file could hold
        return _overwrite(data, draw, seeds)
    return _bytes_of(dataset, data)


def _syntax(data: bytes, draw: random.Random, seeds: list[bytes]) -> bytes:
    """Say that the file is in another transfer syntax."""
    dataset = _dataset(data)
    if dataset is None:
        return _flip(data, draw, seeds)
    syntax = draw.choice(SYNTAXES)
    start = data.find(b"\x02\x00\x10\x00UI")
    length = struct.unpack("<H", data[start + 6 : start + 8])[0]
    value = str(syntax).encode() + b"\0" * (len(str(syntax)) % 2)
    return data[: start + 6] + struct.pack("<H", len(value)) + value + data[start + 8 + length :]


def _items(data: bytes, draw: random.Random, seeds: list[bytes]) -> bytes:
    """Change the parts of compressed pixel data: their lengths, number and content."""
    places = [place for place in range(len(data) - 8) if data[place : place + 4] == ITEM]
    if not places:
        return _overwrite(data, draw, seeds)
    place = draw.choice(places)
    kind = draw.randrange(3)
    if kind == 0:
        return data[: place + 4] + struct.pack("<I", draw.choice(LENGTHS)) + data[place + 8 :]
    if kind == 1:
        return data[:place] + (ITEM + struct.pack("<I", 0)) * draw.choice((1, 10, 5000)) + data[place:]
    body = bytearray(data)
    for _ in range(draw.choice((1, 4, 32))):  # the headers of a codestream
        body[min(len(body) - 1, place + 8 + draw.randrange(120))] = draw.choice((0, 1, 0x7F, 0x80, 0xFF))
    return bytes(body)


def _nesting(data: bytes, draw: random.Random, seeds: list[bytes]) -> bytes:
    start = data.find(b"\x08\x00\x16\x00")
    return (
        _flip(data, draw, seeds)
        if start < 0
        else _nested(data[:start], draw.choice(DEPTHS), data[start:], *draw.choice(NESTINGS))
    )


MUTATIONS: tuple[Mutation, ...] = (
    _flip, _flip, _cut, _splice, _repeat, _drop, _insert, _overwrite, _overwrite, _element_bytes, _element_bytes,
    _element_value, _element_value, _element_value, _syntax, _items, _items, _nesting,
)  # fmt: skip


def _dataset(data: bytes) -> pydicom.FileDataset | None:
    try:
        dataset = pydicom.dcmread(io.BytesIO(data))
        return dataset if "PixelData" in dataset and dataset.file_meta.get("TransferSyntaxUID") else None
    except Exception:
        return None


def _bytes_of(dataset: pydicom.FileDataset, otherwise: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    try:
        write_dicom(dataset, buffer)
    except Exception:
        return otherwise or b"\0"
    return buffer.getvalue()


def _table(draw: random.Random) -> Dataset:
    item = Dataset()
    item.add_new(0x00283002, "US", [draw.choice(NUMBERS) for _ in range(draw.choice((1, 2, 3, 3, 3, 4)))])
    item.add_new(0x00283006, "OW", draw.randbytes(2 * draw.choice((0, 1, 64, 4096))))
    return item


def _dicom_with_tables() -> bytes:
    dataset = plain_dataset(scene(12, False), 12)
    for keyword in ("ModalityLUTSequence", "VOILUTSequence"):
        item = Dataset()
        item.add_new(0x00283002, "US", [4096, 0, 16])
        item.add_new(0x00283006, "OW", np.arange(4096, dtype="<u2").tobytes())
        setattr(dataset, keyword, [item])
    dataset.WindowCenter, dataset.WindowWidth = [100, 2048], [0, 4000]
    dataset.add_new(0x00280120, "US", 0)
    return _bytes_of(dataset)


def _pictures() -> list[bytes]:
    gray = scene(8, False, (40, 50))
    pictures = [
        (Image.fromarray(gray), "PNG", {}),
        (Image.fromarray(scene(16, False, (40, 50))), "PNG", {}),
        (Image.fromarray(gray).convert("RGB"), "PNG", {}),
        (Image.fromarray(gray).convert("P"), "PNG", {}),
        (Image.fromarray(gray).convert("LA"), "PNG", {}),
        (Image.fromarray(gray), "JPEG", {}),
        (Image.fromarray(gray).convert("RGB"), "JPEG", {"progressive": True}),
    ]
    encoded = []
    for picture, form, options in pictures:
        buffer = io.BytesIO()
        picture.save(buffer, format=form, **options)
        encoded.append(buffer.getvalue())
    return encoded


def _nifti(dtype: str = "i2") -> bytes:
    return nib.Nifti1Image(scene(12, False, (40, 50)).astype(dtype), np.eye(4)).to_bytes()


def _volumes() -> list[bytes]:
    second = nib.Nifti2Image(scene(12, False, (40, 50)).astype("i2"), np.eye(4)).to_bytes()
    return [_nifti(), _nifti("f4"), _nifti("f8"), gzip.compress(_nifti(), mtime=0), second]


def _with_syntax(syntax: str, body: bytes) -> bytes:
    dataset = plain_dataset(scene(12, False), 12)
    dataset.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    pydicom.filewriter.write_file_meta_info(buffer, dataset.file_meta)
    return bytes(128) + b"DICM" + buffer.getvalue() + body


def _nested(before: bytes, depth: int, after: bytes, tag: int, closed: bool) -> bytes:
    opened = (
        struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, b"SQ", 0, 0xFFFFFFFF) + ITEM + struct.pack("<I", 0xFFFFFFFF)
    )
    ends = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    return before + opened * depth + (ends * depth if closed else b"") + after


def _png_with(kind: bytes, content: bytes, times: int = 1) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(scene(8, False, (40, 50))).save(buffer, format="PNG")
    data = buffer.getvalue()
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return data[:33] + chunk * times + data[33:]
