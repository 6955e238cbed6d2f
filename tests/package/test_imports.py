"""What is imported when: the package when it is used, and what takes long only where it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import captum_attattr

ROOT = Path(captum_attattr.__file__).parents[1]


def imported(code):
    """The modules that a fresh interpreter has after this code."""
    lines = f"{code}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_the_package_alone_imports_nothing():
    found = imported("import captum_attattr; assert 'explain' in dir(captum_attattr)")
    assert not found & {"torch", "transformers", "captum", "matplotlib", "networkx", "pydantic"}
    assert {name for name in found if name.startswith("captum_attattr")} == {"captum_attattr"}


def test_explain_needs_no_trees_and_no_page():
    found = imported("from captum_attattr import explain")
    assert "captum_attattr.attention.transformers_interface" in found  # wraps transformers' look-ups
    assert not {name for name in found if name.split(".")[0] in ("networkx", "bokeh")}
    assert not found & {"captum_attattr.heads", "captum_attattr.pictures", "captum_attattr.tree"}


def test_the_commands_need_no_networkx_and_the_collector_is_on_again():
    found = imported("import gc; from captum_attattr.cli import _commands; _commands(); assert gc.isenabled()")
    assert {"captum_attattr.cli.explain", "captum_attattr.cli.triggers"} <= found
    assert not {name for name in found if name.split(".")[0] in ("networkx", "bokeh")}


def for_type_checkers():
    """The names that are imported under TYPE_CHECKING, with their packages."""
    tree = ast.parse(Path(captum_attattr.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imports if str(node.module).startswith("captum_attattr.")]
    return {alias.name: node.module for node in ours for alias in node.names}


def test_type_checkers_and_programs_get_the_same():
    places = for_type_checkers()
    assert sorted(places) == sorted(captum_attattr.__all__)
    for name, place in places.items():
        assert getattr(captum_attattr, name) is getattr(import_module(place), name)


def test_packages_are_attributes():
    assert captum_attattr.faithfulness is import_module("captum_attattr.faithfulness")
    assert {"explain", "faithfulness", "__doc__"} <= set(dir(captum_attattr))
    with pytest.raises(AttributeError, match=r"^module 'captum_attattr' has no attribute 'explian'$"):
        captum_attattr.explian  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'explian'"):
        from captum_attattr import explian  # noqa: F401
