"""`jaxpref bench load`, on a folder of a few hundred KiB: who reads what."""

import jax
import numpy as np

from jaxpref.benchmarks import load
from jaxpref.models.hub import hf_weights


def test_a_process_reads_its_shards_and_says_so(tmp_path):
    sizes = load.write_noise(tmp_path / "model", 0.0005)
    weights = hf_weights(tmp_path / "model")
    total = sum(x.nbytes for x in jax.tree.leaves(weights))
    assert sizes.layers > 1
    assert all(np.isfinite(np.asarray(x, np.float32)).all() for x in jax.tree.leaves(weights))
    found = load.load(str(tmp_path / "model"))
    # Eight devices of one process: a shard each of what divides, all of the rest.
    assert total / 8 <= found["shard_bytes"] < total / 4
    assert found["asked_bytes"] == found["fingerprint_asked_bytes"] == total
    figures = {
        "bytes": total,
        "largest_tensor_bytes": 2**20,
        "cores": 2,
        "load_average": 1.0,
        "cold": True,
        "disk_bytes_per_second": 2.0**20,
        "processes": {"1": load._summary([[found]], [2.0**20], total)},
    }
    share = total / found["again_seconds"] / 2**20
    assert f"{share:8.0%}" in load.table(figures)
