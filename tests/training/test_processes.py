"""Two processes of two devices each run the loop as one of four would."""

import json
import socket

import pytest
from launch import TINY, here, start


@pytest.mark.slow
def test_two_processes_agree_with_one(tmp_path):
    common = ["train", TINY, "steps=2", "data=2", "fsdp=2", "--no-report"]
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    processes = [
        start(
            *common,
            f"workdir={tmp_path / 'two'}",
            count=2,
            JAXPREF_COORDINATOR=f"localhost:{port}",
            JAXPREF_NUM_PROCESSES="2",
            JAXPREF_PROCESS_ID=str(index),
        )
        for index in range(2)
    ]
    outputs = [p.communicate(timeout=600)[0] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], "\n".join(outputs)
    assert "dpo  2/2" in outputs[0]
    assert "2/2" not in outputs[1], "only the first process reports"
    here(*common, f"workdir={tmp_path / 'one'}", count=4)

    def rows(name, file):
        return [json.loads(line) for line in (tmp_path / name / file).read_text().splitlines()]

    for a, b in zip(rows("one", "metrics.jsonl"), rows("two", "metrics.jsonl"), strict=True):
        for key in a.keys() - {"time", "tokens_per_second", "mfu", "stage", "split"}:
            assert a[key] == pytest.approx(b[key], rel=1e-4, abs=1e-5), (a["stage"], a["step"], key)
    assert len(rows("two", "samples.jsonl")) == len(rows("one", "samples.jsonl"))
