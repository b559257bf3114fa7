"""What every exported loss is, where it comes from, and the evidence that it is right: one row each.

The conformance battery (`tests/losses`) runs over these rows, `jaxpref methods` prints them, and the tables
of the READMEs are made from them, so none of the three can drift from the others.
"""

from jaxpref.methods.base import Method
from jaxpref.methods.listwise import LISTWISE
from jaxpref.methods.pairwise import PAIRWISE
from jaxpref.methods.rewards import REWARDS
from jaxpref.methods.unpaired import UNPAIRED

__all__ = ["METHODS", "Method"]

METHODS: tuple[Method, ...] = (*PAIRWISE, *UNPAIRED, *LISTWISE, *REWARDS)
