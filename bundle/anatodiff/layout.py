"""Where the bundle's files lie: configs, weights, scripts and cards, in a checkout and in an installed wheel."""

from __future__ import annotations

import shutil
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
SHIPPED = "shipped"  # folder of the wheel's package that holds what lies at the root of a checkout
METADATA = "configs/metadata.json"
SUMS = "models/SHA256SUMS"
# What a bundle is made of, beside the weights that SUMS names.
PATTERNS = (
    "LICENSE",
    "configs/*",
    "docs/README.md",
    "docs/data_license.txt",
    "docs/model_card.md",
    "scripts/*",
    "bundle/monailabel_app/**/*",
)
NAMED = 5  # files in an error


def bundle_root() -> Path:
    """Find the folder that is the MONAI bundle.

    Returns:
        the wheel's own copy, or the bundle that the package lies in, or the root of the checkout.
    """
    # The nearest one: each of them may itself lie in another.
    roots = (PACKAGE / SHIPPED, PACKAGE.parent, PACKAGE.parents[1])
    return next((root for root in roots if (root / METADATA).is_file()), roots[0])


def bundle_files() -> list[Path]:
    """List the files that make up the bundle.

    Returns:
        their paths below `bundle_root()`, sorted.

    Raises:
        FileNotFoundError: the package was installed without them.
    """
    root = bundle_root()
    if not (root / SUMS).is_file():
        raise FileNotFoundError(f"{root}: the bundle's files are not there; install anatodiff again from its wheel")
    found = [path.relative_to(root) for pattern in PATTERNS for path in root.glob(pattern) if path.is_file()]
    weights = [Path("models", line.split()[1]) for line in (root / SUMS).read_text().splitlines()]
    return sorted({Path(SUMS), *weights, *(path for path in found if "__pycache__" not in path.parts)})


def lay_down(folder: Path, overwrite: bool = False) -> int:
    """Copy the bundle into a folder.

    Args:
        folder: is made if it is not there. What is hidden in it (.venv, .git) is no hindrance.
        overwrite: replace files of the same names; all others stay.

    Returns:
        number of files.

    Raises:
        FileExistsError: the folder has files; the message names those that would be replaced.
        OSError: it cannot be written, or is the bundle itself.
    """
    root, files = bundle_root(), bundle_files()
    if folder.resolve() == root:
        raise FileExistsError(f"{folder.resolve()}: is the bundle itself; give another folder")
    if folder.is_dir() and not overwrite and any(not path.name.startswith(".") for path in folder.iterdir()):
        there = [str(name) for name in files if (folder / name).exists()]
        more = f" and {len(there) - NAMED} more" if len(there) > NAMED else ""
        what = f"would replace {', '.join(there[:NAMED])}{more}" if there else "would replace none of them"
        raise FileExistsError(f"{folder.resolve()}: has files; --overwrite {what}; or give an empty folder")
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, folder / name)
    return len(files)
