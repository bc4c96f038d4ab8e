"""Progress of long work, with the time left: a bar on a terminal, and a line now and then in a file."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

LINE_SECONDS = 30.0
"""Seconds between two lines where stderr is not a terminal."""

LINE = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"

WATCH_SECONDS = 0.5
"""Seconds between two looks at a folder that grows."""


def say(text: str) -> None:
    """Prints a line to stderr on slow work that begins and whose length is unknown. Silent where `Progress` is."""
    if not os.environ.get("TQDM_DISABLE"):
        tqdm.write(text, file=sys.stderr)
        sys.stderr.flush()


class Progress(tqdm):
    """tqdm's bar, called like it. By default it disappears at the end.

    Where stderr is not a terminal, a line has the same figures, from the first `LINE_SECONDS` on. Other processes than
    process 0 show nothing: there TQDM_DISABLE is set.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._is_lines = not sys.stderr.isatty()
        options: dict[str, Any] = {"leave": False, **kwargs, "disable": bool(os.environ.get("TQDM_DISABLE"))}
        if self._is_lines:
            every = dict.fromkeys(("delay", "mininterval", "maxinterval"), LINE_SECONDS)
            options |= {"leave": False, "bar_format": LINE, "miniters": 1, "smoothing": 0, **every}
        super().__init__(*args, **options)

    def update(self, n: float | None = 1) -> bool | None:
        """Counts `n` more. Returns whether they were shown."""
        shown = super().update(n)
        if shown and self._is_lines:
            print(self, file=self.fp, flush=True)
        return shown

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Draws the bar."""
        return not self._is_lines and super().display(msg, pos)

    @classmethod
    def write(cls, text: str) -> None:
        """Prints a line to stdout, above the bars."""
        super().write(text)
        sys.stdout.flush()

    def clear(self, *args: Any, **kwargs: Any) -> None:
        """Clears the bar, so that a line can be printed in its place."""
        if not self._is_lines:
            super().clear(*args, **kwargs)

    def close(self) -> None:
        """Ends the bar."""
        if self._is_lines:
            self.sp = None  # nothing to clear
        super().close()


@contextmanager
def growing(folder: Path, num_bytes: int, description: str) -> Iterator[None]:
    """Shows how far the files in a folder have grown to `num_bytes`, while the body runs."""
    ended = threading.Event()

    def watch() -> None:
        with Progress(total=num_bytes, desc=description, unit="B", unit_scale=True) as progress:
            while not ended.wait(WATCH_SECONDS):
                progress.update(max(min(size_of(folder), num_bytes) - progress.n, 0))
                progress.refresh()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def size_of(folder: Path) -> int:
    """Returns the bytes of all files below a folder. Files may come and go meanwhile."""
    num_bytes = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                num_bytes += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                continue
    return num_bytes
