"""Where prepared data is kept between runs, and how it is made once."""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from jaxpref.data.records import Records
from jaxpref.data.records_io import MANIFEST, load_records, read_manifest
from jaxpref.data.segments import SegmentRecords
from jaxpref.functions import code_of, name_of

__all__ = ["cache_root", "cached_records", "cached_segments", "only_one"]


def cache_root() -> Path:
    """`$JAXPREF_CACHE`, or `~/.cache/jaxpref`."""
    return Path(os.environ.get("JAXPREF_CACHE") or Path.home() / ".cache" / "jaxpref")


def cached_records(kind: str, fingerprint: str, make: Callable[[Path], None]) -> Records:
    """Loads the records of a fingerprint, after `make(directory)` has written them if they are not there yet.

    Processes of one machine that want the same records wait for the one that makes them. Raises ValueError
    where the directory holds something made from other arguments.
    """
    directory = cache_root() / "records" / f"{kind}-{fingerprint[:20]}"
    if not (directory / MANIFEST).is_file():
        with only_one(directory.with_suffix(".lock")):
            if not (directory / MANIFEST).is_file():
                make(directory)
    stored = read_manifest(directory).get("fingerprint")
    if stored != fingerprint:
        raise ValueError(
            f"records: {directory} was made from other arguments (fingerprint {str(stored)[:12]}..., "
            f"expected {fingerprint[:12]}...); remove that directory and run again"
        )
    return load_records(directory)


def cached_segments(
    kind: str, make: Callable[[], SegmentRecords], *, versions: Mapping[str, str]
) -> SegmentRecords:
    """Loads segments that take long to collect, after `make()` has collected them if they are not there yet.

    What they depend on is in their file's name: the arguments of `make`, its code and that of what it calls
    outside of this package, and `versions`. Processes of one machine wait for the one that collects them.

    Args:
      make: a module-level function, or a partial of one with plain keywords.
      versions: of what `make` runs and nobody sees in its code: packages, and rules of this one
        (`environments.metaworld.COLLECTOR`).
    """
    given = make.keywords if isinstance(make, functools.partial) else {}
    parts = [name_of(make), given, code_of(make), dict(versions)]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
    path = cache_root() / "segments" / f"{kind}-{key}.npz"
    with only_one(path.with_suffix(".lock")):
        if not path.is_file():
            make().save(path)
    return SegmentRecords.load(path)


@contextlib.contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """Processes of one machine that name the same file go through one after the other."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "w") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        except ImportError:  # no such call on Windows: two processes would each prepare, and one would win
            pass
        yield
