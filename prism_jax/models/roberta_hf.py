"""Hugging Face's config and tensor names for RoBERTa."""

from prism_jax.errors import InputError
from prism_jax.models import bert_hf
from prism_jax.models.bert import BertConfig
from prism_jax.models.hf_names import Entry, Table, Tie, linear, norm, refuse_unsupported

ATTRIBUTES = bert_hf.ATTRIBUTES | {"pad_token_id": "pad_id"}
"""Our fields by the attributes of a Hugging Face RobertaConfig."""

SUPPORTED = bert_hf.SUPPORTED | {"model_type": {"roberta"}}
"""Values of a Hugging Face RobertaConfig that are implemented, by attribute."""


def config_from_hf(hf_config: dict, num_labels: int | None = None) -> BertConfig:
    """Returns our config, from the attributes of a Hugging Face `RobertaConfig`.

    Args:
      hf_config: `RobertaConfig.to_dict()`.
      num_labels: C, classes of the head; None for those of the checkpoint.

    Raises:
      InputError: if an attribute has a value that is not implemented; all of them are listed.
    """
    refuse_unsupported(hf_config, SUPPORTED)
    pad_id, rows = hf_config["pad_token_id"], hf_config["max_position_embeddings"]
    if pad_id is None:
        raise InputError("pad_token_id is None, but RoBERTa's positions begin after it; give its number in config.json")
    if pad_id >= rows - 1:
        raise InputError(
            f"pad_token_id is {pad_id}, and RoBERTa's positions begin after it, but max_position_embeddings is {rows}; "
            "give its number in config.json"
        )
    return bert_hf.read(ATTRIBUTES, hf_config, num_labels=num_labels or len(hf_config["id2label"]))


def config_to_hf(config: BertConfig) -> dict:
    """Returns the attributes of the Hugging Face `RobertaConfig` that equals a config of ours.

    Raises:
      InputError: if there is none.
    """
    if config.pad_id is None:
        raise InputError("RoBERTa's positions begin after pad_id, but it is None; give one, or choose BERT's class")
    return bert_hf.write("roberta", ATTRIBUTES, config)


def table(config: BertConfig) -> Table:
    """Returns Hugging Face's names for our parameters."""
    entries = [
        *bert_hf.encoder(config),
        *linear("pooler.dense", "pooler"),
        *linear("classifier", "classifier"),  # of every token
        *linear("classifier.dense", "classifier/dense"),
        *linear("classifier.out_proj", "classifier/out_proj"),
        *linear("lm_head.dense", "transform"),
        *norm("lm_head.layer_norm", "norm"),
        Entry("lm_head.bias", "bias"),
    ]
    return Table(
        entries=tuple(entries),
        base="RobertaModel",
        prefix="roberta.",
        heads=("classifier.", "lm_head."),
        unused=(r"embeddings\.position_ids", r"qa_outputs\..*"),
        ties=(
            Tie("embeddings.word_embeddings.weight", "lm_head.decoder.weight", "RobertaForMaskedLM"),
            Tie("lm_head.bias", "lm_head.decoder.bias", "RobertaForMaskedLM"),
        ),
    )
