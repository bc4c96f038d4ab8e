"""How every entry point ends: 0 after success, 2 for what the user can mend, 1 for a failed run."""

import sys
from collections.abc import Callable

from prism_jax.errors import AssetError, InputError


def run(main: Callable[[list[str]], None], argv: list[str]) -> None:
    """Runs an entry point and exits with its status. What the user can mend is one line, without a traceback."""
    try:
        main(argv)
    except InputError as error:
        _stop(str(error), 2)
    except AssetError as error:
        _stop(str(error), 1)
    except KeyboardInterrupt:
        _stop("interrupted; what was finished is on disk", 1)


def _stop(message: str, status: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(status)
