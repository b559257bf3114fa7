"""KL against score, who wins at equal KL, the win-rate matrix, and logarithmic axes."""

import json

import numpy as np
import pytest
from fake_runs import write_run
from test_report_page import Page

from jaxpref.evals.intervals import recorded
from jaxpref.evals.tournament import win_rates
from jaxpref.report import figures, write_report
from jaxpref.report.frontier import points
from jaxpref.report.runs import read_run
from jaxpref.report.series import Panel
from jaxpref.report.tournament import _figure, read_tournament, tournament_section


def add_kl(directory, kl_and_score):
    rows = [
        {
            "stage": "dpo",
            "step": step,
            "evaluator": evaluator,
            "metrics": {metric: {"mean": mean, "low": mean - 0.02, "high": mean + 0.02, "better": better}},
        }
        for step, pair in kl_and_score.items()
        for (evaluator, metric, better), mean in zip(
            (("samples", "KL to initial", ""), ("judged", "win rate", "higher")), pair, strict=True
        )
    ]
    with (directory / "evaluations.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def write_tournament(folder, runs, groups=None):
    wins = np.tile([[0.5, 0.3, 0.1], [0.7, 0.5, 0.4], [0.9, 0.6, 0.5]], (40, 1, 1))
    found = win_rates(["initial", "a", "b"], wins, groups)
    cells = [[recorded(e) for e in row] for row in found.matrix]
    differences = [[recorded(e) for e in row] for row in found.differences]
    overall = [recorded(e) for e in found.overall]
    content = {"names": found.names, "runs": runs, "matrix": cells, "overall": overall}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tournament.json").write_text(json.dumps(content | {"differences": differences}))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frontier")
    runs = [
        write_run(folder / name, name=f"method {name}", beta=beta, num_steps=3, brief=True)
        for name, beta in (("a", 0.1), ("b", 0.3))
    ]
    add_kl(runs[0], {0: (0.0, 0.5), 1: (1.0, 0.6), 2: (3.0, 0.8)})
    add_kl(runs[1], {0: (0.0, 0.5), 2: (2.0, 0.9)})
    for run in runs:  # drawing curves is what takes time
        (run / "metrics.jsonl").write_text('{"stage": "dpo", "step": 0, "loss": 1.0}\n')
    write_tournament(folder / "out", [None, "a", "b"])
    return write_report(runs, folder / "out" / "report.html")


def test_frontier_and_matrix_are_on_the_page_and_on_disk(page):
    shown = Page(page.read_text()).text
    assert "What is gained for the KL spent" in shown
    # At 2 nats: 0.7 on the line of the first, 0.9 of the second.
    assert "-0.200" in shown[shown.index("First minus second") :]
    assert "Win rates" in shown
    row = shown[shown.index("Minus the best other") :]
    assert "method b" in row
    assert "0.900" in row
    names = {file.name for file in (page.parent / "report").iterdir()}
    assert {"tournament.png", "frontier_KL_to_initial_judged_win_rate.png"} <= names


def test_points_pair_evaluations_of_one_step(tmp_path):
    directory = write_run(tmp_path / "run", num_steps=3, brief=True)
    add_kl(directory, {0: (0.0, 0.5), 4: (1.5, 0.7), 2: (1.0, 0.6)})
    with (directory / "evaluations.jsonl").open("a") as file:
        lonely = {"stage": "dpo", "step": 3, "evaluator": "judged", "metrics": {"win rate": 0.9}}
        file.write(json.dumps(lonely) + "\n")
    found = points(read_run(directory), ("samples", "KL to initial"), ("judged", "win rate"))
    assert [(p.step, p.kl.mean, p.score.mean) for p in found] == [(0, 0.0, 0.5), (2, 1.0, 0.6), (4, 1.5, 0.7)]


def test_a_tournament_of_other_runs_is_not_shown(tmp_path):
    write_tournament(tmp_path, [None, "a", "b"])
    file = tmp_path / "tournament.json"
    assert read_tournament(file, {"a": "A", "b": "B"}).labels == ["initial", "A", "B"]
    assert read_tournament(file, {"a": "A", "c": "C"}) is None
    file.write_text("{")
    assert read_tournament(file, {"a": "A", "b": "B"}) is None
    assert read_tournament(tmp_path / "nothing.json", {}) is None


@pytest.mark.parametrize(
    ("metric", "values", "scale"),
    [
        ("duality_gap", [1.0, 1e-3, 1e-9], "log"),
        ("average/exploitability", [0.5, 0.1, 0.0], "log"),
        ("grad_norm", [1.0, 1e-3, 1e-9], "linear"),
        ("accuracy_gap", [-0.5, 0.1, 0.2], "linear"),
        ("duality_gap", [0.0, 0.0, 0.0], "linear"),
    ],
)
def test_what_should_vanish_has_a_logarithmic_axis(tmp_path, metric, values, scale):
    directory = write_run(tmp_path / "run", num_steps=1, brief=True)
    rows = [{"stage": "game", "step": i, "split": "train", metric: v} for i, v in enumerate(values)]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    at = {"stage": "game", "evaluator": "game"}
    evaluations = [at | {"step": i, "metrics": {metric: v}} for i, v in enumerate(values)]
    (directory / "evaluations.jsonl").write_text("".join(json.dumps(r) + "\n" for r in evaluations))
    run = read_run(directory)
    with figures.style("test"):
        curve = figures.curves_figure([run], Panel("game", "game", metric, (metric,)))
        progress = figures.progress_figure([run], "game", "game", metric)
        assert curve is not None
        assert curve.axes[0].get_yscale() == progress.axes[0].get_yscale() == scale
        curve.canvas.draw()
        labels = [tick.get_text() for tick in curve.axes[0].get_yticklabels()]
        assert any(labels)
        assert not any("$" in label for label in labels)


@pytest.mark.parametrize(("groups", "size", "drawn"), [(20, "40 in 20 groups", 6), (1, "40 in 1 group", 0)])
def test_a_tournament_of_grouped_prompts_says_groups_and_draws_no_missing_interval(
    tmp_path, groups, size, drawn
):
    write_tournament(tmp_path, [None, "a", "b"], np.arange(40) % groups)
    table = read_tournament(tmp_path / "tournament.json", {"a": "a", "b": "b"})
    assert table is not None
    text = str(tournament_section(table, tmp_path))
    assert size in text
    assert "Clopper-Pearson" not in text
    assert "groups of prompts" in text
    assert "nan" not in text.lower().replace("tournament", "")
    shown = [t.get_text() for t in _figure(table).axes[0].texts]
    assert sum("–" in t and t != "–" for t in shown) == drawn
