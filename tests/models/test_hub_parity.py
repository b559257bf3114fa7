"""Folders of every family compute what transformers computes: logits of its 5.24.0 for tiny models."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hub_folders import ORACLE, cases, folder

from jaxpref.models.hub import hf_sizes, hf_weights
from jaxpref.models.hub.families import FAMILIES
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
    given = jax.jit(sequence_logits, static_argnums=0)(Transformer(sizes, unroll=1), params, prompts)
    return float(np.abs(np.where(mask[..., None], given - expected()[name], 0)).max())


def in_readme(repository):
    """The numbers of the table in README.md, by family."""
    lines = (repository / "README.md").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| `llama` |"))
    families, errors = (re.findall(r"[\w.-]+", lines[i]) for i in (start, start + 2))
    return {family: float(error) for family, error in zip(families, errors, strict=True)}


def test_readme_has_a_number_of_each_family(repository):
    stated = in_readme(repository)
    assert set(stated) == set(FAMILIES) == {case["config"]["model_type"] for case in cases().values()}
    assert max(stated.values()) < 1e-4


@pytest.mark.parametrize("name", cases())
def test_logits(name, tmp_path, repository):
    """Machines round differently: at most five times what README says, and below 1e-4."""
    error = largest_error(name, folder(name, tmp_path / name))
    stated = in_readme(repository)[cases()[name]["config"]["model_type"]]
    assert 0 < error < min(5 * stated, 1e-4)
