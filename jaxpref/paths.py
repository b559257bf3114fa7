"""Where runs and records lie: folders of this machine, or of an object store through `etils.epath`.

A folder of this machine is a `pathlib.Path`; anything with a scheme (`gs://bucket/run`) is an `epath.Path`.
An object store has no append, no rename and no memory-mapping: an object is written whole, and seen once it
is complete.
"""

import importlib.util
import os
import pathlib
import re
import uuid

from etils import epath

__all__ = ["AnyPath", "absolute", "as_folder", "as_path", "reachable", "read_text", "write_whole"]

AnyPath = pathlib.Path | epath.Path

# What fsspec needs for each scheme that etils knows by itself.
_PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs", "hf": "huggingface_hub"}


def as_path(given: str | os.PathLike[str]) -> AnyPath:
    """The path that `given` names.

    Raises:
      ValueError: its scheme is not known to `etils.epath`, or needs a package that is not installed.
    """
    if isinstance(given, str) and "://" in given:
        _check_scheme(given)
        try:
            return epath.Path(given)
        except KeyError:
            known = ", ".join(f"{scheme}://" for scheme in _PACKAGES)
            raise ValueError(
                f"{given}: no file system is known for this scheme; give a folder, one of {known}, or "
                "register a class for it with etils.epath.register_path_cls"
            ) from None
    if isinstance(given, epath.Path) and type(given) is not type(epath.Path()):
        return given  # of a class that was registered for a scheme
    text = os.fspath(given)
    if "://" in text:
        return as_path(text)
    if re.match(r"[a-z][a-z0-9+.-]+:/[^/]", text):
        raise ValueError(f"{text}: pathlib takes one slash out of a URL; give the string itself")
    return pathlib.Path(text)


def as_folder(given: str | os.PathLike[str], option: str) -> AnyPath:
    """The path of a folder, there already or not; `option`: what it was given as, such as "workdir".

    Raises:
      ValueError: it is empty, a file or below one, or `as_path` does not know it.
    """
    text = os.fspath(given)
    if not text.strip():
        raise ValueError(f"{option}= names no folder; give one, such as {option}=runs/first")
    path = as_path(given)
    if isinstance(path, pathlib.Path):
        for place in (path, *path.parents):
            if os.path.lexists(place) and not place.is_dir():
                raise ValueError(f"{option}={text}: {place} is a file; give the name of a folder")
    return path


def _check_scheme(url: str) -> None:
    scheme = url.partition("://")[0]
    package = _PACKAGES.get(scheme)
    if package is None:
        return
    # Where TensorFlow is installed etils reads through it, unless this variable says no.
    wanted = os.environ.get("EPATH_USE_TF", "").lower() not in ("false", "no", "f", "0")
    if wanted and importlib.util.find_spec("tensorflow") is not None:
        if scheme != "gs":
            raise ValueError(
                f"{url}: etils.epath reads through TensorFlow where that is installed, and TensorFlow knows "
                f"no {scheme}://; set EPATH_USE_TF=false (and pip install {package})"
            )
    elif importlib.util.find_spec(package) is None:
        raise ValueError(f"{url}: {scheme}:// needs a package that is not installed; pip install {package}")


def reachable(path: AnyPath) -> AnyPath:
    """The path itself, once its store has answered.

    Raises:
      ValueError: it does not: no credentials, no permission, no network.
    """
    try:
        path.exists()
    except Exception as error:  # each store has exceptions of its own
        raise ValueError(f"{path} cannot be reached: {type(error).__name__}: {error}") from error
    return path


def absolute(path: AnyPath) -> AnyPath:
    """The same place whatever the working directory. (etils' own takes `gs://b` for a relative path.)"""
    return path.resolve() if isinstance(path, pathlib.Path) else path


def read_text(path: AnyPath) -> str:
    """UTF-8; bytes that are not are shown as such and hide no other."""
    return path.read_bytes().decode("utf-8", "replace")


def write_whole(path: AnyPath, content: str | bytes) -> None:
    """Writes a file so that a reader, or a full disk, never sees half of it.

    Raises:
      OSError: it could not be written, whatever the store itself raises.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    if not isinstance(path, pathlib.Path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)  # of a store that has folders
            path.write_bytes(data)
        except Exception as error:  # each store has exceptions of its own
            raise OSError(f"{type(error).__name__}: {error}") from error
        return
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
