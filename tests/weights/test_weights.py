"""Weights in Hugging Face's layout: what is read, and what is refused."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.closeness import assert_close
from helpers.paths import GOLDEN
from helpers.real_assets import SENTENCES, minilm
from safetensors.numpy import load_file, save_file

import prism_jax as pj
from prism_jax import weights
from prism_jax.data import images, text
from prism_jax.models import bert, bert_hf
from prism_jax.models.bert import BertForSentenceEmbedding, BertForSequenceClassification, BertModel
from prism_jax.models.gpt2 import GPT2LMHeadModel, GPT2Model

TINY = GOLDEN / "bert_tiny"


@pytest.fixture
def folder(tmp_path):
    """A copy of the tiny BERT classifier, to spoil."""
    return Path(shutil.copytree(TINY, tmp_path / "model"))


def rewrite(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(change(dict(tensors)), folder / "model.safetensors")


def same(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_every_parameter_is_read_and_written_back(folder):
    loaded = weights.load(BertForSequenceClassification, str(folder))
    written = weights.export_tensors(loaded.params, bert_hf.table(loaded.model.config))
    original = {name.removeprefix("bert."): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    assert written.keys() == original.keys()
    same(written, original)


def test_old_names_buffers_and_heads_that_we_lack_are_understood(folder):
    expected = weights.load(BertForSequenceClassification, str(folder)).params

    def old(tensors):
        names = {
            name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            for name in tensors
        }
        extra = {"bert.embeddings.position_ids": np.arange(40)[None], "cls.predictions.bias": np.zeros(3, np.float32)}
        return {names[name]: tensor for name, tensor in tensors.items()} | extra

    rewrite(folder, old)
    same(weights.load(BertForSequenceClassification, str(folder)).params, expected)


def test_a_base_model_without_prefix_and_a_model_without_the_head(folder):
    expected = weights.load(BertModel, str(folder)).params
    rewrite(
        folder,
        lambda tensors: {name.removeprefix("bert."): x for name, x in tensors.items() if "classifier" not in name},
    )
    same(weights.load(BertModel, str(folder)).params, expected)
    assert "pooler" not in weights.load(BertForSentenceEmbedding, str(folder)).params


def test_sharded_weights(folder):
    expected = weights.load(BertModel, str(folder)).params
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    index = {}
    for i, chosen in enumerate((names[::2], names[1::2])):
        file = f"model-{i + 1:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in chosen}, folder / file)
        index |= dict.fromkeys(chosen, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    same(weights.load(BertModel, str(folder)).params, expected)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match="no file .*model-00002-of-00002.safetensors"):
        weights.load(BertModel, str(folder))


@pytest.mark.parity
def test_a_pickle_is_opened_only_by_its_name(folder):
    import torch

    expected = weights.load(BertModel, str(folder)).params
    tensors = load_file(folder / "model.safetensors")
    torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="opened only where it is the source: .*/model/pytorch_model.bin"):
        weights.load(BertModel, str(folder))
    same(weights.load(BertModel, str(folder / "pytorch_model.bin")).params, expected)

    class Trap:
        def __reduce__(self):
            return (print, ("this must not run",))

    torch.save({"x": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pytorch_model.bin holds no plain PyTorch weights"):
        weights.load(BertModel, str(folder / "pytorch_model.bin"))
    with pytest.raises(ValueError, match="no file 'missing.bin'"):
        weights.load(BertModel, "missing.bin")


def test_bfloat16_is_read_as_float32(folder):
    import ml_dtypes

    rewrite(folder, lambda tensors: {name: x.astype(ml_dtypes.bfloat16) for name, x in tensors.items()})
    assert {x.dtype for x in jax.tree.leaves(weights.load(BertModel, str(folder)).params)} == {np.dtype("float32")}


def test_half_precision_is_read_as_float32(folder):
    rewrite(folder, lambda tensors: {name: x.astype(np.float16) for name, x in tensors.items()})
    assert {x.dtype for x in jax.tree.leaves(weights.load(BertModel, str(folder)).params)} == {np.dtype("float32")}


def test_a_fresh_head_is_drawn_and_the_rest_is_read(folder):
    loaded = weights.load(BertForSequenceClassification, str(folder), num_labels=7, fresh=["classifier"], seed=1)
    other = weights.load(BertForSequenceClassification, str(folder), num_labels=7, fresh=["classifier"], seed=2)
    assert loaded.params["classifier"]["kernel"].shape == (32, 7)
    assert np.abs(loaded.params["classifier"]["kernel"] - other.params["classifier"]["kernel"]).max() > 0
    same(loaded.params["encoder"], other.params["encoder"])


def test_every_wrong_tensor_is_named(folder):
    def spoil(tensors):
        del tensors["bert.embeddings.LayerNorm.bias"]
        tensors["bert.encoder.layer.0.output.dense.weight"] = np.zeros((3, 4), np.float32)
        return tensors | {"bert.encoder.layer.9.output.dense.bias": np.zeros(2, np.float32)}

    rewrite(folder, spoil)
    with pytest.raises(ValueError, match="the weights don't fit the model") as error:
        weights.load(BertModel, str(folder))
    for part in (
        "embeddings.LayerNorm.bias is missing",
        "encoder.layer.0.output.dense.weight has shape (3, 4), not (32, 64)",
        "encoder.layer.9.output.dense.bias is unknown",
    ):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("second", "names"),
    [
        ("embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.weight and embeddings.LayerNorm.weight"),
        ("bert.embeddings.LayerNorm.gamma", "bert.embeddings.LayerNorm.(weight|gamma) and bert.embeddings.LayerNorm."),
    ],
)
def test_two_names_of_one_parameter_are_refused(folder, second, names):
    rewrite(folder, lambda tensors: tensors | {second: tensors["bert.embeddings.LayerNorm.weight"] + 1})
    with pytest.raises(
        ValueError, match=f"({names}|{' and '.join(reversed(names.split(' and ')))}).*are two names of one"
    ):
        weights.load(BertModel, str(folder))


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
def test_integers_are_no_weights(folder, dtype):
    name = "bert.encoder.layer.0.output.dense.weight"
    rewrite(folder, lambda tensors: tensors | {name: np.ones((32, 64), dtype)})
    with pytest.raises(ValueError, match="layer.0.output.dense.weight has the type (I64|U8|BOOL); weights are float16"):
        weights.load(BertModel, str(folder))


def test_float64_is_read_as_float32(folder):
    rewrite(folder, lambda tensors: {name: x.astype(np.float64) for name, x in tensors.items()})
    same(weights.load(BertModel, str(folder)).params, weights.load(BertModel, str(TINY)).params)


@pytest.fixture
def gpt2_folder(tmp_path):
    return Path(shutil.copytree(TINY.parent / "gpt2_tiny", tmp_path / "gpt2"))


def test_a_tied_head_is_read_from_either_name_and_refused_where_it_differs(gpt2_folder):
    """As transformers computes: with both where they differ, with the one that is there otherwise."""
    expected = weights.load(GPT2LMHeadModel, str(gpt2_folder)).params
    table, head = "transformer.wte.weight", "lm_head.weight"
    rewrite(gpt2_folder, lambda tensors: tensors | {head: tensors[table]})
    same(weights.load(GPT2LMHeadModel, str(gpt2_folder)).params, expected)
    rewrite(gpt2_folder, lambda tensors: {name: x for name, x in tensors.items() if name != table})
    same(weights.load(GPT2LMHeadModel, str(gpt2_folder)).params, expected)
    rewrite(gpt2_folder, lambda tensors: tensors | {table: tensors[head] + 1})
    with pytest.raises(ValueError, match="fit the model: lm_head.weight differs from wte.weight, to which it is tied"):
        weights.load(GPT2LMHeadModel, str(gpt2_folder))
    loaded = weights.load(GPT2Model, str(gpt2_folder)).params  # which has no such head
    same(loaded["encoder"]["blocks"], expected["encoder"]["blocks"])


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_tied_head_of_bert(folder, part):
    """As GPT-2's; its bias has two names as well."""
    table, head = bert_hf.table(weights.load(BertModel, str(folder)).model.config), f"cls.predictions.decoder.{part}"
    model = bert.BertForMaskedLM(weights.load(BertModel, str(folder)).model.config)
    expected = pj.init_params(model, jax.random.key(0))
    tensors = weights.export_tensors(expected, table)
    name = next(tie.name for tie in table.ties if tie.copy == head)
    for both in ({name: tensors[name], head: tensors[name]}, {head: tensors[name]}):
        save_file({k: x for k, x in tensors.items() if k != name} | both, folder / "model.safetensors")
        same(weights.load(bert.BertForMaskedLM, str(folder)).params, expected)
    save_file(tensors | {head: tensors[name] + 1}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=f"{head} differs from {name}"):
        weights.load(bert.BertForMaskedLM, str(folder))
    assert weights.load(BertForSentenceEmbedding, str(folder)).folder == folder


def sharded(folder: Path, name: str) -> None:
    """The tensors in one file of that name, which an index names."""
    keys = load_file(folder / "model.safetensors").keys()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(keys, name)}))


def test_an_index_names_files_of_its_own_folder_alone(folder, tmp_path):
    elsewhere = Path(shutil.copy(folder / "model.safetensors", tmp_path / "elsewhere.safetensors"))
    (folder / "link.safetensors").symlink_to(elsewhere)
    (folder / "deeper").mkdir()
    shutil.copy(elsewhere, folder / "deeper" / "x.safetensors")
    for name in ("../elsewhere.safetensors", str(elsewhere), "link.safetensors", "deeper/x.safetensors", "..", ""):
        sharded(folder, name)
        with pytest.raises(ValueError, match="index.json names .*, which is no file of its own folder"):
            weights.load(BertModel, str(folder))
    sharded(folder, "model.safetensors")
    assert weights.load(BertModel, str(folder))


CODE = {
    "auto_map": {"AutoConfig": "trap.Trap", "AutoTokenizer": ["trap.Trap", None], "AutoImageProcessor": "trap.Trap"}
}


@pytest.mark.parametrize(
    ("name", "open_folder"),
    [
        ("config.json", lambda folder: weights.load(BertModel, str(folder))),
        ("tokenizer_config.json", lambda folder: text.load_tokenizer(folder, 100)),
        ("preprocessor_config.json", images.load_processor),
    ],
)
def test_code_in_a_folder_is_never_run(name, open_folder, toy_folder, tmp_path, monkeypatch):
    """Neither is it asked about: the message is one line."""
    folder = Path(shutil.copytree(toy_folder, tmp_path / "model"))
    (folder / "trap.py").write_text("raise SystemExit('this must not run')\n")
    content = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
    (folder / name).write_text(json.dumps(content | CODE))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    with pytest.raises(ValueError, match=f"{name} names code of its own, which is never run") as error:
        open_folder(folder)
    assert "\n" not in str(error.value)


def test_old_configs_say_of_many_things_that_they_are_off(folder):
    off = {
        "from_tf": False,
        "xla_device": None,
        "structure": [],
        "cell": {},
        "pre_trained": "",
        "tie_encoder_decoder": False,
    }
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | off))
    same(weights.load(BertModel, str(folder)).params, weights.load(BertModel, str(TINY)).params)
    (folder / "config.json").write_text(json.dumps(content | {"xla_device": True}))
    with pytest.raises(ValueError, match="xla_device=True .an attribute that is not known"):
        weights.load(BertModel, str(folder))


def spoil_config(folder, text):
    (folder / "config.json").write_text(text)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "no folder '/.*/model'; give a folder in the hub's layout, a hub id"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json in .*give a folder in the hub's layout"),
        (lambda folder: spoil_config(folder, "{"), "config.json can't be read: Input data was truncated"),
        (
            lambda folder: spoil_config(folder, '{"model_type": "mixtral"}'),
            "says model_type 'mixtral'; implemented are bert",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors in"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "pytorch_model.bin is a pickle, opened only where it is the source: .*pytorch_model.bin",
        ),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(
                (folder / "model.safetensors").read_bytes()[:5000]
            ),
            "model.safetensors is not a whole safetensors file",
        ),
    ],
)
def test_broken_folders_are_refused(folder, spoil, message):
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        weights.load(BertModel, str(folder))


def test_unknown_sources_are_refused(monkeypatch):
    from huggingface_hub import constants

    with pytest.raises(ValueError, match="unknown asset 'maxilm'; known are minilm, dinov2"):
        weights.load(BertModel, "asset:maxilm")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError, match="'nobody/nothing' is no folder here, and the hub did not give it at revision 'v1'"
    ) as error:
        weights.load(BertModel, "nobody/nothing", revision="v1")
    assert "\n" not in str(error.value)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A model in the hub's own cache layout, as `huggingface_hub` leaves it after a download, without network."""
    from huggingface_hub import constants

    model = tmp_path / "models--somebody--tiny-bert"
    snapshot = model / "snapshots" / COMMIT
    for folder in (snapshot, model / "refs", model / "blobs"):
        folder.mkdir(parents=True)
    for path in TINY.iterdir():
        shutil.copy(path, model / "blobs" / path.name)
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    for name in ("main", "v2"):
        (model / "refs" / name).write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return model


def test_a_hub_id_with_a_revision(cached):
    loaded = weights.load(BertModel, "somebody/tiny-bert", revision="v2")
    assert loaded.folder.name == COMMIT
    same(loaded.params, weights.load(BertModel, str(TINY)).params)
    sharded(loaded.folder, "model.safetensors")  # a link into blobs
    same(weights.load(BertModel, "somebody/tiny-bert").params, loaded.params)


def test_what_the_cache_has_of_a_hub_id_will_do(cached, capsys):
    """The hub's list of files names a tokenizer that was never fetched; transformers opens the model all the same."""
    names = ["config.json", "model.safetensors", "tokenizer.json", "vocab.txt"]
    (cached / "trees").mkdir()
    files = {name: {"size": 1, "blob_id": "0" * 40} for name in names}
    (cached / "trees" / f"{COMMIT}.json").write_text(json.dumps({"format_version": 1, "files": files}))
    same(weights.load(BertModel, "somebody/tiny-bert").params, weights.load(BertModel, str(TINY)).params)
    assert "so what the cache has of it is used: " in capsys.readouterr().err
    (cached / "snapshots" / COMMIT / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no model.safetensors in"):
        weights.load(BertModel, "somebody/tiny-bert")


def test_the_config_of_a_hub_id_is_checked_before_the_rest_is_fetched(folder, monkeypatch):
    import huggingface_hub

    asked = []

    def download(source, *, revision, allow_patterns, tqdm_class):
        asked.append(allow_patterns)
        return folder

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    spoil_config(folder, '{"model_type": "mixtral"}')
    with pytest.raises(ValueError, match="says model_type 'mixtral'"):
        weights.load(BertModel, "somebody/llama")
    assert asked == [["config.json"]]


def embed_minilm(folder: Path) -> tuple[np.ndarray, dict]:
    loaded = weights.load(BertForSentenceEmbedding, str(folder))
    batch = text.tokenize(text.load_tokenizer(folder, loaded.model.config.vocab_size), SENTENCES, 24)
    run = pj.on_one_device(1)
    return np.asarray(pj.forward(loaded.model, loaded.params, run.split(batch), pj.WholeSequence(), run)), batch


@pytest.mark.parity
def test_the_real_minilm_equals_hugging_face():
    import torch
    from transformers import AutoModel

    ours, batch = embed_minilm(folder := minilm())
    inputs = {"input_ids": batch["ids"], "token_type_ids": batch["types"], "attention_mask": batch["mask"]}
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder)(
            **{k: torch.from_numpy(v.astype(np.int64)) for k, v in inputs.items()}
        )[0].numpy()
    mask = batch["mask"][..., None]
    assert_close(ours, (hidden * mask).sum(1) / mask.sum(1))


def test_the_real_minilm_equals_its_golden_embeddings():
    """The golden file was written from PyTorch by tests/golden/make.py."""
    golden = TINY.parent / "minilm.json"
    assert_close(embed_minilm(minilm())[0], np.array(json.loads(golden.read_text()), np.float32))
