"""The documentation: guide, notebooks, and the reference from the docstrings: sphinx-build -W docs build/docs."""

import importlib.metadata
import shutil
from pathlib import Path

import captum_attattr

project = "captum_attattr"
author = "The captum_attattr developers"
release = importlib.metadata.version("captum-attattr")

extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.mathjax", "sphinx.ext.napoleon", "myst_nb"]
templates_path = ["_templates"]

# The notebooks are shown as they were run; Sphinx finds files below this folder only.
NOTEBOOKS = Path(__file__).parent / "notebooks"
shutil.rmtree(NOTEBOOKS, ignore_errors=True)
NOTEBOOKS.mkdir()
for notebook in sorted((Path(__file__).parents[1] / "tutorials").glob("*.ipynb")):
    shutil.copy(notebook, NOTEBOOKS)
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]

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
