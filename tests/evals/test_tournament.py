"""Win rates: antisymmetric, ties one half, independent draws; and the command, on runs of a tiny sweep."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpref import cli
from jaxpref.commands import training
from jaxpref.data.text.synthetic import arithmetic_tokenizer
from jaxpref.evals import Context
from jaxpref.evals.tournament import answers, judged, win_rates
from jaxpref.experiment import Tournament
from jaxpref.judges import rule_judge
from jaxpref.policies.tabular import tabular
from jaxpref.report.tournament import read_tournament, tournament_section
from jaxpref.types import Completions

DUEL = str(pathlib.Path(__file__).parent / "duel.py")


def larger_token():
    """The larger token wins; equal ones are a tie."""
    return rule_judge(lambda completions: completions.response_tokens[..., 0])


def careless():
    """The first response wins whatever it says, and the larger token beats the second."""

    def judge(policies, completions):
        p = larger_token()(policies, completions)
        return jnp.where(jnp.triu(jnp.ones(p.shape, bool), 1), 1.0, p)

    return judge


GAME = Tournament(records=lambda: None, judge=larger_token, max_tokens=1, num_samples=2, batch_size=100)


def context(policy, params=None) -> Context:
    return Context(
        policy=policy,
        params=params,
        tokenizer=arithmetic_tokenizer(),
        seed=0,
        rewards=lambda batch: jnp.zeros(batch.response_mask.shape[:2]),
        put=lambda batch: jax.tree.map(jnp.asarray, batch),
        fetch=jax.device_get,
    )


def said(tokens) -> Completions:
    """Responses `[n, s]` of one token each."""
    tokens = np.asarray(tokens, np.int32)[..., None]
    n = len(tokens)
    ids = {"example_ids": np.arange(n)}
    mask = np.ones(tokens.shape, bool)
    return Completions(np.ones((n, 1), np.int32), np.ones((n, 1), bool), tokens, mask, columns=ids)


def test_ties_are_one_half_and_samples_are_averaged():
    low, high = said([[1, 1], [1, 3], [2, 2]]), said([[2, 1], [1, 4], [2, 2]])
    game = dataclasses.replace(GAME, batch_size=2)  # the last batch is padded
    p = judged(context(tabular(prompts=2, vocab=5)), game, [low, high], {})
    np.testing.assert_allclose(p[:, 1, 0], [0.75, 0.75, 0.5])
    np.testing.assert_allclose(p + p.swapaxes(1, 2), 1)


def test_a_judge_that_favours_the_first_cannot_break_antisymmetry():
    game = dataclasses.replace(GAME, judge=careless)
    p = judged(
        context(tabular(prompts=2, vocab=5)), game, [said([[1, 1]]), said([[2, 2]]), said([[2, 2]])], {}
    )
    np.testing.assert_allclose(p + p.swapaxes(1, 2), 1)
    np.testing.assert_allclose(p[0], [[0.5, 0.5, 0.5], [0.5, 0.5, 0.75], [0.5, 0.25, 0.5]])


def test_matrix_of_estimates_is_antisymmetric():
    raw = np.random.default_rng(0).uniform(size=(40, 3, 3))
    p = (raw + 1 - raw.swapaxes(1, 2)) / 2
    found = win_rates(["a", "b", "c"], p)
    for i in range(3):
        for j in range(3):
            one, other = found.matrix[i][j], found.matrix[j][i]
            assert (one.mean, one.low, one.high) == pytest.approx(
                (1 - other.mean, 1 - other.high, 1 - other.low)
            )
            assert found.differences[i][j].mean == pytest.approx(p[:, i, 0].mean() - p[:, j, 0].mean())
        assert found.overall[i].mean == pytest.approx(np.delete(p.mean(0)[i], i).mean())
    assert (found.matrix[1][1].low, found.matrix[1][1].high) == (0.5, 0.5)
    with pytest.raises(ValueError, match="2 names"):
        win_rates(["a", "b"], p)


def test_policies_draw_independently_of_one_another():
    """Two policies that are nearly the same: with shared noise the better one would hardly ever lose."""
    from test_samples import prompts

    policy = tabular(prompts=5, vocab=7)
    logits = jax.random.normal(jax.random.key(0), (5, 7))
    better = logits + 0.5 * jnp.arange(7.0)[None]
    table = prompts(80)
    players = [
        answers(context(policy, {"logits": each}), GAME, table, stream=stream)
        for stream, each in enumerate((logits, better))
    ]
    again = answers(context(policy, {"logits": better}), GAME, table, stream=1)
    np.testing.assert_array_equal(again.response_tokens, players[1].response_tokens)
    p = judged(context(policy), GAME, players, {})
    low, high = (np.asarray(jax.nn.softmax(x, -1)) for x in (logits, better))
    wins = (np.sign(np.arange(7)[:, None] - np.arange(7)) + 1) / 2
    truth = np.einsum("xi,xj,ij->x", high, low, wins).mean()
    assert abs(p[:, 1, 0].mean() - truth) < 4 * 0.5 / np.sqrt(2 * 400)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """The runs of a sweep and its tournament; no page is drawn, which would take most of the time."""
    root = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "page_about", lambda directories, page: page)
        assert cli.main(["sweep", f"{DUEL}:sweep", f"workdir={root}"]) == 0
        yield root


def test_sweep_ends_with_its_tournament_and_the_command_repeats_it(played, capsys):
    first = json.loads((played / "tournament.json").read_text())
    assert first["names"] == ["initial", "slow", "fast"]
    assert first["runs"] == [None, "0-slow", "1-fast"]
    assert first["matrix"][1][2]["count"] == 6
    assert first["matrix"][1][2]["mean"] + first["matrix"][2][1]["mean"] == pytest.approx(1)
    (played / "tournament.json").unlink()
    assert cli.main(["tournament", f"{DUEL}:sweep", f"workdir={played}"]) == 0
    assert json.loads((played / "tournament.json").read_text()) == first
    assert "overall" in capsys.readouterr().out
    shown = read_tournament(played / "tournament.json", {"0-slow": "slow", "1-fast": "fast"})
    assert shown is not None, "the report reads it"
    assert "fast" in tournament_section(shown, played)


def test_evaluators_ran_inside_the_stage_and_kl_starts_at_zero(played):
    rows = [json.loads(line) for line in (played / "1-fast" / "evaluations.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 0, 1, 1, 2, 2]
    kl = {r["step"]: r["metrics"]["KL to initial"]["mean"] for r in rows if r["evaluator"] == "samples"}
    assert kl[0] == pytest.approx(0, abs=1e-5)
    assert abs(kl[2]) > 1e-3


def test_mistakes_of_a_tournament_are_one_line(played, tmp_path, capsys):
    assert cli.main(["tournament", f"{DUEL}:sweep", f"workdir={tmp_path}"]) == 2
    assert "no run slow in" in capsys.readouterr().err
    more = "stages.dpo.num_steps=9"
    assert cli.main(["tournament", f"{DUEL}:sweep", f"workdir={played}", more]) == 2
    assert "at step 2 of 9" in capsys.readouterr().err
    from launch import TINY

    assert cli.main(["tournament", f"{TINY}:sweep", f"workdir={tmp_path}"]) == 2
    assert "no function tournament()" in capsys.readouterr().err
