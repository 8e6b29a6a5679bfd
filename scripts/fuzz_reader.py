"""Feed the reader of radiographs with broken files, and find what it does not answer with pixels or with one line.

    python scripts/fuzz_reader.py --count 10000 --seed 1 --jobs 2 --keep findings
    python scripts/fuzz_reader.py --count 2000 --seeds /data/xrays     # real files as well

A finding is an error of another kind, a message of several lines, a signal, more than 5 s or 512 MB above start-up,
pixels that are not finite or leave [0, 1], anything printed, and any file written or connection opened. The last line
counts; the exit code is 1 if anything was found. File number i is a function of (seed, i): --start goes on from there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

LOST_SECONDS = 120  # without an answer, a worker is ended


class Worker:
    """A process that examines files, and may die of one."""

    def __init__(self, options: argparse.Namespace, folder: str) -> None:
        program = Path(__file__).with_name("fuzz_worker.py")
        self.command = [sys.executable, str(program), "--seed", str(options.seed), "--folder", folder]
        for name in ("seeds", "keep"):
            if getattr(options, name):
                self.command += [f"--{name}", str(getattr(options, name))]
        self.process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, index: int) -> dict[str, Any]:
        """Have one file examined; a process that dies of it is a finding, and is started again."""
        assert self.process.stdin is not None and self.process.stdout is not None
        timer = threading.Timer(LOST_SECONDS, self.process.kill)
        timer.start()
        try:
            print(index, file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        timer.cancel()
        if answer:
            return dict(json.loads(answer))
        code = self.process.wait()
        self.process = self._start()
        return {"outcome": "died", "seconds": 0.0, "bytes": 0, "findings": [f"the reader ended with code {code}"]}

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()


def run(options: argparse.Namespace) -> int:
    """Examine all files; returns the exit code."""
    indices = list(range(options.start, options.start + options.count))
    results: dict[int, dict[str, Any]] = {}
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)

    def share(number: int) -> None:
        worker = Worker(options, folder)
        for index in indices[number :: options.jobs]:
            results[index] = worker.ask(index)
            for finding in results[index]["findings"]:
                print(f"FINDING {index}: {finding}", flush=True)
        worker.close()

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(share, range(options.jobs)))
    found = [index for index in indices if results[index]["findings"]]
    if options.reasons:
        for reason, count in Counter(result["outcome"] for result in results.values()).most_common():
            print(f"{count:>7}  {reason}")
    slowest = max(indices, key=lambda index: results[index]["seconds"])
    largest = max(indices, key=lambda index: results[index]["bytes"])
    read = sum(result["outcome"] == "read" for result in results.values())
    counts = f"{len(indices)} files: {read} read, {len(indices) - read} refused, {len(found)} findings"
    print(
        f"{counts}; slowest {results[slowest]['seconds']:.2f} s (number {slowest}), largest "
        f"{results[largest]['bytes'] >> 20} MB (number {largest})"
    )
    return 1 if found else 0


def main(arguments: list[str] | None = None) -> int:
    """Run by the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="number of files")
    parser.add_argument("--start", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seeds", type=Path, default=None, help="folder of real files to break, too")
    parser.add_argument("--keep", type=Path, default=None, help="folder for the files of the findings")
    parser.add_argument("--reasons", action="store_true", help="count the reasons of the refusals")
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
