"""Adapters folded into the weights below them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpref.models.lora import LoRA
from jaxpref.types import Params

__all__ = ["merged"]


def merged(params: Params, lora: LoRA) -> Params:
    """Params of the plain model that equals the one with these adapters: `weight + scale * a @ b`.

    The sum is float32 (float64 for such arrays) and then rounded to the dtype of the weight: a bfloat16 model
    loses what of the adapters is below 2^-9 of a weight. Products are of the highest precision on all devices
    (not TF32, not bfloat16), since what is written keeps their errors. Host arrays stay on the host.
    """
    return {**params, "blocks": _merged(params["blocks"], lora)}


def _merged(tree: Params, lora: LoRA, path: tuple[str, ...] = ()) -> Params:
    if not isinstance(tree, Mapping):
        return tree
    if "lora_a" not in tree:
        return {name: _merged(value, lora, (*path, name)) for name, value in tree.items()}
    rest = {name: value for name, value in tree.items() if not name.startswith("lora_")}
    weight = rest["weight"] if isinstance(rest["weight"], jax.Array) else np.asarray(rest["weight"])
    wide = jnp.promote_types(weight.dtype, jnp.float32)
    a, b = (tree[name].astype(wide) for name in ("lora_a", "lora_b"))
    changed = weight.astype(wide) + lora.scale_of(".".join(path)) * _product(a, b)
    return rest | {"weight": changed.astype(weight.dtype)}


def _product(a: Any, b: Any) -> Any:
    on_device = isinstance(a, jax.Array) or isinstance(b, jax.Array)
    return jnp.matmul(a, b, precision="highest") if on_device else a @ b
