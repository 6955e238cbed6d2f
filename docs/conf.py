"""The API reference, made from the docstrings: sphinx-build -W docs build/docs."""

import importlib.metadata

import captum_attattr

project = "captum_attattr"
author = "The captum_attattr developers"
release = importlib.metadata.version("captum-attattr")

extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
templates_path = ["_templates"]

# A class is described once: on the page of the package itself where that names it.
autosummary_context = {"at_the_top": captum_attattr.__all__}
# What is public is what __init__.py names in __all__, wherever it is defined.
autosummary_ignore_module_all = False
autosummary_imported_members = True
autodoc_default_options = {"members": True}
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"captum_attattr {release}"
