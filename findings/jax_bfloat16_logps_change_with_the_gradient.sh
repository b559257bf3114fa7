#!/usr/bin/env bash
# In bfloat16, a compiled log-prob is another number when the same program also returns its gradient.
#
# Expected: jit(logps)(params) and the value of jit(vjp of logps)(params) are equal, or differ by the order of sums: DPO's
#   reference is computed the first way, its policy the second, and at equal weights the loss is log 2.
# Seen (jax 0.10.2, CPU): summed log-probs of 15 tokens differ by tenths of a nat, since XLA drops roundings to bfloat16
#   between operations, and other ones where values are kept for the gradient. With the compiler option
#   xla_allow_excess_precision=False they are equal where one elementwise operation (ReLU, tanh) lies between two
#   matrix products; where there are two (x * tanh(x), as in SiLU and GELU) they still differ. Elementwise parts that
#   are computed in float32, with one cast at their end, are equal with the option and differ without it.
# What helps: that option for every program whose log-probs are compared, and float32 between matrix products.
#
# Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "jax==0.10.2" 2>/dev/null

cat >"$work/logps.py" <<'PY'
import sys

import jax
import jax.numpy as jnp
import numpy as np

low = jnp.bfloat16
keys = jax.random.split(jax.random.key(0), 4)
vocab, width = 64, 32
params = {
    "embed": jax.random.normal(keys[0], (vocab, width), low),
    "up": jax.random.normal(keys[1], (2, width, 4 * width), low) * width**-0.5,
    "down": jax.random.normal(keys[2], (2, 4 * width, width), low) * (4 * width) ** -0.5,
}
tokens = jax.random.randint(keys[3], (8, 2, 16), 0, vocab)


def logps(params, act):
    x = params["embed"][tokens[..., :-1]]
    for i in range(2):
        x = x + act(x @ params["up"][i]) @ params["down"][i]
    logits = jnp.einsum("...d,vd->...v", x, params["embed"], preferred_element_type=jnp.float32)
    return jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., 1:, None], -1)[..., 0].sum(-1)


def difference(act, allowed):
    def with_gradient(params):
        value, pull = jax.vjp(lambda p: logps(p, act), params)
        return value, pull(jnp.ones_like(value))

    options = {"xla_allow_excess_precision": allowed}
    alone = jax.jit(lambda p: logps(p, act), compiler_options=options)(params)
    beside, _ = jax.jit(with_gradient, compiler_options=options)(params)
    return float(np.abs(alone - beside).max())


acts = {
    "relu": (jax.nn.relu, True),
    "tanh": (jnp.tanh, True),
    "x * tanh(x)": (lambda x: x * jnp.tanh(x), False),
    "silu": (jax.nn.silu, False),
    "silu in float32": (lambda x: jax.nn.silu(x.astype(jnp.float32)).astype(low), True),
}
for name, (act, mended) in acts.items():
    free, strict = (difference(act, allowed) for allowed in (True, False))
    print(f"jax {jax.__version__}, {name}: {free:.3f} nats; without excess precision {strict:.3f}")
    if free < 0.05 or (strict == 0) != mended:
        sys.exit("changed")
PY
JAX_PLATFORMS=cpu "$work/venv/bin/python" "$work/logps.py"
