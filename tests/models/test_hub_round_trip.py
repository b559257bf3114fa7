"""Folder -> params -> folder: the same tensors byte for byte, and a configuration of the same sizes."""

import json

import numpy as np
import pytest
from hub_folders import cases, folder, tensors

from jaxpref.models.hub import hf_end_ids, hf_sizes, hf_weights, write_folder
from jaxpref.models.hub.folder import open_folder


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        x, y = np.asarray(a[name]), np.asarray(b[name])
        assert (x.dtype, x.shape) == (y.dtype, y.shape), name
        assert x.tobytes() == y.tobytes(), name


@pytest.mark.parametrize("name", cases())
def test_round_trip(name, tmp_path):
    dtype, form = ("float32", "bfloat16", "float16")[len(name) % 3], 4 + len(name) % 2
    path = folder(name, tmp_path / "in", dtype=dtype, form=form)
    long = name.endswith("_long")
    sizes = hf_sizes(path, long_context=long)
    write_folder(hf_weights(path), sizes, tmp_path / "out", like=path)
    same(open_folder(tmp_path / "out"), tensors(name, dtype))
    assert hf_sizes(tmp_path / "out", long_context=long) == sizes
    assert hf_end_ids(tmp_path / "out") == (2,)


@pytest.mark.parametrize("name", cases())
def test_both_generations_say_the_same_and_so_does_each_half_of_what_is_written(name, tmp_path):
    long = name.endswith("_long")
    newer, older = (
        hf_sizes(folder(name, tmp_path / str(form), form=form), long_context=long) for form in (5, 4)
    )
    assert newer == older
    write_folder(hf_weights(tmp_path / "5"), newer, tmp_path / "out")  # without `like`
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    halves = (
        {"rope_parameters"},
        {"rope_theta", "rope_scaling", "partial_rotary_factor", "rotary_pct", "rotary_emb_base"}
        | {"rope_local_base_freq"},
    )
    for removed in halves:
        rest = {key: value for key, value in written.items() if key not in removed}
        (tmp_path / "out" / "config.json").write_text(json.dumps(rest))
        assert hf_sizes(tmp_path / "out", long_context=long) == newer
