"""`python -m anatodiff init FOLDER`: lay the bundle down outside a checkout, to run its configs there."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from anatodiff import __version__
from anatodiff.layout import lay_down

NEXT = "python -m monai.bundle run training --config_file configs/train.json"


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="anatodiff", description="AnatoDiff, a MONAI bundle for synthetic radiographs."
    )
    parser.add_argument("--version", action="version", version=f"anatodiff {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    init = commands.add_parser("init", help="lay the bundle (configs, weights, scripts, cards) down in a folder")
    init.add_argument(
        "folder", type=Path, nargs="?", default=Path(), help="an empty folder or a new one; default: here"
    )
    init.add_argument("--overwrite", action="store_true", help="replace the bundle's files, leave others alone")
    options = parser.parse_args(arguments)
    try:
        count = lay_down(options.folder, options.overwrite)
    except OSError as error:
        print(f"anatodiff init: {error}", file=sys.stderr)
        return 1
    print(f"laid {count} files down in {options.folder.resolve()}; now:")
    if options.folder.resolve() != Path.cwd():
        print(f"  cd {shlex.quote(str(options.folder))}")
    print(f"  {NEXT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
