#!/usr/bin/env bash
# jax.random.categorical over bfloat16 logits never returns most of a vocabulary; bernoulli with a bfloat16 p has 128
# outcomes.
#
# Expected: logits that a bfloat16 model gives are sampled as their softmax says, up to the rounding of the logits.
#   All equal, 50,000 of them: every token is as likely as any other. `bernoulli(key, p)` is true with probability p.
# Seen (jax 0.10.2; 0.12.0.1, tried by hand, gives the same numbers): the uniform numbers underneath are drawn in the
#   type of the argument, and bfloat16 has 128 of them, 1/128 apart. So Gumbel noise has 128 values, the greatest is
#   tied between hundreds of tokens, and argmax takes the first: 300 samples from 50,000 equal logits all lie below
#   token 1,000 (their mean is about 120; about 25,000 in float32). A token of probability 0.0025 comes up at 0.0017.
#   `bernoulli` of p = 0.001 is true 8 times too often (1/128), and of p = 0.9961 always. float16 (1,024 values) goes
#   the same way, less far.
# What helps: float32 before sampling, `categorical(key, logits.astype(float32))`; the same for probabilities that
#   labels are drawn from.
#
# Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "jax==0.10.2" 2>/dev/null

cat >"$work/sample.py" <<'PY'
import sys

import jax
import jax.numpy as jnp

print(f"jax {jax.__version__}")
keys, vocabulary, changed = jax.random.split(jax.random.key(0), 300), 50_000, []


def expect(what, found, low, high):
    print(f"  {what:<58} {found:.6g}")
    if not low <= found <= high:
        changed.append(what)


def tokens(dtype):
    return jax.vmap(lambda key: jax.random.categorical(key, jnp.zeros(vocabulary, dtype)))(keys)


def often(dtype, p):
    return float(jax.random.bernoulli(keys[0], jnp.asarray(p, dtype), (400_000,)).mean(dtype=jnp.float32))


def rare(dtype):
    drawn = jax.random.categorical(keys[0], jnp.asarray([0.0, -6.0, -7.0], dtype), shape=(400_000,))
    return float((drawn == 1).mean(dtype=jnp.float32))


expect("equal logits, float32, greatest of 300 tokens", float(tokens(jnp.float32).max()), 45_000, 50_000)
expect("equal logits, bfloat16, greatest of 300 tokens", float(tokens(jnp.bfloat16).max()), 0, 1_500)
expect("equal logits, bfloat16, their mean", float(tokens(jnp.bfloat16).mean()), 0, 300)
expect("equal logits, float16, greatest of 300 tokens", float(tokens(jnp.float16).max()), 0, 12_000)
expect("logits 0, -6, -7, float32, token 1 (softmax 0.00247)", rare(jnp.float32), 0.0022, 0.0027)
expect("logits 0, -6, -7, bfloat16, token 1", rare(jnp.bfloat16), 0.0012, 0.0019)
expect("bernoulli(0.001), float32", often(jnp.float32, 0.001), 0.0008, 0.0012)
expect("bernoulli(0.001), bfloat16", often(jnp.bfloat16, 0.001), 0.0074, 0.0082)
expect("bernoulli(0.99609375), bfloat16", often(jnp.bfloat16, 0.99609375), 1, 1)
if changed:
    sys.exit(f"changed: {changed}")
PY
JAX_PLATFORMS=cpu "$work/venv/bin/python" "$work/sample.py"
