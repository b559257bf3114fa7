"""Model folders of the hub: safetensors files, their configuration, and the way back."""

from jaxpref.models.hub.config import hf_end_ids, hf_outputs, hf_sizes
from jaxpref.models.hub.export import write_folder
from jaxpref.models.hub.peft import peft_adapter, peft_weights
from jaxpref.models.hub.peft_writing import write_adapter
from jaxpref.models.hub.weights import hf_weights

__all__ = [
    "hf_end_ids",
    "hf_outputs",
    "hf_sizes",
    "hf_weights",
    "peft_adapter",
    "peft_weights",
    "write_adapter",
    "write_folder",
]
