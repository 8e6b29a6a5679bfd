"""Asking a DICOMweb server what it has (QIDO-RS), page by page, until it has no more to say."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from dicomweb_client.api import DICOMwebClient

from anatodiff.data.pacs.address import MODALITY, DicomwebAddress
from anatodiff.data.pacs.instances import Instance
from anatodiff.data.pacs.objects import is_uid
from anatodiff.data.pacs.session import PacsSession, ServerError, with_retries

logger = logging.getLogger(__name__)
logging.getLogger("dicomweb_client").setLevel(logging.ERROR)  # it repeats what servers say, and what they are asked

PAGE = 500
MAX_INSTANCES = 1_000_000
# Answers of servers that search for instances only within a series (PS3.18 10.6 leaves the rest to the server).
CANNOT = frozenset({400, 404, 405, 501})
SOP_CLASS, SHOWN_MODALITY, STUDY, SERIES, INSTANCE = "00080016", "00080060", "0020000D", "0020000E", "00080018"
# PS3.18 tables 10.6.1-5: what is matched on the level of studies and of series; all else is on that of instances.
STUDY_KEYWORDS = frozenset(
    {
        "StudyDate", "StudyTime", "AccessionNumber", "ModalitiesInStudy", "ReferringPhysicianName", "PatientName",
        "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID", "StudyDescription",
        "IssuerOfPatientID",
    }
)  # fmt: skip
SERIES_KEYWORDS = frozenset(
    {
        "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "BodyPartExamined", "PerformedProcedureStepStartDate",
        "PerformedProcedureStepStartTime", "StationName", "Manufacturer", "ManufacturerModelName", "ProtocolName",
    }
)  # fmt: skip

Row = dict[str, Any]
Page = Callable[[int], list[Row]]


@dataclass(frozen=True)
class Found:
    """What a search brought.

    Attributes:
        instances: in the order of their UIDs, each once.
        nameless: number of answers whose UIDs are none.
    """

    instances: list[Instance]
    nameless: int


def find_instances(address: DicomwebAddress, session: PacsSession) -> Found:
    """Search for all instances that an address means.

    Args:
        address: the server and the search.
        session: to ask by.

    Returns:
        what is there.

    Raises:
        ServerError: the server does not answer, or not what was asked.
    """
    client = client_of(address, session)
    found: dict[str, Instance] = {}
    nameless = 0
    for modality in address.modalities:
        for row in _rows(client, address, modality):
            sop_class = _text(row, SOP_CLASS)
            uids = uid, study, series = _text(row, INSTANCE), _text(row, STUDY), _text(row, SERIES)
            instance = Instance(uid, study, series, sop_class if is_uid(sop_class) else "")
            if _text(row, SHOWN_MODALITY) not in ("", modality):  # the server does not match by modality
                continue
            if not all(map(is_uid, uids)):
                nameless += 1
                continue
            found.setdefault(instance.uid, instance)
            if len(found) > MAX_INSTANCES:
                raise ServerError(f"{address.base}: finds more than {MAX_INSTANCES} images; search for fewer")
    return Found([found[uid] for uid in sorted(found)], nameless)


def client_of(address: DicomwebAddress, session: PacsSession) -> DICOMwebClient:
    """Make a client whose attempts are counted here: its own repeats every error, also a refused password.

    Args:
        address: the server.
        session: to ask by.
    """
    client = DICOMwebClient(address.base, session=session)
    client.set_http_retry_params(retry=False)
    return client


def _rows(client: DICOMwebClient, address: DicomwebAddress, modality: str) -> Iterator[Row]:
    filters = {**dict(address.filters), MODALITY: modality}
    try:
        first = _ask(address, lambda: client.search_for_instances(limit=PAGE, offset=0, search_filters=filters))
    except ServerError as error:
        if error.status not in CANNOT:
            raise
        logger.info("%s: searches by study and series, it does not search for instances directly", address.base)
        yield from _rows_by_series(client, address, modality)
        return
    yield from _pages(
        address,
        lambda offset: client.search_for_instances(limit=PAGE, offset=offset, search_filters=filters),
        INSTANCE,
        first,
    )


def _rows_by_series(client: DICOMwebClient, address: DicomwebAddress, modality: str) -> Iterator[Row]:
    """Go down from studies; what a level is not asked by is asked of the one where it belongs."""
    given = dict(address.filters)
    by_study = {key: value for key, value in given.items() if key in STUDY_KEYWORDS}
    by_series = {key: value for key, value in given.items() if key in SERIES_KEYWORDS} | {MODALITY: modality}
    rest = {key: value for key, value in given.items() if key not in STUDY_KEYWORDS | SERIES_KEYWORDS}
    by_study.setdefault("ModalitiesInStudy", modality)
    for study_row in _pages(
        address, lambda offset: client.search_for_studies(limit=PAGE, offset=offset, search_filters=by_study), STUDY
    ):
        study = _text(study_row, STUDY)
        if not is_uid(study):
            continue
        for series_row in _pages(address, _series_page(client, study, by_series), SERIES):
            series = _text(series_row, SERIES)
            if not is_uid(series) or _text(series_row, SHOWN_MODALITY) not in ("", modality):
                continue
            known = {STUDY: {"Value": [study]}, SERIES: {"Value": [series]}}
            for row in _pages(address, _instances_page(client, study, series, rest), INSTANCE):
                yield {**row, **known}


def _series_page(client: DICOMwebClient, study: str, filters: dict[str, str]) -> Page:
    return lambda offset: client.search_for_series(study, limit=PAGE, offset=offset, search_filters=filters)


def _instances_page(client: DICOMwebClient, study: str, series: str, filters: dict[str, str]) -> Page:
    return lambda offset: client.search_for_instances(study, series, limit=PAGE, offset=offset, search_filters=filters)


def _pages(address: DicomwebAddress, page: Page, tag: str, first: list[Row] | None = None) -> Iterator[Row]:
    """Yield rows until a page brings nothing new: servers cap pages below the limit, or ignore limit and offset."""
    seen: set[str] = set()
    offset = 0
    rows = first if first is not None else _ask(address, partial(page, 0))
    while new := [row for row in rows if _text(row, tag) not in seen]:
        seen.update(_text(row, tag) for row in new)
        if len(seen) > MAX_INSTANCES:
            raise ServerError(f"{address.base}: finds more than {MAX_INSTANCES} images; search for fewer")
        yield from new
        offset += len(rows)
        rows = _ask(address, partial(page, offset))


def _ask(address: DicomwebAddress, search: Callable[[], list[Row]]) -> list[Row]:
    try:
        rows = with_retries(search, address.base)
    except ValueError as error:  # of JSON, and of an answer that is too large
        raise ServerError(
            f"{address.base}: what answers there is no DICOMweb server (no DICOM JSON); check the address"
        ) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ServerError(f"{address.base}: what answers there is no DICOMweb server; check the address")
    return rows


def _text(row: Row, tag: str) -> str:
    element = row.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return str(values[0]).strip() if isinstance(values, list) and values else ""
