"""Writes the golden files from Hugging Face's PyTorch models: `python tests/golden/make.py` (needs torch)."""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from test_bert import hf_config, pair_batch, run_hf, save_hf_model  # noqa: E402


def main() -> None:
    cases = []
    model = save_hf_model("BertForSequenceClassification", hf_config("plain", num_hidden_layers=2), HERE / "bert_tiny")
    for padding in ("right", "left"):
        batch = pair_batch(padding)
        cases.append(
            {
                "folder": "bert_tiny",
                "batch": {name: value.tolist() for name, value in batch.items()},
                "logits": run_hf(model, batch).logits.tolist(),
            }
        )
    (HERE / "bert.json").write_text(json.dumps(cases))


if __name__ == "__main__":
    main()
