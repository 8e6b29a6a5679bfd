"""What SIGTERM and Ctrl-C do: at once where nothing is lost by it, and in a training after the running step."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType
from typing import Any, NoReturn

logger = logging.getLogger(__name__)

NUMBERS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Receive the signals that ask a process to end.

    Outside the steps of a training (reading, encoding, validation, pictures, samples) the process ends on the spot:
    files are written whole or not at all, and the checkpoint is as new as the weights. During them `asked` is set,
    for who can save.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self.deferred = False
        self.before: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Begin to receive; asked for twice it is done once, and not outside the main thread, where Python can't."""
        if self.before or threading.current_thread() is not threading.main_thread():
            return
        self.asked, self.deferred = None, False
        self.before = {number: signal.signal(number, self._receive) for number in NUMBERS}

    def restore(self) -> None:
        """Give the signals back to who received them before."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def defer(self) -> None:
        """From now on only note that a stop is asked for."""
        self.deferred = True
        if self.asked is not None:
            self.stop("before the training")

    def at_once(self, where: str) -> None:
        """From now on stop on the spot, and now if it was asked for meanwhile."""
        self.deferred = False
        if self.asked is not None:
            self.stop(where)

    def stop(self, where: str) -> NoReturn:
        """End the process with the code of a process that the signal killed."""
        number = self.asked or signal.SIGTERM  # another process of the run may have been asked
        logger.info("stopped by %s %s; the same command goes on from here", number.name, where)
        raise SystemExit(128 + number)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.asked = signal.Signals(number)
        if not self.deferred:
            self.stop("between two steps, nothing is lost")


stop_signals = StopSignals()
