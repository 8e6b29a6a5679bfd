"""Choose among the adapters that a training has kept: the best kernel distance whose samples are no copies.

    python scripts/choose_checkpoint.py --run_dir output/mine --dataset_dir /data/xrays --samples_per_class 100

The training needs the option keep_every. Each kept adapter and the final one are sampled and evaluated with the options
of inference.json and evaluate.json (give test_fraction, split_seed, max_images and image_size as in the training). What
is done is not made again. The table goes to the screen, the choice to choice.json. A step that is not clean is never
chosen; where none is, the program ends with code 1. The chosen distance is the least of several on the same reference
images, and so a little too good: measure it once more against others before you cite it.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from anatodiff.engines.choice import Measuring, best, candidates, judge, table, write_choice
from anatodiff.engines.protocol import options_from

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: list[str] | None = None) -> int:
    """Run by the command line; returns 0 where an adapter was chosen, 1 where none is clean, 2 where a run failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run_dir", type=Path, required=True, help="a finished training")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="the radiographs of that training")
    parser.add_argument("--output_dir", type=Path, help="default: choice/ in the run's folder")
    parser.add_argument("--cache_dir", type=Path, default=Path("output/cache"))
    parser.add_argument("--base_path", help="of the training, if it was given")
    parser.add_argument("--autoencoder_path", help="of the training, if it was given")
    parser.add_argument("--samples_per_class", type=int, default=100)
    parser.add_argument("--inference", nargs="+", default=[], metavar="OPTION=VALUE", help="options of inference.json")
    parser.add_argument("--evaluation", nargs="+", default=[], metavar="OPTION=VALUE", help="options of evaluate.json")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    places = {"base_path": given.base_path, "autoencoder_path": given.autoencoder_path}
    weights = {name: path for name, path in places.items() if path is not None}
    common = {**weights, "cache_dir": str(given.cache_dir)}
    how = Measuring(
        ROOT / "configs",
        {**common, "samples_per_class": given.samples_per_class, **options_from(given.inference)},
        {**common, "dataset_dir": str(given.dataset_dir), **options_from(given.evaluation)},
    )
    output_dir = given.run_dir / "choice" if given.output_dir is None else given.output_dir
    try:
        judged = [judge(one, given.run_dir, how) for one in candidates(given.run_dir, output_dir)]
    except (RuntimeError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    write_choice(output_dir / "choice.json", judged)
    print(table(judged))
    chosen = best(judged)
    if chosen is None:
        print("none is clean: no adapter of this run is to be released")
        return 1
    print(f"best: {given.run_dir / chosen.adapter}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
