"""What every exported loss is, where it comes from, and the evidence that it is right: one row each.

The conformance battery (`tests/losses`) runs over these rows, `jaxpref methods` prints them, and the tables
of the READMEs are made from them, so none of the three can drift from the others.
"""

from jaxpref.methods.adaptive import ADAPTIVE
from jaxpref.methods.annotated import ANNOTATED
from jaxpref.methods.base import Method
from jaxpref.methods.batchwise import BATCHWISE
from jaxpref.methods.pairwise import PAIRWISE
from jaxpref.methods.rewards import REWARDS

__all__ = ["METHODS", "Method"]

METHODS: tuple[Method, ...] = (*PAIRWISE, *ANNOTATED, *BATCHWISE, *ADAPTIVE, *REWARDS)
