"""Where the time went, and which steps spiked, as the page shows it."""

import json
import re

import pytest
from fake_runs import write_run

from jaxpref.report.page import write_report
from jaxpref.report.runs import read_run
from jaxpref.report.series import panels
from jaxpref.report.spending import spending_section
from jaxpref.report.spikes import spikes_section


def append(file, *entries):
    with file.open("a") as lines:
        lines.writelines(json.dumps(entry) + "\n" for entry in entries)


def resources(at, **seconds):
    kinds = {f"seconds/{kind}": x for kind, x in seconds.items()}
    return {
        "stage": "dpo",
        "split": "resources",
        "step": at,
        "time": 1.0,
        "memory/device_peak": at * 1e9,
    } | kinds


@pytest.fixture
def run(tmp_path):
    directory = write_run(tmp_path / "run", num_steps=4)
    append(
        directory / "metrics.jsonl",
        resources(2, step=30.0, evaluation=0.0, compile=10.0),
        resources(4, step=40.0, evaluation=20.0, compile=0.0),
    )
    return directory


def cells(html):
    rows = [
        re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)
        for row in re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    ]
    return [[re.sub(r"<.*?>|\s+(?= )", "", cell).strip() for cell in row] for row in rows if row]


def test_the_seconds_of_a_stage_are_added_up_and_shown_with_their_share(run, tmp_path):
    shown = spending_section([read_run(run)], tmp_path)
    assert cells(shown) == [["dpo", "1 min 40 s", "1 min 10 s (70%)", "20 s (20%)", "10 s (10%)", "4.0 GB"]]
    assert (tmp_path / "time.png").is_file()
    assert not any("seconds" in panel.title for panel in panels([read_run(run)])), "no curves of their own"


def test_two_runs_are_told_apart(run, tmp_path):
    other = write_run(tmp_path / "other", num_steps=4)
    append(other / "metrics.jsonl", resources(4, step=1.0))
    rows = cells(spending_section([read_run(run), read_run(other)], tmp_path))
    assert [row[0] for row in rows] == ["run", "other"]
    assert rows[1][2:] == ["1.0 s", "1.0 s (100%)", "–", "–", "4.0 GB"]


def test_runs_of_before_have_none(tmp_path):
    old = read_run(write_run(tmp_path / "run", num_steps=4))
    assert spending_section([old], tmp_path) == ""
    assert spikes_section([old]) == ""


def test_spikes_are_a_table_and_hostile_entries_are_text(run):
    common = {"stage": "dpo", "split": "train", "grad_norm": 9.0, "example_ids": [1]}
    worst = {"name": "<b>a", "value": "inf", "median": 1.0, "deviations": "inf"}
    append(
        run / "spikes.jsonl",
        common | {"step": 7, "kind": "spike", "loss": 5.25, "threshold": 1.5, "largest": [worst, 3]},
        common | {"step": 9, "kind": "not finite", "loss": "nan", "threshold": "inf", "largest": None},
    )
    assert cells(spikes_section([read_run(run)])) == [
        ["dpo", "spike", "&lt;b&gt;a inf", "7", "5.25", "1.50", "9.00"],
        ["dpo", "not finite", "–", "9", "nan", "–", "9.00"],
    ]
    page = write_report([run], run / "report.html").read_text()
    assert "jaxpref replay" in page
