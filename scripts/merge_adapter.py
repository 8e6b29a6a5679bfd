"""Merge an adapter and its base into one weights file that needs no base, take it out again, or halve it to share."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from anatodiff.networks import merge_adapter, split_adapter
from anatodiff.weights import load_weights, save_weights


def main(arguments: list[str] | None = None) -> int:
    """Merge or split the files that the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("input", type=Path, help="adapter.safetensors of a run; with --split a merged file")
    parser.add_argument("output", type=Path, help="file to write, .safetensors; a merged one is given as adapter_path")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--base", type=Path, help="the base that the adapter was trained on; without it the shipped one")
    way.add_argument("--split", action="store_true", help="write the adapter that is in a merged file, byte for byte")
    way.add_argument("--half", action="store_true", help="write the adapter alone in fp16: half the size, to share")
    options = parser.parse_args(arguments)
    if options.output.suffix != ".safetensors":
        parser.error(f"{options.output}: the name of the file to write must end in .safetensors")
    if options.output.resolve() in {path.resolve() for path in (options.input, options.base) if path is not None}:
        parser.error(f"{options.output}: is read too; give the file to write another name")
    try:
        if options.split:
            digest = split_adapter(options.input, options.output)
        elif options.half:
            weights = load_weights(options.input, "adapter")
            digest = save_weights(options.output, weights.tensors, weights.settings, half=True)
        else:
            digest = merge_adapter(options.input, options.output, options.base)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"wrote {options.output} ({options.output.stat().st_size / 1e6:.2f} MB, sha256 {digest})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
