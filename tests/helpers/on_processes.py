"""Answers that several processes compute, and one with emulated devices: python -m helpers.on_processes FILE"""

import sys
from dataclasses import replace
from functools import partial

import jax
import numpy as np

import prism_jax as pj
from helpers.paths import GOLDEN
from helpers.tiny import random_batch
from prism_jax import weights
from prism_jax.exchange import FirstTokens, KeysValues
from prism_jax.exchange.text import parse, text_of
from prism_jax.models.bert import BertConfig, BertForSequenceClassification
from prism_jax.models.gpt2 import GPT2LMHeadModel
from prism_jax.models.llama import LlamaForCausalLM
from prism_jax.models.vit import ViTForImageClassification
from prism_jax.parallel import processes
from prism_jax.parallel.mesh import OnMesh
from prism_jax.testing import random_params

FAMILIES = {
    "bert": BertForSequenceClassification,
    "gpt2": GPT2LMHeadModel,
    "llama": LlamaForCausalLM,
    "vit": ViTForImageClassification,
}
_, *OTHER_WIRES = pj.WIRES.values()
FLOATS = (pj.AllGather(), pj.SegmentMeans(2))
"""One for each of two blocks, of rows as they are."""
HIDDEN = parse("displaced:segment_means:2")
KEYS_VALUES = (FirstTokens(KeysValues(pj.AllGather(wire=pj.WIRES["int8"])), 1), FirstTokens(pj.SegmentMeans(2), 2))
EXCHANGES = [
    FLOATS,
    (pj.IsolatedParts(), pj.exchange.UnscaledMeans(2)),
    (pj.exchange.MeansAfterNorm(2), pj.SegmentMeans(5)),
    *(
        (pj.AllGather(wire=one), pj.SegmentMeans(2, wire=other))
        for one, other in zip(OTHER_WIRES[::2], OTHER_WIRES[1::2], strict=True)
    ),
]
"""Of every wire format too."""


def exchanges_of(num_parts: int) -> dict[str, list[tuple]]:
    """For each family: BERT on two parts has every exchange and wire format, Llama keys and values and first tokens,
    the others on two the rows as they are. Bytes take the same way whatever they stand for."""
    if num_parts > 2:
        return {"llama": [KEYS_VALUES]}
    return {"bert": EXCHANGES, "gpt2": [FLOATS], "llama": [KEYS_VALUES], "vit": [FLOATS]}


NUM_TOKENS, NEW_TOKENS = 22, 6


def outcomes(num_parts: int) -> dict[str, np.ndarray]:
    """Logits of every family through its exchanges, and tokens that Llama goes on with."""
    results, run = {}, pj.on_mesh(num_parts)
    for family, exchanges in exchanges_of(num_parts).items():
        loaded = weights.load(FAMILIES[family], str(GOLDEN / f"{family}_tiny"))
        params, parts = run.replicate(loaded.params), run.split(batch(loaded.model))

        @jax.jit
        def logits(params, parts, model=loaded.model, exchanges=exchanges):
            return {text_of(one): pj.forward(model, params, parts, one, run) for one in exchanges}

        results |= {f"{family} {name}": value for name, value in run.fetch(logits(params, parts)).items()}
        if family == "bert" and num_parts == 2:
            results |= overlapped_and_not(loaded.model.config, run)
            on_data = pj.on_mesh(1, data=2)
            args = on_data.replicate(loaded.params), on_data.split(batch(loaded.model))
            whole = partial(pj.forward, loaded.model, exchange=pj.WholeSequence(), run=on_data)
            results["data axis"] = on_data.fetch(jax.jit(whole)(*args))
        if family == "llama":
            generator = pj.Generator(loaded.model, loaded.params, pj.SegmentMeans(2), run)
            prompts = [list(range(1, 9)), list(range(20, 3, -1))]
            results["generated"] = np.array(generator(prompts, NEW_TOKENS))
            results["logits of generated"] = generator.logits(prompts[1:], results["generated"][1:])
    return results


def overlapped_and_not(config: BertConfig, run: OnMesh) -> dict[str, np.ndarray]:
    """What a BERT of four blocks gives with a hidden collective, and what `forward` gives."""
    model = BertForSequenceClassification(replace(config, stack=replace(config.stack, num_layers=4)))
    params, parts = run.replicate(random_params(model)), run.split(batch(model))
    program = pj.overlapped(model, HIDDEN, run)
    forward = jax.jit(lambda params, parts: pj.forward(model, params, parts, HIDDEN, run))
    return {"overlapped": run.fetch(program(params, parts)), "not overlapped": run.fetch(forward(params, parts))}


def batch(model) -> dict[str, np.ndarray]:
    """A random batch. Only process 0 has it; the others have zeros."""
    made = random_batch(model, NUM_TOKENS)
    return made if processes.is_terminal() else jax.tree.map(np.zeros_like, made)


if __name__ == "__main__":
    rest = processes.join(sys.argv[1:])
    assert processes.on_any(jax.process_index() == jax.process_count() - 1, False) == (True, False)
    computed = outcomes(jax.device_count())
    if processes.is_terminal():
        np.savez(rest[0], **computed)
