"""Model folders of every family, a few thousand weights each: the cases of third_party/transformers.

The weights are drawn as `family_logits.py` there draws them, by the CRC-32 of their names.
"""

import functools
import json
import pathlib
import zlib

import ml_dtypes
import numpy as np

from jaxpref.models.hub.writing import write_tensors

ORACLE = pathlib.Path(__file__).resolve().parents[1] / "third_party" / "transformers"
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


@functools.cache
def oracle():
    return json.loads((ORACLE / "family_logits.json").read_text())


def cases():
    return oracle()["cases"]


def drawn(name, shape):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    values = rng.normal(size=shape).astype(np.float32)
    if "norm" in name.split(".")[-2] or name.split(".")[-2].startswith("ln_"):
        return np.float32(name.endswith("weight")) + np.float32(0.3) * values
    scale = shape[-1] ** -0.5 if len(shape) == 2 else 0.2
    return np.float32(scale) * values


def tensors(name, dtype="float32"):
    return {n: drawn(n, shape).astype(DTYPES[dtype]) for n, shape in cases()[name]["tensors"].items()}


def folder(name, path, *, dtype="float32", form=5, config=None, weights=None):
    """Writes the case's folder at `path`; `config` are fields to change, None to remove; returns `path`."""
    path.mkdir(parents=True, exist_ok=True)
    fields = dict(cases()[name]["config" if form == 5 else "config_4"])
    for key, value in (config or {}).items():
        fields.pop(key, None) if value is None else fields.__setitem__(key, value)
    (path / "config.json").write_text(json.dumps(fields))
    write_tensors(path, (tensors(name, dtype) if weights is None else weights).items())
    return path
