"""Commands that the processes of one start run one after the other: python -m helpers.commands_together FILE

FILE holds a list of them in JSON, each a list of its module and arguments.
"""

import json
import sys
from pathlib import Path

from helpers.command import command
from prism_jax.parallel import processes

if __name__ == "__main__":
    (file,) = processes.join(sys.argv[1:])
    for module, *argv in json.loads(Path(file).read_text()):
        if status := command(module, *argv):
            sys.exit(f"{module} ended with status {status}")
