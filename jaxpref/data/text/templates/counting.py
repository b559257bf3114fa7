"""Jinja templates that tell an environment what they do, by calls that are put into them."""

from typing import Any

from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.visitor import NodeTransformer

__all__ = ["Counted", "Guard"]


class Guard(Extension):
    """What the counted tree calls; and `{% generation %}`, which marks a reply and writes nothing."""

    tags = {"generation"}  # noqa: RUF012  (the base class has it so)
    environment: Any

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)

    def step(self, cost: int) -> None:
        self.environment.charge(cost)

    def made(self, value: Any) -> Any:
        return self.environment.weighed(value)

    def joined(self, *parts: Any) -> str:
        return self.environment.joined("", parts)


class Counted(NodeTransformer):
    """Puts a step in front of each turn of a loop, and weighs what expressions make."""

    def __init__(self, guard: Guard):
        self._guard = guard

    def _with_step(self, node: Any) -> Any:
        self.generic_visit(node)
        texts = [part for part in node.body if isinstance(part, nodes.TemplateData)]
        texts += [data for part in node.body for data in part.find_all(nodes.TemplateData)]
        step = self._guard.call_method("step", [nodes.Const(1 + sum(len(text.data) for text in texts))])
        node.body.insert(0, nodes.ExprStmt(step))
        return node

    visit_For = visit_Macro = visit_CallBlock = _with_step

    def _made(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") == "store" else self._guard.call_method("made", [node])

    visit_List = visit_Tuple = visit_Dict = _made

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return self._guard.call_method("joined", node.nodes)
