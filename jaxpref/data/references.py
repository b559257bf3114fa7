"""Reference log-probs of records, with what they are of: the params and the rows that they were made from.

A folder of records holds them for each stage that reads it (`jaxpref prepare --reference`), since stages that
learn from the same data start from different params. The column `reference_logps` of a table is that of one
stage, and `metadata["reference_logps"]` says what made it.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxpref.data.content import content_of, same_rows
from jaxpref.data.records import Records

__all__ = ["NAME", "given_reference", "reference_of", "with_reference"]

NAME = "reference_logps"
_ALL = "references"  # metadata: by stage, what made its column


def with_reference(records: Records, stage: str, logps: np.ndarray, made_by: Mapping[str, Any]) -> Records:
    """`records` with the log-probs (float32 [n, k], nats) of the params that `stage` starts from.

    Args:
      made_by: what tells those params from others, plain values (`training.references`).
    """
    made = records.with_column(f"{NAME}.{stage}", logps, axes="b k")
    given = {**records.metadata.get(_ALL, {}), stage: {**made_by, "data": content_of(records, columns=False)}}
    return dataclasses.replace(made, metadata=MappingProxyType({**made.metadata, _ALL: given}))


def given_reference(records: Records, logps: np.ndarray, *, of: str) -> Records:
    """`records` with log-probs (float32 [n, k], nats) of a model that is not what the stage starts from.

    `of` says which, in words: it is logged, and no run can compare it with anything.
    """
    made = records.with_column(NAME, logps)
    return dataclasses.replace(made, metadata=MappingProxyType({**made.metadata, NAME: {"given": of}}))


def reference_of(records: Records, stage: str | None) -> Records:
    """The table as a stage reads it: its reference as the column `reference_logps`, without those of
    other stages.

    Raises:
      ValueError: the column was made for other rows than those it lies beside.
    """
    given = records.metadata.get(_ALL, {})
    columns = {n: v for n, v in records.columns.items() if not n.startswith(f"{NAME}.")}
    metadata = {name: value for name, value in records.metadata.items() if name != _ALL}
    axes = {n: a for n, a in metadata.get("column_axes", {}).items() if n in columns}
    metadata.pop("column_axes", None)
    metadata |= {"column_axes": axes} if axes else {}
    if stage in given:
        if given[stage].get("data") != content_of(records, columns=False):
            raise ValueError(
                f"records: {NAME} of stage {stage} were made for other rows than those beside them; "
                "make the folder again with `jaxpref prepare FILE records=DIR --reference` and the same "
                "reference=batch"
            )
        columns[NAME] = records.columns[f"{NAME}.{stage}"]
        metadata[NAME] = given[stage]
    read = dataclasses.replace(
        records, columns=MappingProxyType(columns), metadata=MappingProxyType(metadata)
    )
    return same_rows(records, read)
