"""The families that are read and written, one file each. Adding one: a file, a row here, a parity row."""

from jaxpref.models.hub.families.gemma import GEMMA
from jaxpref.models.hub.families.gemma2 import GEMMA2
from jaxpref.models.hub.families.gemma3 import GEMMA3
from jaxpref.models.hub.families.gpt2 import GPT2
from jaxpref.models.hub.families.gpt_neox import GPT_NEOX
from jaxpref.models.hub.families.llama import LLAMA
from jaxpref.models.hub.families.mistral import MISTRAL
from jaxpref.models.hub.families.olmo2 import OLMO2
from jaxpref.models.hub.families.phi3 import PHI3
from jaxpref.models.hub.families.qwen2 import QWEN2
from jaxpref.models.hub.families.qwen3 import QWEN3
from jaxpref.models.hub.families.smollm3 import SMOLLM3
from jaxpref.models.hub.family import Family

__all__ = ["FAMILIES"]

# The first one that can hold a model is the one that it is written as, where none is asked for.
FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        LLAMA,
        MISTRAL,
        QWEN2,
        QWEN3,
        GEMMA,
        GEMMA2,
        GEMMA3,
        SMOLLM3,
        OLMO2,
        PHI3,
        GPT_NEOX,
        GPT2,
    )
}
