"""What every exported loss is, where it comes from, and the evidence that it is right: one entry each.

The conformance battery (`tests/losses`) runs over these entries, `jaxpref methods` prints them, and the
tables of the READMEs are made from them, so none of the three can drift from the others.
"""

from jaxpref.methods.adaptive import ADAPTIVE
from jaxpref.methods.annotated import ANNOTATED
from jaxpref.methods.base import Method
from jaxpref.methods.batchwise import BATCHWISE
from jaxpref.methods.guidance import GUIDANCE
from jaxpref.methods.inverse import INVERSE
from jaxpref.methods.listwise import LISTWISE
from jaxpref.methods.multimodal import MULTIMODAL
from jaxpref.methods.online import ONLINE
from jaxpref.methods.pairwise import PAIRWISE
from jaxpref.methods.rewards import REWARDS
from jaxpref.methods.segments import SEGMENTS
from jaxpref.methods.tokens import TOKENS
from jaxpref.methods.unpaired import UNPAIRED

__all__ = ["FAMILIES", "METHODS", "Method"]

FAMILIES: dict[str, tuple[Method, ...]] = {
    "Pairs": PAIRWISE,
    "Pairs with annotations": ANNOTATED,
    "Pairs of a whole batch": BATCHWISE,
    "Pairs and samples with carried state": ADAPTIVE,
    "Labelled responses": UNPAIRED,
    "Lists": LISTWISE,
    "Tokens and features": TOKENS,
    "Guidance by tokens and steps": GUIDANCE,
    "Samples": ONLINE,
    "Segments of behaviour": SEGMENTS,
    "Vision and language": MULTIMODAL,
    "Reward and preference models": REWARDS,
    "Inverse reinforcement learning": INVERSE,
}

METHODS: tuple[Method, ...] = tuple(method for family in FAMILIES.values() for method in family)
