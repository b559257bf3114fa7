"""Where compiled programs are kept between runs, and how much of it."""

import os
import pathlib

import jax
import pytest
from launch import environment

from jaxpref.training import programs


@pytest.fixture
def config(monkeypatch, tmp_path):
    """jax's settings as in a fresh process; those of before come back."""
    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_enable_compilation_cache",
    )
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.setenv("JAXPREF_CACHE", str(tmp_path))
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", True)
    yield jax.config
    for name, value in before.items():
        jax.config.update(name, value)


def entry(folder: pathlib.Path, name: str, size: int, used: float) -> pathlib.Path:
    file = folder / f"jit_{name}-cache"
    file.write_bytes(b"x" * size)
    os.utime(file, (used, used))
    return file


def test_by_default_in_the_users_folder_and_said_so(config, tmp_path):
    programs.keep_programs()
    folder = pathlib.Path(config.jax_compilation_cache_dir)
    assert folder.parent == tmp_path / "xla"
    assert config.jax_persistent_cache_min_compile_time_secs == programs.SHORTEST
    entry(folder, "a", 3_000_000, 1.0)
    entry(folder, "b", 1_000_000, 1.0)
    said = f"compile cache: {folder}, 4 MB, 2 programs; JAXPREF_COMPILE_CACHE=off switches it off"
    assert programs.described() == said


def test_whoever_says_otherwise_is_heard(config, tmp_path, monkeypatch):
    config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    programs.keep_programs()
    assert config.jax_compilation_cache_dir == str(tmp_path / "own")
    assert not (tmp_path / "xla").exists()
    monkeypatch.setenv("JAXPREF_COMPILE_CACHE", "off")
    programs.keep_programs()
    assert not config.jax_enable_compilation_cache
    assert programs.described().startswith("compile cache: none")
    monkeypatch.setenv("JAXPREF_COMPILE_CACHE", "no")
    with pytest.raises(ValueError, match="JAXPREF_COMPILE_CACHE=no: expected off, or nothing"):
        programs.keep_programs()


def test_a_home_that_cannot_be_written_to_keeps_nothing(config, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXPREF_CACHE", str(tmp_path / "file"))
    programs.keep_programs()
    assert config.jax_compilation_cache_dir is None


def test_what_was_used_longest_ago_goes_first(tmp_path):
    old, middle, new = (
        entry(tmp_path, name, 40, used) for name, used in (("a", 1e9), ("b", 2e9), ("c", 3e9))
    )
    programs.prune(tmp_path, 120)
    assert old.exists()
    programs.prune(tmp_path, 100)
    assert [f.exists() for f in (old, middle, new)] == [False, True, True]
    programs.prune(tmp_path, 0)
    assert list(tmp_path.iterdir()) == []


def test_tests_keep_theirs_apart():
    """What tests compile never comes into the user's folder, nor does what their subprocesses compile."""
    assert environment()["JAX_COMPILATION_CACHE_DIR"]
    assert jax.config.jax_compilation_cache_dir == environment()["JAX_COMPILATION_CACHE_DIR"]
