"""Make the network of features that ships from the published EfficientNet-Lite0: fold its normalisations, halve it.

python scripts/convert_features.py efficientnet-lite0-57934424.pth models/features.safetensors
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from anatodiff.metrics.efficientnet import from_published
from anatodiff.metrics.features import save_features
from anatodiff.weights import WeightsError, read_weights


def main() -> None:
    """Convert the file that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("published", type=Path, help="state dict of EfficientNet-Lite0 (Apache-2.0)")
    parser.add_argument("out", type=Path, help=".safetensors file to write")
    options = parser.parse_args()
    try:
        weights = read_weights(options.published, "the published EfficientNet-Lite0")
        notes = {"published_sha256": weights.sha256, "licence": "Apache-2.0"}
        digest = save_features(options.out, from_published(weights), notes)
    except KeyError as error:
        sys.exit(f"{options.published}: no EfficientNet-Lite0, it lacks {error}; give the published state dict")
    except (WeightsError, OSError) as error:
        sys.exit(str(error))
    print(f"wrote {options.out} ({options.out.stat().st_size / 1e6:.2f} MB, sha256 {digest})")


if __name__ == "__main__":
    main()
