"""Models' own chat templates: what is written, what is scored, and what a template may do."""

import json
from functools import partial

import pytest

from jaxpref.data import bytes_tokenizer, conversation_ids, hf_template
from jaxpref.data.text.boundary import Unwritten

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def user(content):
    return {"role": "user", "content": content}


@pytest.fixture
def template(tmp_path):
    """A template by its text, in a folder of its own with a configuration."""

    def make(text, *, config=None, **arguments):
        folder = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        (folder / "chat_template.jinja").write_text(text)
        (folder / "tokenizer_config.json").write_text(json.dumps(config or {}))
        return hf_template(str(folder), **arguments)

    return make


def test_a_conversation_to_answer(template):
    ids = conversation_ids(bytes_tokenizer(), template(CHATML), [user("Hi")])
    expected = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert bytes_tokenizer().decode(ids) == expected


# Each stops, and nothing of it was done.
DOUBLED = ("{% set n = namespace(a='x') %}{% for i in range(60) %}{% set n.a = ", " %}{% endfor %}{{ n.a }}")
ENDLESS = {
    "loops": "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
    "range": "{% for i in range(10 ** 9) %}x{% endfor %}",
    "product": "{{ 'a' * 10 ** 9 }}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "tree": f"{DOUBLED[0]}[n.a, n.a]{DOUBLED[1]}",
    "joined": f"{DOUBLED[0]}n.a ~ n.a{DOUBLED[1]}",
    "macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "width": "{{ '%1000000000d' % 1 }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "justified": "{{ 'a'.ljust(10 ** 9) }}",
    "indent": "{{ 'a' | indent(10 ** 9) }}",
    "bytes": "{{ (1).to_bytes(10 ** 9, 'big') }}",
    "replace": "{{ ('a' * 10 ** 5).replace('a', 'b' * 10 ** 5) }}",
    "replace_filter": "{{ ('a' * 10 ** 5) | replace('a', 'b' * 10 ** 5) }}",
    "join": "{{ (['a' * 10 ** 5] * 10 ** 5) | join }}",
}
REACHING = {
    "class": "{{ ''.__class__.__mro__ }}",
    "globals": "{{ cycler.__init__.__globals__.os.system('true') }}",
    "change": "{{ messages[0].pop('role') }}",
    "include": "{% include '/etc/passwd' %}",
    "random": "{{ [1, 2] | random }}",
    "lipsum": "{{ lipsum() }}",
}


@pytest.mark.parametrize("text", [pytest.param(t, id=n) for n, t in (ENDLESS | REACHING).items()])
def test_a_template_that_does_what_it_should_not(template, text, monkeypatch):
    monkeypatch.setattr("jaxpref.data.text.templates.sandbox.WORK", 100_000)
    messages = [user("Hi")]
    with pytest.raises(ValueError, match=r"chat_template\.jinja: (the|not a) chat template"):
        template(text).render(messages, generation=True)
    assert messages == [user("Hi")]


def test_a_refusal_is_what_the_template_says(template):
    refuses = template("{{ raise_exception('System role not supported') }}")
    with pytest.raises(Unwritten, match="the template refuses it: System role not supported"):
        refuses.opened([user("Hi")])


def test_a_date_is_given_or_asked_for(template):
    asks = partial(template, "{{ strftime_now('%d %b %Y') }}{{ messages[0]['content'] }}")
    assert asks(date="2026-12-01").render([user("!")], generation=True) == "01 Dec 2026!"
    with pytest.raises(ValueError, match="asks for today's date; pass date='2026-01-31'"):
        asks().render([user("!")], generation=True)
    knows = "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% else %}2024{% endif %}"
    assert template(knows).render([user("!")], generation=True) == "2024"
    with pytest.raises(ValueError, match="expected YYYY-MM-DD, got 'today'"):
        asks(date="today")
