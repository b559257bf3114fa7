"""Imports TensorFlow, SeqIO and TFDS when they are needed, and keeps them off the accelerator."""

import os
from types import ModuleType
from typing import NamedTuple

__all__ = ["Stack", "tensorflow_stack"]


class Stack(NamedTuple):
    tf: ModuleType
    seqio: ModuleType
    tfds: ModuleType


def tensorflow_stack() -> Stack:
    """Imports the three; raises ImportError with the remedy where one is missing."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # its start-up lines bury our own output
    try:
        import seqio
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"making records of this data set needs TensorFlow, SeqIO and TFDS, and {error.name} is not "
            "installed: pip install seqio tensorflow-datasets, or prepare the records on another machine "
            "(`jaxpref prepare`) and load them here, which needs neither"
        ) from error
    # TensorFlow would otherwise take all the memory of a GPU that JAX is to train on.
    tf.config.set_visible_devices([], "GPU")
    return Stack(tf, seqio, tfds)
