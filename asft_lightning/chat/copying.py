"""Whether a chat template only copies what is said: then conversations of one shape differ in nothing but their texts.

It is read, not tried. A template that looks into a text, or that this reading does not follow, does not count.
"""

from enum import Enum
from functools import lru_cache

from jinja2 import TemplateSyntaxError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

_LOOP = {"index", "index0", "revindex", "revindex0", "first", "last", "length"}
"""What of ``loop`` is the same whatever is said."""
_FUNCTIONS = {"raise_exception", "namespace", "range"}
_SAME_FOR_ANY_TEXT = {"defined", "undefined", "string", "none", "mapping"}
"""Tests that ask what a text is, and not what it says."""
_STRIPS = {"strip", "lstrip", "rstrip"}


class _Kind(Enum):
    """What an expression comes to."""

    PLAIN = "the same whatever is said"
    TEXT = "what is said, with something before or after it"
    MESSAGES = "messages, or one of them"


class _LooksError(Exception):
    """The template may do more with a text than copy it."""


@lru_cache
def only_copies(chat_template: str) -> bool:
    """Whether a chat template does nothing with contents but write them, strip them, and add other text to them.

    Args:
        chat_template: Jinja.

    >>> only_copies("{% for m in messages %}{{ m.role + m['content'] | trim }}{% endfor %}")
    True
    >>> only_copies("{% for m in messages %}{% if 'x' in m.content %}{{ m.content }}{% endif %}{% endfor %}")
    False
    """
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    try:
        _Reading().statements(environment.parse(chat_template).body)
    except (_LooksError, TemplateSyntaxError, RecursionError):
        return False
    return True


class _Reading:
    """One pass through a template; what a name may hold in one place counts everywhere after it."""

    def __init__(self) -> None:
        self.kinds = {"messages": _Kind.MESSAGES}

    def statements(self, body: list[nodes.Node]) -> None:
        for node in body:
            match node:
                case nodes.Output():
                    self.any_text(*node.nodes)
                case nodes.If():
                    self.require_plain(node.test)
                    self.statements([*node.body, *node.elif_, *node.else_])
                case nodes.For(target=nodes.Name(name=name), recursive=False):
                    self.assign(name, self.same(node.iter, _Kind.MESSAGES))
                    self.require_plain(*([node.test] if node.test else []))
                    self.statements([*node.body, *node.else_])
                case nodes.Assign(target=nodes.Name(name=name)):
                    self.assign(name, self.kind(node.node))
                case nodes.Assign(target=nodes.NSRef()):
                    self.require_plain(node.node)
                case nodes.Continue() | nodes.Break():
                    pass
                case _:
                    raise _LooksError

    def assign(self, name: str, kind: _Kind) -> None:
        known = self.kinds.get(name, _Kind.PLAIN)
        if _Kind.PLAIN not in (known, kind) and known is not kind:
            raise _LooksError
        self.kinds[name] = known if kind is _Kind.PLAIN else kind

    def require_plain(self, *parts: nodes.Node) -> None:
        if any(self.kind(part) is not _Kind.PLAIN for part in parts):
            raise _LooksError

    def kind(self, node: nodes.Node) -> _Kind:
        match node:
            case nodes.Name() if node.name != "loop":  # which holds messages of its own, as loop.previtem
                return self.kinds.get(node.name, _Kind.PLAIN)
            case nodes.Getattr(attr=str() as key) | nodes.Getitem(arg=nodes.Const(value=str() as key)):
                return self.member(node.node, key)
            case nodes.Getitem():
                self.require_plain(node.arg)
                return self.same(node.node, _Kind.MESSAGES)
            case nodes.Add() | nodes.Concat():
                return self.any_text(*node.iter_child_nodes())
            case nodes.CondExpr(expr2=nodes.Node() as otherwise):
                self.require_plain(node.test)
                return self.any_text(node.expr1, otherwise)
            case nodes.Filter(name="trim", node=nodes.Node() as stripped, args=[], kwargs=[]):
                return self.same(stripped, _Kind.TEXT)
            case nodes.Call(node=nodes.Getattr(node=stripped, attr=name), args=[], kwargs=[]) if name in _STRIPS:
                return self.same(stripped, _Kind.TEXT)
        self.require_same_answer(node)
        return _Kind.PLAIN

    def require_same_answer(self, node: nodes.Node) -> None:
        """Refuse what may come to another value for other texts."""
        match node:
            case nodes.Name():
                raise _LooksError
            case nodes.Call(node=nodes.Name(name=name)) if name not in _FUNCTIONS:
                raise _LooksError
            case nodes.Test(name=name) if name in _SAME_FOR_ANY_TEXT:
                self.same(node.node, _Kind.TEXT)
            case nodes.Compare(ops=[nodes.Operand(op="eq" | "ne", expr=nodes.Const(value=bool() | None))]):
                self.same(node.expr, _Kind.TEXT)  # a text is never one of these
            case nodes.Filter(name="length", node=nodes.Node() as counted):
                self.same(counted, _Kind.MESSAGES)
            case _:
                self.require_plain(*node.iter_child_nodes())

    def any_text(self, *parts: nodes.Node) -> _Kind:
        kinds = [self.same(part, _Kind.TEXT) for part in parts]
        return _Kind.TEXT if _Kind.TEXT in kinds else _Kind.PLAIN

    def same(self, node: nodes.Node, other: _Kind) -> _Kind:
        """The kind of a node, which may be PLAIN or this one."""
        if (kind := self.kind(node)) not in (_Kind.PLAIN, other):
            raise _LooksError
        return kind

    def member(self, owner: nodes.Node, key: str) -> _Kind:
        """What an attribute or entry of that name is."""
        if isinstance(owner, nodes.Name) and owner.name == "loop" and key in _LOOP:
            return _Kind.PLAIN
        if self.same(owner, _Kind.MESSAGES) is _Kind.PLAIN or key == "role":
            return _Kind.PLAIN
        if key != "content":
            raise _LooksError
        return _Kind.TEXT
