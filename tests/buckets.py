"""An object store for tests, `mem://`: a local folder that refuses what such a store does not have."""

import os
import pathlib
import sys
from typing import Any, ClassVar

from etils import epath

__all__ = ["Bucket"]

_Posix = type(epath.Path())


@epath.register_path_cls("mem://")
class Bucket(_Posix):  # pyright: ignore
    """Objects are written whole and replaced whole: no append, no rename. Orbax, which knows by itself what a
    store can do, is given a path of this machine (`as_posix`), and may rename its checkpoints."""

    folder: ClassVar[pathlib.Path]  # where the objects are

    if sys.version_info < (3, 12):

        def __new__(cls, *parts: Any) -> "Bucket":
            return super().__new__(cls, *map(cls._mapped, parts))

    else:

        def __init__(self, *parts: Any) -> None:
            super().__init__(*map(self._mapped, parts))

    @classmethod
    def _mapped(cls, part: Any) -> str:
        text = os.fspath(part)
        return f"{cls.folder}/{text.removeprefix('mem://')}" if text.startswith("mem://") else text

    def __str__(self) -> str:
        return f"mem://{pathlib.PurePosixPath(os.fspath(self)).relative_to(self.folder)}"

    def as_posix(self) -> str:
        return os.fspath(self)

    def open(self, mode: str = "r", **keywords: Any) -> Any:
        if "a" in mode or "+" in mode:
            raise NotImplementedError(f"{self}: an object store has no append")
        return super().open(mode, **keywords)

    def rename(self, target: Any) -> Any:
        self._only_checkpoints()
        return super().rename(target)

    def replace(self, target: Any) -> Any:
        self._only_checkpoints()
        return super().replace(target)

    def _only_checkpoints(self) -> None:
        if "checkpoints" not in self.parts:
            raise NotImplementedError(f"{self}: an object store has no rename")
