"""Sphinx: how `make site` turns the pages that stage.py collects into html."""
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import handlers  # noqa: E402
import stage  # noqa: E402

project = "Diffusion models, hands on"
html_title = project
project_copyright = "the authors of this course, MIT licence"
language = "en"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
exclude_patterns = []
myst_enable_extensions = ["dollarmath", "amsmath"]
suppress_warnings = [
    "myst.header",        # cards and sheets skip a level of headings
    "mystnb.unknown_mime_type",
]
nb_execution_mode = "off"
nb_merge_streams = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"

html_theme = "sphinx_book_theme"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "repository_url": stage.address(),
    "use_repository_button": True,
    "use_download_button": False,
    "home_page_in_toc": True,
    "show_toc_level": 2,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
mathjax_path = "mathjax/tex-chtml-full.js"
mathjax3_config = {"options": {"enableMenu": False}}


def setup(app):
    """Connect what this site does to its pages."""
    app.connect("doctree-read", handlers.name_formulas)
    app.connect("doctree-read", handlers.describe_images)
    app.connect("doctree-resolved", handlers.link_formulas)
    app.connect("autodoc-process-docstring", handlers.plain_docstring)
    app.connect("build-finished", handlers.copy_mathjax)
    app.connect("build-finished", handlers.name_controls)
