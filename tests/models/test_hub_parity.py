"""Folders of every family compute what transformers computes: logits of its 5.24.0 for tiny models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hub_folders import ORACLE, cases, folder

from jaxpref.models.hub import hf_sizes, hf_weights
from jaxpref.models.scoring import sequence_logits
from jaxpref.models.transformer import Transformer
from jaxpref.types import Prompts


@functools.cache
def expected():
    with np.load(ORACLE / "family_logits.npz", allow_pickle=False) as file:
        return dict(file)


def largest_error(name, path):
    """Largest difference of a logit at a real token, over all rows."""
    case = cases()[name]
    sizes = hf_sizes(path, long_context=name.endswith("_long"))
    params = jax.tree.map(np.asarray, hf_weights(path))
    tokens, lengths = np.array(case["tokens"]), np.array(case["lengths"])
    mask = np.arange(tokens.shape[1]) < lengths[:, None]
    prompts = Prompts(jnp.asarray(tokens), jnp.asarray(mask))
    given = jax.jit(sequence_logits, static_argnums=0)(Transformer(sizes), params, prompts)
    return float(np.abs(np.where(mask[..., None], given - expected()[name], 0)).max())


@pytest.mark.parametrize("name", cases())
def test_logits(name, tmp_path):
    error = largest_error(name, folder(name, tmp_path / name))
    assert error < 5e-5
