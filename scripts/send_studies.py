"""Send synthetic studies to an archive (PACS), by C-STORE or by DICOMweb's STOW-RS.

    python scripts/send_studies.py output/mine/generated --to 10.1.2.3:4242 --called ORTHANC
    python scripts/send_studies.py output/mine/generated --to https://host/dicom-web

What is not marked synthetic (0008,001C) is refused before anything is sent. Objects that an earlier call brought there
are not sent again: a hidden list beside the files says which. The exit code is 1 where an object was not stored, 2
where nothing could be sent.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

DICOM_PORT = 104


def chosen(paths: list[Path]) -> list[Path]:
    """Collect the DICOM files: those that are named, and the .dcm of folders."""
    files = [file for path in paths for file in (sorted(path.glob("*.dcm")) if path.is_dir() else [path])]
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise ValueError(f"{missing[0]}: no such file or folder")
    if not files:
        raise ValueError(f"{paths[0]}: no .dcm in this folder; sample with --formats \"['dcm']\"")
    return files


def main(arguments: list[str] | None = None) -> int:
    """Send what the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path, help="folders of samples, or DICOM files")
    parser.add_argument("--to", required=True, help="host:port, or the address of a DICOMweb server")
    parser.add_argument("--called", help="AE title of the archive, with host:port")
    parser.add_argument("--calling", default="ANATODIFF", help="our AE title")
    parser.add_argument("--allow_real", action="store_true", help="send also what is not marked synthetic")
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    start = time.monotonic()
    try:
        from anatodiff.data.pacs.address import is_dicomweb
        from anatodiff.data.pacs.send import send_by_store, send_by_stow

        if is_dicomweb(given.to):
            if given.called:
                raise ValueError("--called is of C-STORE; leave it out with a DICOMweb address")
            results = send_by_stow(chosen(given.paths), given.to, given.allow_real)
        else:
            place = urlsplit(f"//{given.to}")
            if not place.hostname or not given.called:
                raise ValueError("give --to host:port and --called AETITLE, or --to https://host/dicom-web")
            port = place.port or DICOM_PORT
            results = send_by_store(
                chosen(given.paths), place.hostname, port, given.called, given.calling, given.allow_real
            )
    except ImportError as error:
        print(f"{error.name} is missing; install it: pip install 'anatodiff[pacs]'", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    stored, before = sum(one.stored for one in results), sum(one.before for one in results)
    print(f"{stored} of {len(results)} are stored, {before} of them before, in {time.monotonic() - start:.1f} s")
    return 0 if stored == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
