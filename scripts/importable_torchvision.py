"""Let torchvision import beside a CPU build of torch, in the environment of MONAI Label alone.

MONAI Label imports torchvision, whose wheel is compiled for another build of torch than the CPU's and then lacks two
operators that it describes when it is imported. Nothing here calls them: it is enough that they have names. Run it with
the Python of that environment: `.monailabel/bin/python scripts/importable_torchvision.py`.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

MODULE = "torchvision_operators"
# Python runs a line of a .pth file that begins with "import" whenever it starts: the module waits for torchvision.
HOOK = '''"""Names the operators that torchvision's wheel lacks; AnatoDiff's importable_torchvision.py wrote it."""

import sys

OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
library = None  # the operators are gone with it


class NameOperators:
    def find_spec(self, name, path=None, target=None):
        global library
        if name == "torchvision" and library is None:
            import torch

            library = torch.library.Library("torchvision", "DEF")
            for operator in OPERATORS:
                library.define(operator)
        return None


sys.meta_path.insert(0, NameOperators())
'''


def imports_torchvision() -> bool:
    """Try it in a process of its own."""
    return subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode == 0


def main() -> None:
    """Write the hook into this environment, if torchvision needs it."""
    if sys.prefix == sys.base_prefix:
        sys.exit(
            "this is no virtual environment; run it with the Python of MONAI Label's, the only one that it changes"
        )
    if imports_torchvision():
        print("torchvision imports as it is")
        return
    folder = Path(sysconfig.get_path("purelib"))
    (folder / f"{MODULE}.py").write_text(HOOK)
    (folder / f"{MODULE}.pth").write_text(f"import {MODULE}\n")
    if not imports_torchvision():
        sys.exit("torchvision does not import even so; install the version that belongs to this torch (0.28 to 2.13)")
    print(f"torchvision imports now, with {folder / MODULE}.py")


if __name__ == "__main__":
    main()
