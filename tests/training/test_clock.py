"""Where the time goes: kinds that add up, compilation counted once and apart, memory beside them."""

import time

import jax
import jax.numpy as jnp
import pytest
from launch import TINY, here

from jaxpref.training import clock as clocks
from jaxpref.training import memory
from jaxpref.training.clock import KINDS, Clock, Lap


def test_seconds_go_to_one_kind_each_and_add_up(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(clocks.time, "perf_counter", lambda: now[0])
    clock = Clock("start")
    lap = Lap(clock)
    now[0] = 1.0
    with clock.spent("evaluation"):
        now[0] = 3.0
        with clock.spent("step"):
            now[0] = 7.0
        now[0] = 8.0
        # A program that took 2 seconds, of which the tracing of one that it calls took half a second.
        clocks._listen("/jax/core/compile/jaxpr_trace_duration", 0.5)
        now[0] = 9.0
        clocks._listen("/jax/core/compile/jaxpr_trace_duration", 2.0)
        clocks._listen("/jax/something/else", 100.0)
    now[0] = 10.0
    wanted = {"start": 2.0, "step": 4.0, "evaluation": 2.0, "compile": 2.0}
    assert lap.taken() == dict.fromkeys(KINDS, 0.0) | wanted
    now[0] = 11.0
    assert lap.taken() == dict.fromkeys(KINDS, 0.0) | {"start": 1.0}
    assert sum(clock.seconds().values()) == 11.0


def test_what_jax_compiles_is_noticed():
    clock = Clock("step")
    begun = time.perf_counter()
    # A shape that no other test has, so that this process has not compiled it.
    jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x).T)(jnp.ones((3, 77))).block_until_ready()
    seconds, wall = clock.seconds(), time.perf_counter() - begun
    assert 0 < seconds["compile"] <= wall
    assert sum(seconds.values()) == pytest.approx(wall, abs=0.05)


def test_a_line_of_the_log_says_where_the_time_went_and_the_report_shows_it(tmp_path):
    output = here("train", TINY, "steps=4", "evaluators=False", f"workdir={tmp_path}")
    assert "  time: " in output
    assert " GB, peak " in output
    page = (tmp_path / "report.html").read_text()
    assert "Where the time went" in page
    assert (tmp_path / "report" / "time.png").is_file()
    assert "seconds/step" not in page, "no curve of its own"


def test_memory_is_of_devices_where_they_count_and_of_the_process_elsewhere(monkeypatch):
    own = memory.in_use()
    assert own["memory/process_peak"] >= own["memory/process"] > 1e7
    assert memory.shown(own).startswith(f"{own['memory/process'] / 1e9:.1f} GB, peak ")

    class Device:
        def __init__(self, now, peak):
            self.stats = {"bytes_in_use": now, "peak_bytes_in_use": peak}

        def memory_stats(self):
            return self.stats

    monkeypatch.setattr(memory.jax, "local_devices", lambda: [Device(3, 9), Device(5, 6)])
    assert memory.in_use() == {"memory/device": 5, "memory/device_peak": 9}
