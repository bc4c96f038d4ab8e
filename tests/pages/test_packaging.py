"""The package as others install it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers.command import command
from helpers.paths import ROOT

import prism_jax as pj

TOUR = """
import numpy as np
import prism_jax as pj
from prism_jax.models.bert import BertConfig, BertModel
from prism_jax.layers.config import TransformerConfig

model = BertModel(BertConfig(TransformerConfig(2, 32, 4, 64)))
params = pj.init_params(model, __import__("jax").random.key(0))
batch = {"ids": np.ones((2, 12), np.int32), "types": np.zeros((2, 12), np.int32), "mask": np.ones((2, 12), bool)}
run = pj.on_one_device(3)
print(pj.__file__, pj.forward(model, params, run.split(batch), pj.SegmentMeans(2), run)[0].shape)
"""


def test_the_environment_is_printed_for_a_report(capsys):
    assert command("eval.environment") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["prism_jax"] == pj.__version__
    assert {"jax", "jaxlib", "transformers", "python", "system", "devices", "commit"} <= printed.keys()


def test_the_files_for_other_tools_say_the_same_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (pj.__version__, "Apache-2.0")
    assert f"\n## {pj.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    for path in (ROOT / ".github").rglob("*.yml"):
        assert {"name"} < yaml.safe_load(path.read_text()).keys()


@pytest.mark.slow
@pytest.mark.process
def test_a_wheel_runs_without_the_checkout(tmp_path):
    source = Path(shutil.copytree(ROOT / "prism_jax", tmp_path / "source" / "prism_jax")).parent
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, source]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        tmp_path / "installed",
        wheel,
    ]
    subprocess.run(install, check=True, capture_output=True)
    assert (tmp_path / "installed" / "prism_jax" / "py.typed").exists()
    words = [sys.executable, "-c", f"import sys; sys.path.insert(0, 'installed')\n{TOUR}"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[0].startswith(str(tmp_path / "installed")), done.stdout
    assert "(2, 12, 32)" in done.stdout
