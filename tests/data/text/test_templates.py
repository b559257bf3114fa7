"""Models' own chat templates: what is written, what is scored, and what a template may do."""

import json
from functools import partial

import pytest
from jsonl_files import jsonl

from jaxpref.data import bytes_tokenizer, conversation_ids, hf_template
from jaxpref.data.text.boundary import Unwritten
from jaxpref.data.text.jsonl import jsonl_pairs

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
    "loops": "{% for i in range(999) %}{% for j in range(999) %}{% endfor %}{% endfor %}",
    "range": "{% for i in range(10 ** 9) %}x{% endfor %}",
    "product": "{{ 'a' * 10 ** 15 }}",
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
    monkeypatch.setattr("jaxpref.data.text.templates.sandbox.SECONDS", float("inf"))
    messages = [user("Hi")]
    with pytest.raises(ValueError, match=r"chat_template\.jinja: (the|not a) chat template") as error:
        template(text).render(messages, generation=True)
    assert "MemoryError" not in str(error.value), "it was about to be made"
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


class TestWhereATemplateIs:
    @pytest.fixture
    def folder(self, tmp_path):
        (tmp_path / "tokenizer_config.json").write_text(
            '{"bos_token": {"content": "<s>"}, "eos_token": null}'
        )
        return tmp_path

    def write(self, folder, value, file="tokenizer_config.json"):
        config = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / file).write_text(json.dumps(config | {"chat_template": value}))

    def said(self, path, **arguments):
        return hf_template(str(path), **arguments).render([user("Hi")], generation=True)

    def test_files_come_before_the_configuration(self, folder):
        with pytest.raises(
            ValueError, match=r"has no chat template .*: a base model, perhaps; use template="
        ):
            self.said(folder)
        self.write(folder, "{{ bos_token }}{{ eos_token }}configuration")
        assert self.said(folder) == "<s>configuration"
        self.write(folder, "processor", file="chat_template.json")
        assert self.said(folder) == "<s>configuration"
        (folder / "chat_template.jinja").write_text("{{ bos_token }}file")
        assert self.said(folder) == "<s>file"
        assert self.said(folder / "chat_template.jinja") == "<s>file"

    @pytest.mark.parametrize("form", [list, dict])
    def test_several_by_name(self, folder, form):
        named = {"default": "usual", "tool_use": "tools", "rag": "rag"}
        self.write(folder, named if form is dict else [{"name": k, "template": v} for k, v in named.items()])
        assert self.said(folder) == "usual"
        assert self.said(folder, tools=[{"name": "f"}]) == "tools"
        assert self.said(folder, name="rag") == "rag"
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates" / "rag.jinja").write_text("file")
        assert self.said(folder, name="rag") == "file"
        with pytest.raises(
            ValueError, match=r"has the chat templates \['default', 'rag', 'tool_use'\]; name one"
        ):
            self.said(folder, name="other")
        self.write(folder, [{"name": "a", "template": "A"}, {"name": "b", "template": "B"}])
        with pytest.raises(ValueError, match=r"has the chat templates \['a', 'b', 'rag'\]; name one of them"):
            self.said(folder)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('{"chat_template": 4}', "chat_template: expected a text, or a list of named ones"),
            ('{"chat_template": [{"name": "a"}]}', "chat_template: expected a text, or a list of named ones"),
            ('{"chat_template": ', r"tokenizer_config\.json: not JSON"),
            ('{"chat_template": "{% if %}"}', "not a chat template that can be read: Expected an expression"),
            (
                json.dumps({"chat_template": "x" * (1 << 20) + "x"}),
                "a chat template of more than 1,048,576 char",
            ),
            (
                json.dumps({"chat_template": "(" * 5000 + "{{" + "(" * 5000}),
                "not a chat template that can be",
            ),
        ],
    )
    def test_what_is_no_template(self, folder, text, message):
        (folder / "tokenizer_config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            self.said(folder)

    def test_no_file(self, folder):
        with pytest.raises(ValueError, match=r"hf_template: /nowhere does not exist; give a model's folder"):
            self.said("/nowhere")
        (folder / "chat_template.jinja").write_bytes(b"\xff\xfe")
        with pytest.raises(ValueError, match=r"chat_template\.jinja: not UTF-8 text"):
            self.said(folder)
        (folder / "chat_template.jinja").write_text("")
        with pytest.raises(ValueError, match="hf_template: variables must be plain values"):
            hf_template(str(folder), when=object)


class TestContent:
    """Keys of caches have what a template is made of, and not where it lies."""

    def test_fingerprints(self, template):
        base = template(CHATML)
        assert base.fingerprint == template(CHATML).fingerprint
        others = [
            template(CHATML + " "),
            template(CHATML, date="2026-12-01"),
            template(CHATML, tools=[{"name": "f"}]),
            template(CHATML, enable_thinking=False),
            template(CHATML, config={"bos_token": "<s>"}),
        ]
        assert len({base.fingerprint, *(other.fingerprint for other in others)}) == 6

    def test_records_are_made_again_when_the_file_changes(self, tmp_path, monkeypatch):
        monkeypatch.setenv("JAXPREF_CACHE", str(tmp_path / "cache"))
        path = jsonl(tmp_path, {"prompt": [user("Hi")], "chosen": "Yes", "rejected": "No"})
        file = tmp_path / "chat_template.jinja"

        def prompt():
            records = jsonl_pairs(
                path=path,
                tokenizer=bytes_tokenizer,
                template=partial(hf_template, path=str(file)),
                prompt_length=100,
                response_length=20,
            )
            return bytes_tokenizer().decode(records.prompt(0)), records.metadata["encoding"]

        file.write_text(CHATML)
        first, described = prompt()
        file.write_text(CHATML.replace("im_start", "start"))
        assert prompt()[0] == first.replace("im_start", "start")
        assert described["template"] == "jaxpref.data.text.templates.hub.hf_template"
        assert str(tmp_path) not in json.dumps(described)
