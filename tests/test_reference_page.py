"""Docstrings as the reference page shows them: Sphinx's marks become Markdown, types what is known of attributes."""

import importlib.util
from pathlib import Path

import griffe
import pytest

_SPEC = importlib.util.spec_from_file_location("docstrings", Path(__file__).parents[1] / "docs" / "docstrings.py")
docstrings = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(docstrings)

TOY = '''
"""A package, see :mod:`toy.parts`."""

class Pear:
    """A fruit; :meth:`cut` and :meth:`slicing <toy.Pear.cut>` it, never an :class:`Apple`.

    Attributes:
        stem: its end.
        width, height: how large it is
            in mm.
        seeds: uncounted.
    """

    stem: str

    def __init__(self, width: float, height: float):
        self.stem, self.seeds = "", object()

    def cut(self) -> None:
        """Along :math:`x_1`.

        Example:
            >>> 1 < 2
            True
        """
'''


@pytest.fixture(scope="module")
def toy():
    extensions = griffe.load_extensions(docstrings.Docstrings())
    with griffe.temporary_visited_package("toy", {"__init__.py": TOY}, extensions=extensions) as module:
        yield module


def same(text):
    return docstrings.as_markdown(text, lambda name: None)


def test_roles_link_to_what_is_known_and_are_code_elsewhere(toy):
    text = toy["Pear"].docstring.value
    assert '<autoref identifier="toy.Pear.cut" optional><code>cut</code></autoref>' in text
    assert '<autoref identifier="toy.Pear.cut" optional><code>slicing</code></autoref> it' in text
    assert "never an `Apple`." in text
    assert 'identifier="toy.parts"' in toy.docstring.value
    assert same(":class:`~toy.parts.Core` and :data:`SIZE`") == "`Core` and `SIZE`"


def test_attributes_get_a_line_and_the_constructors_type_each_and_no_other_ones_type(toy):
    (section,) = [each for each in toy["Pear"].docstring.parse("google") if each.kind.value == "attributes"]
    found = {each.name: (str(each.annotation), each.description) for each in section.value}
    assert found == {
        "stem": ("str", "its end."),
        "width": ("float", "how large it is\nin mm."),
        "height": ("float", "how large it is\nin mm."),
        "seeds": ("", "uncounted."),
    }


def test_formulas_are_mathml_on_lines_of_their_own_or_within_a_line(toy):
    assert "Along <span><math " in toy["Pear.cut"].docstring.value
    text = same("So\n\n.. math::\n    a = \\frac{b}\n        {c}\n\n    + d\n\nand more.")
    assert ".. math" not in text
    before, formula, after = text.split("\n\n")
    assert (before, after) == ("So", "and more.")
    assert formula.startswith("<math ")
    assert formula.count("<mfrac>") == 1
    assert "<mi>d</mi>" in formula


def test_an_example_is_a_section_that_is_read(toy):
    kinds = [each.kind.value for each in toy["Pear.cut"].docstring.parse("google")]
    assert kinds == ["text", "examples"]


def test_prose_and_code_stay_as_they_are():
    text = 'Of ``a, b``: nothing.\n\n    code, here = 1, 2  # :\n\nSee "x" <y>, 3 < 4.'
    assert same(text) == text
