"""What Sphinx does to the pages beyond its own: formulas, pictures, docstrings, MathJax."""
import importlib.util
import re
import shutil
from pathlib import Path

import examples
import stage
from docutils import nodes

TAG = re.compile(r"\\tag\{(\d+)\.(\d+)\}")
NUMBER = re.compile(r"\((\d)\.(\d+)\)")
OPTION = re.compile(r"(\*{0,2}\w[\w, *]{0,40}):\s+(.*)")

NAMES = (
    ("<summary><span", '<summary aria-label="Show the pages of this section"><span'),
    ('<summary aria-label="Toggle hidden content">', "<summary>"),
    ('title="Search" aria-label="Search" data-bs-placement', 'title="Search" data-bs-placement'),
    ('<div class="math notranslate nohighlight"',
     '<div tabindex="0" class="math notranslate nohighlight"'),
)


def name_formulas(app, doctree) -> None:
    """Give each numbered formula an id, eq-1-4, and leave its LaTeX as it is."""
    for node in doctree.findall(nodes.math_block):
        text = node.astext()
        if match := TAG.search(text):
            node["ids"].append(f"eq-{match[1]}-{match[2]}")
        if not text.lstrip().startswith(r"\begin{equation"):
            node.children = [nodes.Text(rf"\[{text}\]")]
        node["nowrap"] = node["no-wrap"] = True


def link_formulas(app, doctree, docname: str) -> None:
    """Turn (1.4) in a text into a link to that formula."""
    pages = stage.formulas()
    skip = (nodes.literal, nodes.literal_block, nodes.reference, nodes.title, nodes.math)
    for text in list(doctree.findall(nodes.Text)):
        parents = (nodes.raw, nodes.math_block, nodes.image)
        if isinstance(text.parent, (type(None), *skip, *parents)) or not NUMBER.search(text):
            continue
        new, end = [], 0
        for match in NUMBER.finditer(text):
            page = pages.get(match.groups())
            if page is None or _inside(text, skip):
                continue
            new.append(nodes.Text(text[end:match.start()]))
            uri = "" if page == docname else app.builder.get_relative_uri(docname, page)
            uri = f"{uri}#eq-{match[1]}-{match[2]}"
            new.append(nodes.reference("", match[0], refuri=uri, internal=True))
            end = match.end()
        if new:
            text.parent.replace(text, [*new, nodes.Text(text[end:])])


def _inside(node, kinds) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kinds):
            return True
    return False


def describe_images(app, doctree) -> None:
    """The alternative text of each picture among a notebook's outputs."""
    file = Path(app.srcdir) / f"{app.env.docname}.ipynb"
    found = stage.alternatives(file) if file.exists() else {}
    for image in doctree.findall(nodes.image):
        if not image.get("alt"):
            image["alt"] = found.get(Path(image["uri"]).stem, "")


def plain_docstring(app, what, name, obj, options, lines: list[str]) -> None:
    """Plain text to reStructuredText: paragraphs, and a list of what is named `name: text`."""
    new = []
    for block in re.split(r"\n\s*\n", "\n".join(lines)):
        rows, kind = [], "text"
        for line in block.splitlines():
            match = OPTION.fullmatch(line)
            if match and not line.startswith(("Raises", "Returns")):
                rows.append(f"**{_escape(match[1])}**: {_escape(match[2])}")
                kind = "list"
            elif rows:
                rows[-1] += " " + _escape(line.strip())
            else:
                rows.append(_escape(line.strip()))
        new += [f"* {row}" if kind == "list" else row for row in rows] + [""]
    lines[:] = new + example_of(obj if what in ("function", "class") else None)


def example_of(thing: object) -> list[str]:
    """A statement that uses it, from a lesson or a test, as reStructuredText."""
    example = examples.examples().get(examples.name_of(thing))
    if example is None:
        return []
    code = [f"   {line}" for line in example.code.split("\n")]
    return [f"In {example.where}:", "", ".. code-block:: python", "", *code, ""]


def _escape(text: str) -> str:
    """Plain text, with `code` as code."""
    parts = re.split(r"`+([^`]+)`+", text)
    plain = [re.sub(r"([\\*_|<>:])", r"\\\1", part) for part in parts[::2]]
    code = [f" ``{part.strip()}``\\ " for part in parts[1::2]]
    return "".join(a + b for a, b in zip(plain, [*code, ""])).strip()


def copy_mathjax(app, error) -> None:
    """MathJax and its fonts, from the package that ships them."""
    if error is None:
        package = importlib.util.find_spec("sphinx-mathjax-offline")
        source = Path(package.origin).parent / "static/mathjax"
        target = Path(app.outdir) / "_static/mathjax"
        fonts = "output/chtml/fonts/woff-v2"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / "tex-chtml-full.js", target)
        shutil.copytree(source / fonts, target / fonts, dirs_exist_ok=True)


def name_controls(app, error) -> None:
    """What the theme leaves unnamed gets a name, and what scrolls can be reached by keyboard."""
    if error is None:
        for file in Path(app.outdir).rglob("*.html"):
            text = file.read_text(encoding="utf-8")
            for old, new in NAMES:
                text = text.replace(old, new)
            file.write_text(text, encoding="utf-8")
