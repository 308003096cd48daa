"""The documentation as a site: `make docs` writes build/docs. The pages are the Markdown files as they are."""

from pathlib import Path

import harness

project = "hyenarec-bench"
author = copyright = "The hyenarec-bench developers"
version = release = harness.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# Built from the root, so that links between pages and to files are those that a reader of the checkout follows.
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/*.md",
    "docs/*.ipynb",
    "results/reference/README.md",
]
root_doc = "docs/index"
myst_heading_anchors = 4
# The notebook is shown with the output that it holds; a test runs it.
nb_execution_mode = "off"
html_theme = "furo"
html_title = "hyenarec-bench"
html_extra_path = [str(Path(__file__).parents[1] / "LICENSE")]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_google_docstring, napoleon_numpy_docstring = True, False
# A badge or a figure may be an SVG; the site shows it as the checkout does.
suppress_warnings = ["image.not_readable"]
