"""The pass over held-out records is a mean over all of them."""

import jax.numpy as jnp
import pytest

from jaxpref.data.loader import Loader
from jaxpref.data.text.synthetic import arithmetic_pairs
from jaxpref.experiment import MeshShape
from jaxpref.metrics import weighted_mean
from jaxpref.training.evaluation import held_out_pass
from jaxpref.training.sharding import make_mesh


def test_every_row_counts_once_and_padding_never():
    records = arithmetic_pairs(num_examples=21, part="held_out")
    loader = Loader(records, batch_size=8, seed=0, shuffle=False)

    def evaluate(state, batch, step, index):
        lengths = batch.lengths[:, 0].astype(jnp.float32)
        return {
            "length": weighted_mean(lengths, batch.valid),
            "batch": weighted_mean(jnp.full(8, index), batch.valid),
            "step": weighted_mean(jnp.full(8, step), batch.valid),
        }

    found = held_out_pass(evaluate, None, loader, make_mesh(MeshShape(data=8)), 30)
    assert found["length"] == pytest.approx(records.response_lengths[:, 0].mean())
    assert found["batch"] == pytest.approx((8 * 0 + 8 * 1 + 5 * 2) / 21)
    assert found["step"] == 30
    assert found["num_rows"] == 21
