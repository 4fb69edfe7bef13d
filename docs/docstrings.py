"""Docstrings as the reference page shows them: a griffe extension that ``mkdocs.yml`` names.

The package's docstrings are Google's in layout and Sphinx's in their marks, as Python's own help shows them best.
mkdocstrings reads the layout alone, so marks become Markdown here: roles become links, math MathML that browsers draw
without a script, ``Example:`` the section that it knows as ``Examples:``, and attributes that share a line get one
each, with the types that the constructor's parameters have.

Example:
    >>> as_markdown("Of :math:`d` dimensions, see :mod:`toy.parts`.", lambda name: None)[:9]
    'Of <span>'
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

import griffe
from latex2mathml.converter import convert

_ROLE = re.compile(r":(attr|class|data|exc|func|math|meth|mod):`(~?)([^`]+)`")
_DISPLAYED = re.compile(r"^( *)\.\. math::(.*\n(?:(?:\1 +.*)?(?:\n|\Z))*)", re.MULTILINE)
_SHARED = re.compile(r"^( +)(\w+(?:, \w+)+):((?: .*)?(?:\n\1 +.*)*)", re.MULTILINE)
_ATTRIBUTES = re.compile(r"^Attributes:\n(?: +.*(?:\n|\Z)|\n)+", re.MULTILINE)
_ATTRIBUTE = re.compile(r"^(    \w+):(?= |$)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrites every docstring once, as soon as its object was read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe."""
        if obj.docstring is not None:
            text = as_markdown(obj.docstring.value, lambda name: _resolved(obj, name))
            obj.docstring.value = _ATTRIBUTES.sub(lambda found: _typed(found[0], obj), text)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Called by griffe, which does not count packages as objects."""
        self.on_object(obj=pkg)


def as_markdown(text: str, resolved: Callable[[str], str | None]) -> str:
    """A docstring's text without Sphinx's marks.

    Args:
        resolved: the full name of what a role names, None if nothing is known of it.
    """
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
    text = _DISPLAYED.sub(lambda found: f"{found[1]}{_mathml(found[2], 'block')}\n\n", text)
    text = _SHARED.sub(lambda found: "\n".join(f"{found[1]}{name}:{found[3]}" for name in found[2].split(", ")), text)
    return _ROLE.sub(lambda found: _role(found, resolved), text)


def _role(found: re.Match[str], resolved: Callable[[str], str | None]) -> str:
    kind, short, name = found.groups()
    if kind == "math":
        return _mathml(name, "inline")
    title, titled, name = name.removesuffix(">").rpartition(" <")
    shown = escape(title if titled else name.rpartition(".")[2] if short else name)
    target = resolved(name)
    return f"`{shown}`" if target is None else f'<autoref identifier="{target}" optional><code>{shown}</code></autoref>'


def _mathml(latex: str, display: str) -> str:
    found = convert(" ".join(latex.split()), display=display)
    return found if display == "block" else f"<span>{found}</span>"  # else Markdown takes a line's first for a block


def _resolved(obj: griffe.Object, name: str) -> str | None:
    """The full name of what stands in a role: in an object's class, in its module, or from the package's top."""
    for scope in _scopes(obj):
        try:
            return scope.resolve(name) if "." not in name else scope[name].path
        except (griffe.NameResolutionError, KeyError):
            continue
    return name if "." in name else None


def _scopes(obj: griffe.Object) -> Iterator[griffe.Object]:
    while True:
        yield obj
        if obj.parent is None or isinstance(obj, griffe.Module):
            return
        obj = obj.parent  # type: ignore[assignment]


def _typed(section: str, obj: griffe.Object) -> str:
    """A section of attributes, types beside those that no member of the class tells.

    griffe would give an attribute that it knows nothing of the type of the one before.
    """
    members = obj.all_members if isinstance(obj, griffe.Class) else obj.members
    start = members.get("__init__")
    given = {each.name: each.annotation for each in start.parameters} if isinstance(start, griffe.Function) else {}

    def typed(found: re.Match[str]) -> str:
        name = found[1].strip()
        if getattr(members.get(name), "annotation", None) is not None:
            return found[0]
        return f"{found[1]} ({given.get(name) or ''}):"

    return _ATTRIBUTE.sub(typed, section)
