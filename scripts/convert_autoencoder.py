"""Convert an AutoencoderKL that was trained with monai-generative into a weights file of AnatoDiff.

Not for networks with use_convtranspose=True: their files look the same, and the converted network would be wrong.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from anatodiff.autoencoders import read_monai_generative, save_autoencoder


def main(arguments: list[str] | None = None) -> int:
    """Convert the checkpoint that the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("input", type=Path, help="checkpoint: a file of torch.save with the network's state dict")
    parser.add_argument("output", type=Path, help="file to write, .safetensors; give it as autoencoder_path")
    parser.add_argument("--norm_num_groups", type=int, required=True, help="as in training; the file does not tell")
    parser.add_argument(
        "--value_range",
        type=float,
        nargs=2,
        required=True,
        metavar=("BLACK", "WHITE"),
        help="the network's values for black and white in training, such as 0 1 or -1 1",
    )
    options = parser.parse_args(arguments)
    if options.output.suffix != ".safetensors":
        parser.error(f"{options.output}: the name of the file to write must end in .safetensors")
    try:
        autoencoder = read_monai_generative(options.input, options.norm_num_groups, options.value_range)
        digest = save_autoencoder(options.output, autoencoder, {"converted_from": options.input.name}, half=False)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"wrote {options.output} (sha256 {digest}): {autoencoder.settings}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
