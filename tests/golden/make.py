"""Writes the golden files from Hugging Face's PyTorch models: `python tests/golden/make.py` (needs torch)."""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

import torch  # noqa: E402
from helpers import hf_gpt2, hf_images, hf_llama, hf_texts, hf_vit  # noqa: E402
from helpers.hf_bert import hf_config, pair_batch, run_hf, save_hf_model  # noqa: E402
from helpers.real_assets import SENTENCES, minilm  # noqa: E402
from helpers.training_steps import families, torch_steps  # noqa: E402
from transformers import AutoModel, AutoTokenizer  # noqa: E402


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

    causal = {"gpt2": ("GPT2LMHeadModel", hf_gpt2.hf_config("plain", n_layer=2))}
    causal["llama"] = ("LlamaForCausalLM", hf_llama.hf_config("grouped"))
    for name, (kind, config) in causal.items():
        cases = []
        model = save_hf_model(kind, config, HERE / f"{name}_tiny")
        for padding in ("right", "left"):
            batch = hf_gpt2.token_batch(padding)
            logits = hf_gpt2.run_hf(model, batch).logits[torch.from_numpy(batch["mask"])]
            cases.append(
                {
                    "folder": f"{name}_tiny",
                    "ids": batch["ids"].tolist(),
                    "mask": batch["mask"].tolist(),
                    "logits": [[round(x, 7) for x in row] for row in logits.tolist()],
                }
            )
        (HERE / f"{name}.json").write_text(json.dumps(cases))

    for family, (name, _) in hf_texts.FAMILIES.items():
        model = save_hf_model(f"{name}ForSequenceClassification", hf_texts.hf_config(family), HERE / f"{family}_tiny")
        cases = []
        for padding in ("right", "left"):
            batch = hf_texts.text_batch(model.config, padding)
            logits = hf_texts.run_hf(model, batch).logits.tolist()
            cases.append({name: x.tolist() for name, x in batch.items()} | {"logits": logits})
        (HERE / f"{family}.json").write_text(json.dumps(cases))

    model = save_hf_model("ViTForImageClassification", hf_vit.hf_config("oblong"), HERE / "vit_tiny")
    pixels = hf_vit.random_pixels(model.config).round(4)
    case = {"folder": "vit_tiny", "pixels": pixels.tolist(), "logits": hf_vit.run_hf(model, pixels).logits.tolist()}
    (HERE / "vit.json").write_text(json.dumps(case))

    for family, (name, _, head) in hf_images.FAMILIES.items():
        model = save_hf_model(name + head, hf_images.hf_config(family), HERE / f"{family}_tiny")
        pixels = hf_vit.random_pixels(model.config).round(2)
        case = {"pixels": pixels.tolist(), "logits": hf_vit.run_hf(model, pixels).logits.tolist()}
        (HERE / f"{family}.json").write_text(json.dumps(case))

    steps = {name: torch_steps(family) for name, family in families().items()}
    (HERE / "training_steps.json").write_text(json.dumps(steps, indent=2) + "\n")

    folder = minilm()
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    inputs = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden, mask = model(**inputs)[0], inputs["attention_mask"][..., None]
    means = (hidden * mask).sum(1) / mask.sum(1)
    (HERE / "minilm.json").write_text(json.dumps([[round(x, 7) for x in row] for row in means.tolist()]))


if __name__ == "__main__":
    main()
