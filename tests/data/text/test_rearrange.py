"""The same tokens read another way: tokens against loops, and what it does to log-probs."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from jaxpref.data import Example, Records, bytes_tokenizer
from jaxpref.data.text.rearrange import goal_relabelled, joint, labelled
from jaxpref.models.sizes import tiny
from jaxpref.policies.transformer import transformer
from jaxpref.types import check_completions

N, V = 7, 20


def table(k=2, n=N, empty_prompts=()):
    rng = np.random.default_rng(k)

    def tokens(low, high):
        return rng.integers(3, V, rng.integers(low, high)).tolist()

    examples = []
    for i in range(n):
        empty = i in empty_prompts
        responses = [[*tokens(1, 7), 2] for _ in range(k)]
        examples.append(Example([] if empty else [1, *tokens(1, 5)], responses, i // 2, int(empty)))
    metadata = {"vocab_size": V, "tokenizer": "f" * 64, "pad_id": 0}
    records = Records.from_examples(examples, metadata)
    scores = -np.sort(-rng.normal(size=(n, k)), axis=1)
    return records.with_column("scores", scores).with_column("reference_logps", rng.normal(size=(n, k)))


def call(function, records, **arguments):
    return function(records=lambda: records, **arguments)


class TestLabelled:
    def test_against_a_loop(self):
        pairs = table().with_column("margins", np.arange(N) * 1.0)
        pairs = pairs.with_column("preferences", np.full((N, 2, 2), 0.5))
        rows = call(labelled, pairs)
        assert (len(rows), rows.k) == (2 * N, 1)
        for i in range(N):
            for j in (0, 1):
                row = 2 * i + j
                np.testing.assert_array_equal(rows.prompt(row), pairs.prompt(i))
                np.testing.assert_array_equal(rows.response(row, 0), pairs.response(i, j))
                assert rows.group[row] == pairs.group[i]
                assert rows.columns["labels"][row].tolist() == [1 - j]
                assert rows.columns["scores"][row].tolist() == [pairs.columns["scores"][i, j]]
                assert rows.columns["reference_logps"][row] == pairs.columns["reference_logps"][i, j]
        assert "preferences" not in rows.columns
        check_completions(rows.rows(np.arange(2 * N)), V)

    def test_no_token_is_copied(self):
        pairs = table()
        assert call(labelled, pairs).response_tokens is pairs.response_tokens

    @pytest.mark.parametrize("k", [1, 3])
    def test_wants_pairs(self, k):
        with pytest.raises(ValueError, match=f"labelled: expected pairs, got {k} responses"):
            call(labelled, table(k))


class TestJoint:
    @pytest.mark.parametrize("k", [1, 2, 3])
    def test_against_a_loop(self, k):
        records = table(k, empty_prompts=(3,))
        whole = call(joint, records)
        for i in range(N):
            prompt = records.prompt(i)
            np.testing.assert_array_equal(whole.prompt(i), prompt[:1])
            assert whole.group[i] == records.group[i]
            for j in range(k):
                expected = [*prompt[1:], *records.response(i, j)]
                assert whole.response(i, j).tolist() == expected
                assert whole.unscored[i, j] == (i == 3)
        assert set(whole.columns) == {"scores"}, "reference log-probs of responses are not joint ones"
        check_completions(whole.rows(np.arange(N)), V)

    def test_absent_responses_stay_absent(self):
        records = table(3)
        lengths = records.response_lengths.copy()
        lengths[4, 2] = 0
        whole = call(joint, dataclasses.replace(records, response_lengths=lengths))
        assert (whole.response_lengths == 0).sum() == 1
        assert whole.response_lengths[4, 2] == 0

    def test_log_probs_add_up(self):
        """log p(prompt, response) = log p(prompt) + log p(response | prompt), given the first token."""
        records = table()
        policy = transformer(
            sizes=tiny(vocab=V, embed=8, heads=2, kv_heads=1, layers=1, mlp=16), eos_id=2, pad_id=0
        )
        params = jax.jit(policy.init)(jax.random.key(0))

        def logps(rows):
            return np.asarray(jax.jit(policy.token_logps)(params, rows.rows(np.arange(N))).sum(-1))

        prompts = Records.from_examples(
            [Example(records.prompt(i)[:1], [records.prompt(i)[1:]]) for i in range(N)]
        )
        np.testing.assert_allclose(
            logps(call(joint, records)), logps(prompts) + logps(records), rtol=1e-5, atol=1e-4
        )


class TestGoals:
    def records(self, scores):
        tokenizer = bytes_tokenizer()
        encode = tokenizer.encode
        examples = [
            Example([tokenizer.bos_id, *encode(f"p{i}")], [encode(f"good{i}"), encode(f"bad{i}")], i)
            for i in range(len(scores))
        ]
        metadata = {"tokenizer": tokenizer.fingerprint}
        return Records.from_examples(examples, metadata).with_column("scores", np.asarray(scores))

    def relabelled(self, scores, **arguments):
        return call(goal_relabelled, self.records(scores), tokenizer=bytes_tokenizer, **arguments)

    def test_rows_swap_under_the_other_goal(self):
        scores = [[3.0, 1.0], [2.0, 2.0], [0.5, -1.0]]  # the tie is left out
        rows = self.relabelled(scores, goal="<{score:.1f}>")
        tokenizer = bytes_tokenizer()
        found = [
            tuple(tokenizer.decode(t) for t in (rows.prompt(i), rows.response(i, 0), rows.response(i, 1)))
            for i in range(len(rows))
        ]
        assert found == [
            ("<3.0>p0", "good0", "bad0"),
            ("<0.5>p2", "good2", "bad2"),
            ("<1.0>p0", "bad0", "good0"),
            ("<-1.0>p2", "bad2", "good2"),
        ]
        assert rows.group.tolist() == [0, 2, 0, 2]
        assert all(rows.prompt(i)[0] == tokenizer.bos_id for i in range(len(rows)))
        assert not rows.columns, "a score no longer says how good a response is"
        check_completions(rows.rows(np.arange(len(rows))), tokenizer.vocab_size)

    def test_errors(self):
        with pytest.raises(ValueError, match="row 1 has a chosen response of a lower score"):
            self.relabelled([[1.0, 0.0], [0.0, 1.0]])
        with pytest.raises(ValueError, match="no example is left"):
            self.relabelled([[1.0, 1.0]])
        build = partial(goal_relabelled, tokenizer=bytes_tokenizer)
        for records in (table(3), dataclasses.replace(table(), columns={})):
            with pytest.raises(ValueError, match=r"expected pairs with a column scores \[n, 2\]"):
                build(records=lambda records=records: records)
