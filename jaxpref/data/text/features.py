"""The SeqIO converter from task features to padded model features. Imports TensorFlow and SeqIO."""

from collections.abc import Mapping
from typing import Any, ClassVar

import seqio
import tensorflow as tf

__all__ = ["PreferenceFeatureConverter", "task_features", "task_lengths"]

_Spec = seqio.FeatureConverter.FeatureSpec
_Specs = Mapping[str, Any]  # of FeatureSpec


def task_features(vocab_size: int) -> dict[str, Any]:
    """The `seqio.Feature`s of a preference task, all ragged and of rank 1:

    prompt_tokens     int32 [p]
    response_tokens   int32 [r_1 + ... + r_k], the responses one after the other, EOS included
    response_lengths  int32 [k]
    full_lengths      int32 [k], tokens of each response before it was cut
    unscored          int32 [k], leading response tokens that are not scored
    group             int64 [1]
    """
    tokens = seqio.Feature(seqio.PassThroughVocabulary(vocab_size), add_eos=False)
    numbers = seqio.Feature(seqio.PassThroughVocabulary(1), add_eos=False)
    return {
        "prompt_tokens": tokens,
        "response_tokens": tokens,
        "response_lengths": numbers,
        "full_lengths": numbers,
        "unscored": numbers,
        "group": seqio.Feature(seqio.PassThroughVocabulary(1), add_eos=False, dtype=tf.int64),
    }


def task_lengths(*, prompt_length: int, response_length: int, k: int = 2) -> dict[str, int]:
    """The `task_feature_lengths` of `seqio.get_dataset` for this budget; nothing is cut at these lengths."""
    return {
        "prompt_tokens": prompt_length,
        "response_tokens": k * response_length,
        "response_lengths": k,
        "full_lengths": k,
        "unscored": k,
        "group": 1,
    }


class PreferenceFeatureConverter(seqio.FeatureConverter):
    """Converts to the fields of `jaxpref.types.Completions`, right-padded to the budget.

    prompt_tokens int32 [p], prompt_mask bool [p], response_tokens int32 [k, r], response_mask bool [k, r],
    response_lengths and full_lengths int32 [k], group int64 [1]. Masks come from lengths, never from a
    padding id."""

    TASK_FEATURES: ClassVar[_Specs] = {
        "prompt_tokens": _Spec(dtype=tf.int32),
        "response_tokens": _Spec(dtype=tf.int32),
        "response_lengths": _Spec(dtype=tf.int32),
        "full_lengths": _Spec(dtype=tf.int32),
        "unscored": _Spec(dtype=tf.int32),
        "group": _Spec(dtype=tf.int64),
    }
    MODEL_FEATURES: ClassVar[_Specs] = {
        "prompt_tokens": _Spec(dtype=tf.int32),
        "prompt_mask": _Spec(dtype=tf.bool),
        "response_tokens": _Spec(dtype=tf.int32, rank=2, sequence_dim=1),
        "response_mask": _Spec(dtype=tf.bool, rank=2, sequence_dim=1),
        "response_lengths": _Spec(dtype=tf.int32),
        "full_lengths": _Spec(dtype=tf.int32),
        "group": _Spec(dtype=tf.int64),
    }
    PACKING_FEATURE_DTYPES: ClassVar[Mapping[str, tf.dtypes.DType]] = {}

    def __init__(self, *, pad_id: int = 0):
        super().__init__(pack=False)
        self._pad_id = pad_id

    def _convert_features(
        self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
    ) -> tf.data.Dataset:
        lengths = self.get_model_feature_lengths(task_feature_lengths)
        p, k, r = lengths["prompt_tokens"], lengths["response_lengths"], lengths["response_tokens"]

        def convert(example: dict[str, Any]) -> dict[str, Any]:
            prompt, response_lengths = example["prompt_tokens"], example["response_lengths"]
            responses = tf.RaggedTensor.from_row_lengths(  # pyright: ignore[reportAttributeAccessIssue]
                example["response_tokens"], response_lengths
            )
            at = tf.range(r)[None]
            features = {
                "prompt_tokens": tf.pad(prompt, [[0, p - tf.size(prompt)]], constant_values=self._pad_id),
                "prompt_mask": tf.range(p) < tf.size(prompt),
                "response_tokens": responses.to_tensor(self._pad_id, shape=[k, r]),
                "response_mask": (at < response_lengths[:, None]) & (at >= example["unscored"][:, None]),
                "response_lengths": response_lengths,
                "full_lengths": example["full_lengths"],
                "group": example["group"],
            }
            for name, shape in (("prompt_tokens", [p]), ("prompt_mask", [p]), ("response_mask", [k, r])):
                features[name] = tf.ensure_shape(features[name], shape)
            return features

        return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> Mapping[str, int]:
        p, k = task_feature_lengths["prompt_tokens"], task_feature_lengths["response_lengths"]
        r = task_feature_lengths["response_tokens"] // k
        return {
            "prompt_tokens": p,
            "prompt_mask": p,
            "response_tokens": r,
            "response_mask": r,
            "response_lengths": k,
            "full_lengths": k,
            "group": 1,
        }
