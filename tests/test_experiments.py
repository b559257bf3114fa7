"""Every experiment file: its complete description is what the golden file says, and it runs."""

import importlib
import json
import os
import pathlib
import re

import numpy as np
import pytest
from launch import run, smoke_run

from jaxpref import config
from jaxpref.games.equilibria import beta_fixed_point
from jaxpref.report import write_report

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = sorted(p for p in (ROOT / "experiments").rglob("*.py") if not p.name.startswith("_"))
GOLDEN = pathlib.Path(__file__).parent / "golden"
WRITE = "run `JAXPREF_WRITE_GOLDEN=1 pytest tests/test_experiments.py -k golden`"


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_description_equals_the_golden_file(file):
    """After an intended change, or for a new file: the command that WRITE names."""
    text = json.dumps(config.describe(config.load(str(file))), indent=1) + "\n"
    golden = GOLDEN / f"{file.stem}.json"
    if os.environ.get("JAXPREF_WRITE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert golden.is_file(), f"{file.name} has no golden description yet: {WRITE}, then commit it"
    assert golden.read_text() == text, (
        f"the configuration of {file.name} changed; if that is intended: {WRITE}"
    )


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_docstring_is_a_manual(file):
    doc = config.docstring(str(file))
    name = file.relative_to(ROOT).as_posix()
    for needed in ("Paper ", name, "jaxpref train"):
        assert needed in doc, (
            f"the docstring of {name} lacks {needed!r}; that of experiments/quickstart.py has all"
        )


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_sweeps_build(file):
    names = re.findall(r"^def (sweep_\w+)", file.read_text(), re.M)
    if not names:
        pytest.skip("no sweep in this file")
    for name in names:
        members = config.load_sweep(f"{file}:{name}")
        different = {json.dumps(config.describe(m)) for m in members}
        assert len(different) == len(members) > 1, (
            f"{name}: {len(different)} of {len(members)} members differ"
        )
        line = f"{file.name}:{name}"
        assert line in config.docstring(str(file)), f"the docstring lacks the line `jaxpref sweep ...{line}`"


@pytest.mark.slow
def test_quickstart_smoke(tmp_path):
    output = run("train", str(ROOT / "experiments/quickstart.py"), "--smoke", f"workdir={tmp_path / 'run'}")
    assert (tmp_path / "run" / "report.html").is_file(), output
    assert "checker accuracy" in output


def _smoke(file, workdir, *overrides, tensor=1):
    experiment = config.load(str(ROOT / "experiments" / file), list(overrides))
    return smoke_run(experiment, workdir, tensor=tensor)


@pytest.mark.slow
@pytest.mark.parametrize(
    "function",
    ["experiment", *(pytest.param(f, marks=pytest.mark.exhaustive) for f in ("bradley_terry", "pairwise"))],
)
@pytest.mark.exhaustive  # nightly smokes every experiment
def test_cycles_smoke(tmp_path, function):
    assert "all pairs: reward accuracy" in _smoke(f"gpm_cycles.py:{function}", tmp_path)


@pytest.mark.exhaustive
def test_own_pairs_smoke(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    printed = _smoke("own_data.py", tmp_path)
    assert "data: 400 rows read; left out: none" in printed
    assert "held-out pairs: reward accuracy" in printed


@pytest.mark.exhaustive  # the loop is that of pairs, and the readers have tests of their own
@pytest.mark.parametrize("kind", ["lists", "labelled"])
def test_own_lists_and_labels_smoke(tmp_path, kind):
    answers = [{"prompt": f"{i}+1=", "responses": [f"{i + 1}", f"{i}"], "scores": [1, 0]} for i in range(90)]
    labels = [{"prompt": f"{i}+1=", "completion": f"{i + i % 2}", "label": i % 2} for i in range(90)]
    (tmp_path / "own.json").write_text(json.dumps(answers if kind == "lists" else labels))
    printed = _smoke(f"own_data.py:{kind}", tmp_path / "run", f"path={tmp_path}/own.json")
    assert "preferences  3/3" in printed
    assert ("Kendall tau-b" in printed) == (kind == "lists")


@pytest.mark.exhaustive  # nightly smokes every experiment
def test_coverage_smoke(tmp_path):
    assert "pairs  3/3 exactly: p(1)" in _smoke("hypo_coverage.py", tmp_path)


@pytest.mark.exhaustive  # nightly smokes every experiment
def test_matrix_games_smoke(tmp_path):
    assert "game  3/3 held out: loss" in _smoke("nash_md_games.py", tmp_path)


@pytest.mark.parametrize("name", ["kl_estimators", "nash_md_mixture"])
@pytest.mark.exhaustive  # nightly smokes every experiment
def test_exact_ablations_smoke(tmp_path, name):
    assert "game  3/3 exact:" in _smoke(f"ablations/{name}.py", tmp_path)


def test_the_small_nash_game_is_what_its_manual_says():
    """Kinds of responses, shares of the demonstrations, and a reward model that falls for flattery where the
    equilibrium does not."""
    config.load(str(ROOT / "experiments/nash_md_small.py"))  # makes its folder importable
    small = importlib.import_module("nash_md_small")
    for response, kind in (("13,15;153", 1), ("13,15;154", 0), ("*13,15;153", 3), (";153", 8), ("", 0)):
        assert small.kind("86+67=", response) == kind
    records, tokenizer = small.demonstrations(num_examples=500), small.arithmetic_tokenizer()
    texts = [tokenizer.decode(records.response(i, 0).tolist()[:-1]) for i in range(len(records))]
    shares = np.bincount([small.parted(text)[0] for text in texts], minlength=5) / 500
    np.testing.assert_allclose(shares, small.SHARES, atol=4 * 0.5 / 500**0.5)
    wins, reference = np.asarray(small.table()), small.kind_shares()
    equilibrium = np.exp(beta_fixed_point(wins, reference, 0.05, 0.125))
    greedy = np.exp(beta_fixed_point(wins, reference, 0.05, 1.0))
    assert small.rewards().argmax() == 3
    assert equilibrium[2:4].sum() < 0.03 < 0.4 < greedy[2:4].sum()
    assert equilibrium @ wins @ greedy == pytest.approx(0.574, abs=1e-3)


@pytest.mark.parametrize("file", ["spac_toy.py", "spac_toy.py:two_timescales", "onpolicy_bandit.py"])
@pytest.mark.exhaustive  # nightly smokes every experiment
def test_bandits_smoke(tmp_path, file):
    assert "3/3 bandit: expected reward" in _smoke(file, tmp_path)


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        pytest.param("mce_irl_gridworld.py", "irl", marks=pytest.mark.exhaustive),
        ("adversarial_irl_gridworld.py:airl", "imitation"),
        pytest.param("trex_gridworld.py:bayesian", "ranking", marks=pytest.mark.exhaustive),
    ],
)
@pytest.mark.exhaustive  # nightly smokes every experiment
def test_grids_smoke(tmp_path, file, stage):
    assert f"{stage}  3/3 recovery:" in _smoke(file, tmp_path)


@pytest.mark.exhaustive
def test_routes_smoke(tmp_path, data_root):
    """The real roads of Liechtenstein, a region on each device; the map is in the page."""
    knobs = (f"data_root={data_root}", "trips=40", "horizon=2", "regions=8")
    printed = _smoke("irl_routes.py", tmp_path, *knobs, tensor=8)
    assert "costs  3/3 routes: nll" in printed
    page = write_report([tmp_path], tmp_path / "report.html").read_text()
    assert "<h3>Pictures</h3>" in page


@pytest.mark.slow
@pytest.mark.exhaustive  # nightly smokes every experiment
def test_budgets_of_drivers_smoke(tmp_path, data_root):
    printed = _smoke("irl_routes.py:latent_budgets", tmp_path, f"data_root={data_root}", "trips=10")
    assert "budgets  3/3 budgets: agent 0, 1 steps" in printed


@pytest.mark.exhaustive  # nightly smokes every experiment
def test_routes_of_a_file_smoke(tmp_path):
    """Streets round a square of four, and the ways along them."""
    ends = [(i, (i + step) % 4) for i in range(4) for step in (1, 3)]
    (tmp_path / "arcs.csv").write_text("tail,head,length\n" + "".join(f"{i},{j},{1 + i}\n" for i, j in ends))
    nodes = [(r, (r + i) % 4) for r in range(20) for i in range(3)]
    (tmp_path / "routes.csv").write_text("route,node\n" + "".join(f"{r},{node}\n" for r, node in nodes))
    files = (f"arcs={tmp_path}/arcs.csv", f"routes={tmp_path}/routes.csv")
    assert "costs  3/3 routes: nll" in _smoke("irl_routes.py:from_files", tmp_path / "run", *files)


@pytest.mark.slow
@pytest.mark.exhaustive  # New York is benchmarked, and the code is that of the Liechtenstein run
def test_new_york_smoke(tmp_path, data_root):
    printed = _smoke("rhip_new_york.py", tmp_path, f"data_root={data_root}", "trips=10")
    assert "costs  3/3 routes: nll" in printed


@pytest.mark.exhaustive  # rm_hh.py reads the same pairs, and step 0 is tested in training
@pytest.mark.slow
@pytest.mark.needs_tensorflow
def test_small_hh_smoke_on_the_real_pairs(tmp_path, data_root):
    pytest.importorskip("seqio")
    pytest.importorskip("tensorflow")
    output = run(
        "train",
        str(ROOT / "experiments/dpo_hh_small.py"),
        "--smoke",
        f"workdir={tmp_path / 'run'}",
        f"data_root={data_root}",
    )
    assert "longer-response baseline" in output
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    first = next(r for r in rows if r["stage"] == "dpo" and r["split"] == "train")
    assert first["loss"] == pytest.approx(0.6931472, abs=1e-7)
    assert first["rewards/margins"] == 0
    assert (tmp_path / "run" / "report.html").is_file()
