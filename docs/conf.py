"""The documentation site: `sphinx-build -W --keep-going -b html docs docs/_build/html`."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import generate  # noqa: E402  (beside this file, which Sphinx does not put on the path)

generate.write(HERE / "_generated")

project = "rbfbench"
author = "The rbfbench authors"
release = metadata.version("rbfbench")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
highlight_language = "none"  # blocks without a language are commands and what they print
smartquotes = False  # they would make a dash of the -- of an option
default_role = "literal"  # docstrings mark names as Markdown does

myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = {"math"}  # GitHub's way to write a displayed formula
myst_heading_anchors = 3

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_show_copyright = False
html_title = f"rbfbench {release}"
