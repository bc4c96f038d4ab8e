"""One process of `eval.launch`: sends the launcher a sign of life every second, and runs the command on one core.

python -m eval.launching.rank FILE-DESCRIPTOR CORE MODULE ARGUMENTS...
"""

import os
import runpy
import sys
import threading
import time

BEAT_SECONDS = 1.0


def beat(descriptor: int) -> None:
    """Writes a byte every second. Ends the process when the launcher no longer reads them."""
    try:
        while True:
            os.write(descriptor, b".")
            time.sleep(BEAT_SECONDS)
    except OSError:
        os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=beat, args=(int(sys.argv[1]),), daemon=True).start()
    if sys.argv[2] != "-":
        os.sched_setaffinity(0, {int(sys.argv[2])})
    module = sys.argv[3]
    sys.argv = sys.argv[3:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
