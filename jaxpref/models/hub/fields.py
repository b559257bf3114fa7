"""A configuration read field by field, so that one that nobody reads is noticed."""

import logging
from collections.abc import Sequence
from typing import Any

__all__ = ["Fields"]

_log = logging.getLogger("jaxpref.models")
_NOT_THERE = object()

# Fields that say nothing about what a causal language model computes from ids: whatever they hold is fine.
_WITHOUT_EFFECT = {
    # who made the file and how it is loaded
    "_name_or_path",
    "architectures",
    "model_type",
    "transformers_version",
    "torch_dtype",
    "dtype",
    "auto_map",
    "tokenizer_class",
    "transformers.js_config",
    "_commit_hash",
    "unsloth_version",
    "unsloth_fixed",
    "is_llama_config",
    # training
    "initializer_range",
    "attention_dropout",
    "hidden_dropout",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "classifier_dropout",
    "gradient_checkpointing",
    "pretraining_tp",
    "tf_legacy_loss",
    # how it is run, to rounding
    "use_cache",
    "use_bfloat16",
    "torchscript",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "attn_implementation",
    "_flash_attn_2_enabled",
    "reorder_and_upcast_attn",
    "chunk_size_feed_forward",
    "cache_implementation",
    "max_position_embeddings",
    # ids and generation: `hf_end_ids` reads the one that matters
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "sep_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "max_length",
    "min_length",
    "num_beams",
    "num_beam_groups",
    "num_return_sequences",
    "diversity_penalty",
    "early_stopping",
    "length_penalty",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "begin_suppress_tokens",
    "suppress_tokens",
    "exponential_decay_length_penalty",
    "remove_invalid_values",
    "return_dict_in_generate",
    "prefix",
    # other tasks
    "task_specific_params",
    "problem_type",
    "finetuning_task",
    "id2label",
    "label2id",
    "num_labels",
    "cross_attention_hidden_size",
    "summary_type",
    "summary_use_proj",
    "summary_activation",
    "summary_proj_to_labels",
    "summary_first_dropout",
}
# Fields of every model that switch to another computation, and what they hold where they do not.
_SWITCHES = {"is_encoder_decoder": False, "add_cross_attention": False, "tie_encoder_decoder": False}
_QUANTISED = ("quantization_config", "compression_config")


class Fields:
    """The fields of a configuration: `take` and `must` read one; `finish` refuses those that are left."""

    def __init__(self, values: dict[str, Any], where: str, ignore: Sequence[str] = ()) -> None:
        self._values, self.where = values, where
        self._read = set(ignore)

    def __contains__(self, name: str) -> bool:
        """Whether the field is there and says something: null does not."""
        return self._values.get(name) is not None

    def take(self, name: str, default: Any = _NOT_THERE) -> Any:
        """The field; null counts as absent. Raises ValueError where it is absent and has no `default`."""
        self._read.add(name)
        value = self._values.get(name)
        if value is not None:
            return value
        if default is _NOT_THERE:
            raise ValueError(f"{self.where}: the field {name} is missing; fetch the file again")
        return default

    def number(self, name: str, default: Any = _NOT_THERE) -> Any:
        """`take` of a number that is no bool."""
        value = self.take(name, default)
        if value is not default and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"{self.where}: {name}: expected a number, got {value!r}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """`take` of true or false."""
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise ValueError(f"{self.where}: {name}: expected true or false, got {value!r}")
        return value

    def nullable(self, name: str, default: Any) -> Any:
        """A number, or None where null says that there is none; absent is `default`."""
        return self.number(name, None if name in self._values else default)

    def must(self, name: str, *allowed: Any) -> None:
        """Raises ValueError unless the field is absent or holds one of `allowed`."""
        value = self.take(name, allowed[0])
        if not any(type(value) is type(one) and value == one for one in allowed):
            wanted = " or ".join(map(repr, allowed))
            raise ValueError(
                f"{self.where}: {name}={_short(value)} is not implemented, only {wanted}; it changes what "
                "the model computes"
            )

    def agreed(self, names: Sequence[str], default: Any = None) -> Any:
        """The one value of fields that mean the same. Raises ValueError where two of them differ."""
        given = {name: self.number(name) for name in names if name in self}
        self._read.update(names)
        if len(set(given.values())) > 1:
            raise ValueError(f"{self.where}: {given} contradict each other; correct the file")
        return next(iter(given.values()), default)

    def choice(self, name: str, table: dict[str, str], default: Any = _NOT_THERE) -> str:
        """What `table` has for the field; ValueError where it has nothing."""
        value = self.take(name, default)
        if value not in table:
            raise ValueError(
                f"{self.where}: {name}={_short(value)} is not implemented, only {', '.join(sorted(table))}"
            )
        return table[value]

    def say(self, text: str) -> None:
        """A line for whoever reads the log."""
        _log.warning("%s: %s", self.where, text)

    def finish(self) -> None:
        """Raises ValueError where a field is left that nobody read and that may change the computation."""
        for name, value in _SWITCHES.items():
            self.must(name, value)
        for name in _QUANTISED:
            if name in self and name not in self._read:
                raise ValueError(
                    f"{self.where}: {name}: quantised weights are not read; take the folder of the model "
                    "that it was made of"
                )
        left = sorted(
            name
            for name, value in self._values.items()
            if name not in self._read | _WITHOUT_EFFECT and value is not None and value != {}
        )
        if left:
            shown = ", ".join(f"{name}={_short(self._values[name])}" for name in left)
            raise ValueError(
                f"{self.where}: {shown}: not known for a {self._values.get('model_type')} here, and it may "
                f"change what the model computes. If you know that it does not: ignore={tuple(left)}"
            )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
