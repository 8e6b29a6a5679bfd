"""Where radiographs come from: a folder, or an archive's address, from which they are fetched into a folder."""

from __future__ import annotations

from pathlib import Path

from anatodiff.data.pacs.address import DicomwebAddress, is_dicomweb
from anatodiff.data.table import read_table
from anatodiff.engines.workflow import OptionError
from anatodiff.parallel import is_main, main_first

FETCHED = "dicomweb"  # folder in the cache


def local_folder(place: str | Path, cache_dir: str | Path, labels_path: str | Path | None = None) -> Path:
    """Turn what an option gives into a folder; from an address the radiographs are fetched, by the main process alone.

    Args:
        place: a folder, or the address of a DICOMweb server, see `anatodiff.data.pacs.address.DicomwebAddress`.
        cache_dir: where fetched files go.
        labels_path: table of labels; of an address only what it names is fetched. None: all.

    Returns:
        the folder.

    Raises:
        OptionError: what talks to servers is not installed.
        AddressError: the address cannot be used.
        ServerError: the server does not answer or refuses.
        DatasetError: nothing can be fetched, or the table cannot be used.
    """
    if not is_dicomweb(place):
        return Path(place)
    address = DicomwebAddress.parse(str(place))
    folder = Path(cache_dir) / FETCHED / address.folder_name
    with main_first():
        if is_main():
            _fetch(address, folder, labels_path)
    return folder


def optional_folder(place: str | Path | None, cache_dir: str | Path) -> Path | None:
    """Do as `local_folder` where an option is given; None where it is not."""
    return None if place is None else local_folder(place, cache_dir)


def _fetch(address: DicomwebAddress, folder: Path, labels_path: str | Path | None) -> None:
    try:
        from anatodiff.data.pacs.fetch import fetch_studies
    except ImportError as error:
        raise OptionError(
            f"{address.base}: to fetch from a server {error.name} is needed; install it: pip install 'anatodiff[pacs]'"
        ) from error
    if labels_path is None:
        fetch_studies(address, folder)
        return
    table = read_table(labels_path)
    named = table.wanted()
    fetch_studies(address, folder, lambda uid, study: (study if table.by_study else uid) in named)
