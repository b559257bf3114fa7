"""Which mesh axis splits which dimension of a weight."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from jaxpref.experiment import MeshShape
from jaxpref.training.sharding import make_mesh, param_shardings


@pytest.mark.parametrize(
    ("shape", "logical", "expected"),
    [
        ((8, 16), ("vocab", "embed"), P("tensor", "fsdp")),
        ((6, 16), ("vocab", "embed"), P(None, "fsdp")),  # 4 does not divide 6: whole, on every device
        ((8, 3), ("heads", "embed"), P("tensor", None)),
        ((8, 8), ("heads", "mlp"), P("tensor", None)),  # an axis splits one dimension only
        ((8,), (None,), P(None)),
    ],
)
def test_a_dimension_is_split_where_its_axis_divides_it(shape, logical, expected):
    mesh = make_mesh(MeshShape(data=1, fsdp=2, tensor=4))
    array = jax.ShapeDtypeStruct(shape, jnp.float32)
    assert param_shardings({"w": array}, {"w": logical}, mesh)["w"].spec == expected
