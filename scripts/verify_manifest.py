"""Hash the files again that the manifests in a folder list, and name those that are not what was written.

    python scripts/verify_manifest.py output/mine

Every `manifest.json` and `*.manifest.json` below the folder is read. The exit code is 1 where a file is missing or has
other bytes, or where an image lies among samples that their manifest does not list; 2 where there is no manifest.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from anatodiff.engines.manifest import MANIFEST_NAME, differences


def main(arguments: list[str] | None = None) -> int:
    """Verify the folder that the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a run's folder, a folder of samples, or one above them")
    folder = parser.parse_args(arguments).folder
    manifests = sorted({*folder.rglob(MANIFEST_NAME), *folder.rglob(f"*.{MANIFEST_NAME}")})
    if not manifests:
        print(f"{folder}: has no {MANIFEST_NAME}; give the folder of a run or of samples", file=sys.stderr)
        return 2
    code = 0
    for path in manifests:
        try:
            found = differences(path)
        except ValueError as error:
            found = [str(error)]
        print(f"{path}: {f'{len(found)} differences' if found else 'as written'}")
        for line in found:
            print(f"  {line}")
        code = 1 if found else code
    return code


if __name__ == "__main__":
    sys.exit(main())
