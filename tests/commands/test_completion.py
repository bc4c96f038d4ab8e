"""Completion in bash, by the lines of the page."""

import re
import subprocess

import pytest
from helpers.paths import ROOT
from helpers.process import environment

COMPLETE = """
for line in "eval.sweep configs/bert_newsgroups.py --seg" "eval.sweep configs/bert_newsgroups.py --lim" \\
    "eval.sweep configs/bert_newsgroups.py --on one"; do
    COMP_WORDS=($line) COMP_CWORD=2
    [[ $line == *one ]] && COMP_CWORD=3
    $(complete -p eval.sweep | sed 's/.*-F //; s/ .*//')
    printf '%s\\n' "${COMPREPLY[@]}" | sort -u
done
"""


@pytest.mark.slow
@pytest.mark.process
def test_flags_and_their_choices_complete():
    (lines,) = re.findall(r"```bash\n(.*?)```", (ROOT / "docs/commands.md").read_text(), flags=re.DOTALL)
    done = subprocess.run(
        ["bash", "-c", lines + COMPLETE], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120
    )
    assert (done.stdout.splitlines(), done.stderr) == (["--segments", "--limit", "one_device"], "")
