"""The model card of every adapter in configs/adapters, in the format of the hub."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.paths import ROOT
from huggingface_hub import ModelCard

import prism_jax as pj
from eval.reporting import tables
from eval.reporting.records import read_sweep
from prism_jax import assets

MAIN = read_sweep(ROOT / "docs/results/newsgroups/main")
FOLDERS = sorted(path for path in (ROOT / "configs/adapters").iterdir() if path.is_dir())


def rows_of(folder: Path) -> list[dict]:
    """The records of the main job that an adapter's weights gave."""
    (kind,) = (kind for kind, source in MAIN["weights"].items() if source == f"configs/adapters/{folder.name}")
    return [row for row in MAIN["rows"] if row["weights"] == kind]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_an_adapter_has_a_card_with_the_scores_of_its_records(folder):
    card, rows = ModelCard.load(folder / "README.md"), rows_of(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    trained = json.loads((folder / "result.json").read_text())
    assert card.data.base_model == config["base_model_name_or_path"]
    assert (card.data.license, card.data.library_name, card.data.model_name) == ("apache-2.0", "peft", folder.name)
    assert card.data.datasets
    places = ["one device" if row["num_parts"] == 1 else f"{row['num_parts']} parts" for row in rows]
    names = [f"accuracy %, {row['setting']} on {place}" for row, place in zip(rows, places, strict=True)]
    stated = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert stated == dict(zip(names, (row["score"] for row in rows), strict=True))
    header = re.search(r"^\| (parts .*) \|$", card.text, flags=re.MULTILINE)[1].split(" | ")
    assert tables.markdown_table(rows, header) in card.text
    assert f"\n    {MAIN['command']}\n" in card.text
    assert f"\n    {trained['command']}\n" in card.text
    assert f"On these it has {trained['evaluation']['score']:.1f} %" in card.text
    assert f"On {rows[0]['examples']} of the 7,528 test documents" in card.text


@pytest.mark.slow
@pytest.mark.parity("torch", "peft")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks transformers for it
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_code_of_a_card_loads_its_adapter(folder, monkeypatch, capsys):
    import torch
    from helpers.real_assets import real

    monkeypatch.chdir(ROOT)
    ours, with_peft = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    names = {}
    exec(with_peft.replace("sentence-transformers/all-MiniLM-L6-v2", str(real(assets.MINILM))), names)
    exec(ours, names)
    assert capsys.readouterr().out.strip() == "14"
    assert re.search(r"# (\d+) of 0 to 19", ours)[1] == "14"
    bert, batch, one = names["bert"], names["batch"], pj.on_one_device(1)
    logits = pj.forward(bert.model, bert.params, one.split(batch), pj.WholeSequence(), one)
    with torch.inference_mode():
        ids, mask, types = (torch.from_numpy(batch[name].astype(np.int64)) for name in ("ids", "mask", "types"))
        expected = names["model"].eval()(input_ids=ids, attention_mask=mask, token_type_ids=types).logits.numpy()
    assert abs(logits - expected).max() <= 1e-5 * abs(expected).max()
