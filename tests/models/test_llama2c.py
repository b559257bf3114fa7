"""llama2.c checkpoints: the real stories260K, and files that are not what they should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpref.data.text.tokenizers import llama2c_tokenizer
from jaxpref.models.llama2c import llama2c_sizes, llama2c_weights
from jaxpref.models.sizes import stories260k
from jaxpref.models.transformer import Transformer
from jaxpref.policies.transformer import transformer
from jaxpref.types import Prompts

# Greedy text of the checkpoint as printed in doc/stories260K.md of karpathy/llama2.c (256 tokens).
KNOWN_TEXT = """Once upon a time, there was a little girl named Lily. She loved to play outside in the park. \
One day, she saw a big, red ball. She wanted to play with it, but it was too high.
Lily's mom said, "Lily, let's go to the park." Lily was sad and didn't know what to do. She said, "I want to \
play with your ball, but I can't find it."
Lily was sad and didn't know what to do. She said, "I'm sorry, Lily. I didn't know what to do."
Lily didn't want to help her mom, so she said, "I'm sorry, mom. I didn't know what to do." Her mom said, \
"Don't worry, Lily. We can help you."""


def test_stories260k_greedy_text(data_root):
    path = data_root / "stories260K" / "stories260K.bin"
    tokenizer = llama2c_tokenizer(str(data_root / "stories260K" / "tok512.bin"))
    assert llama2c_sizes(path) == stories260k()
    policy = transformer(sizes=stories260k, eos_id=tokenizer.eos_id)
    prompts = Prompts(jnp.array([[1]]), jnp.ones((1, 1), bool))
    weights = llama2c_weights(path)
    drawn = policy.sample(weights, prompts, jax.random.key(0), max_tokens=256, temperature=0.0)
    tokens = np.asarray(drawn.completions.response_tokens)[0, 0].tolist()
    assert tokenizer.decode(tokens).strip() == KNOWN_TEXT
    # The tokens were chosen one by one through the cache; scoring them at once must agree over 256 steps.
    scored = jax.jit(policy.token_logps)(weights, drawn.completions)
    np.testing.assert_allclose(scored, drawn.token_logps, atol=2e-5)


def _write(path, header, floats):
    path.write_bytes(np.asarray(header, np.int32).tobytes() + np.asarray(floats, np.float32).tobytes())
    return path


HEADER = [8, 12, 2, 2, 1, 11, 5]  # dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len
BLOCK = 8 + 8 * 8 + 2 * (4 * 8) + 8 * 8 + 8 + 3 * 12 * 8
COUNT = 11 * 8 + 2 * BLOCK + 8 + 2 * 5 * 2


def test_tied_and_untied_heads(tmp_path):
    floats = np.random.default_rng(0).normal(size=COUNT + 11 * 8).astype(np.float32)
    tied = llama2c_weights(_write(tmp_path / "tied.bin", HEADER, floats[:COUNT]))
    assert "unembedding" not in tied
    untied = llama2c_weights(_write(tmp_path / "untied.bin", [*HEADER[:5], -11, 5], floats))
    np.testing.assert_array_equal(untied["unembedding"].ravel(), floats[COUNT:])
    sizes = llama2c_sizes(tmp_path / "untied.bin")
    given = jax.tree.map(np.shape, untied)
    assert given == jax.tree.map(
        lambda x: x.shape, jax.eval_shape(Transformer(sizes).init, jax.random.key(0))
    )


def test_files_that_cannot_be_read(tmp_path):
    floats = np.zeros(COUNT)
    cases = [
        (_write(tmp_path / "short.bin", HEADER, floats[:-3]), "truncated"),
        (_write(tmp_path / "long.bin", HEADER, np.zeros(COUNT + 1)), "truncated or not a legacy"),
        (_write(tmp_path / "newer.bin", [0x616B3432, *HEADER[1:]], floats), "newer llama2.c format"),
        (_write(tmp_path / "negative.bin", [-8, *HEADER[1:]], floats), "no llama2.c header"),
        (_write(tmp_path / "heads.bin", [8, 12, 2, 3, 1, 11, 5], floats), "3 heads and 1 key heads"),
        (_write(tmp_path / "empty.bin", [], []), "no llama2.c header"),
        (tmp_path / "absent.bin", "no such file"),
    ]
    for path, message in cases:
        with pytest.raises(ValueError, match=message):
            llama2c_weights(path)
