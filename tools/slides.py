"""The lessons' figures as slides: pictures of 1920 x 1080 pixels in build/slides, with index.html.

    python tools/slides.py
        every figure of the built notebooks that a sentence follows
    python tools/slides.py 3 5
        those of these lessons
    python tools/slides.py --pick 1.4 3.11
        those of these sections
    python tools/slides.py --list
        say which there are, write nothing

The title is the section's heading, the text below the figure is what the lesson says first about
it. Nothing is run: a figure has the pixels of its notebook and is enlarged threefold at most.
"""
import argparse
import base64
import html
import io
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.mathtext import MathTextParser
from PIL import Image, ImageFilter

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "build/slides"
WIDTH, HEIGHT = 1920, 1080
BOX = (1760, 700)                           # of the figure
TOP = 150                                   # above it
ENLARGED = 3
TITLE, TEXT, SMALL = 44, 33, 20             # sizes of type, in pixels
LETTERS = {TITLE: 66, TEXT: 98}             # in a line
LONGEST = 330                               # of the text below a figure
NO_END = ("e.g.", "i.e.", "et al.", "cf.", "Fig.", "no.")


@dataclass(frozen=True)
class Slide:
    """One figure: its lesson, its section's number and title, a sentence, and its file."""

    lesson: int
    section: str
    title: str
    text: str
    picture: bytes
    number: int

    @property
    def name(self) -> str:
        """The name of the slide's file."""
        place = int(self.section.split(".")[1]) if "." in self.section else 0
        return f"{self.lesson}_{place:02d}_{self.number}.png"


# ---- from a notebook

def cells_of(file: Path) -> list[dict]:
    """The cells of a notebook, whose sources are strings."""
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in cells]


def pictures(cell: dict) -> list[bytes]:
    """The PNG and JPEG files among a cell's outputs."""
    bundles = [output.get("data", {}) for output in cell.get("outputs", [])]
    kinds = ("image/png", "image/jpeg")
    found = [bundle[kind] for bundle in bundles for kind in kinds if kind in bundle]
    return [base64.b64decode("".join(data)) for data in found]


def slides_of(file: Path) -> list[Slide]:
    """The figures of a notebook that a sentence follows, in their order."""
    lesson, cells = int(file.stem[:2]), cells_of(file)
    section, title, found, counts = "", "", [], {}
    for k, cell in enumerate(cells):
        heads = re.findall(r"^##+ (.+)$", cell["source"], re.M)
        if cell["cell_type"] == "markdown" and heads:
            section, title = place(heads, section)
        text = first_words(cells[k + 1]) if k + 1 < len(cells) else ""
        for picture in pictures(cell) if text else []:
            counts[section] = counts.get(section, 0) + 1
            found.append(Slide(lesson, section, title, text, picture, counts[section]))
    return found


def place(heads: list[str], section: str) -> tuple[str, str]:
    """(number, title) of the section that begins with the last of the headings.

    A heading without a number keeps the section's.
    """
    for head in heads:
        match = re.match(r"(\d+\.\d+) (.+)", head)
        section, title = (match[1], match[2]) if match else (section, head)
    return section, title.removesuffix(" · deeper")


def first_words(cell: dict) -> str:
    """What a text cell says of the figure before it: whole sentences, the first at least."""
    source = cell["source"]
    if cell["cell_type"] != "markdown" or source.startswith(("#", "|", "$$")):
        return ""
    if re.match(r"\*\*[^*]*\?\*\*", source):             # a question leads to what comes next
        return ""
    paragraph = re.split(r"\n\s*\n|\$\$", source)[0].replace("\n", " ")
    paragraph = re.sub(r"^\*\*What [^*]* shows?\b[^*]*\*\*\s*", "", paragraph)
    said = ""
    for sentence in sentences(paragraph):
        if said and len(said) + len(sentence) > LONGEST / 2:
            break
        said = f"{said} {sentence}".strip()
    return said if said.endswith((".", "?", "!", ")")) else ""


def sentences(paragraph: str) -> list[str]:
    """A paragraph cut after full stops, but not within a formula or after "et al."."""
    found, begun = [], ""
    for word in re.split(r"\s+(?=(?:[^$]*\$[^$]*\$)*[^$]*$)", paragraph.strip()):
        begun = f"{begun} {word}".strip()
        if re.search(r"[.?!][)*\"]*$", word) and word not in NO_END:
            found.append(begun)
            begun = ""
    return [*found, begun] if begun else found


# ---- to a picture

def shown(text: str) -> str:
    """Markdown as matplotlib draws it: formulas stay, marks and links go."""
    text = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text)
    parts = re.split(r"(\$[^$]+\$)", text)
    parts[::2] = [re.sub(r"\*\*|\*|`", "", part).replace("$", r"\$") for part in parts[::2]]
    parts[1::2] = [formula(part) for part in parts[1::2]]
    return "".join(parts)


def formula(text: str) -> str:
    """A formula that matplotlib can draw; its letters alone where it cannot."""
    for old, new in {r"\mid": "|", r"\tfrac": r"\frac", r"\varnothing": r"\emptyset",
                     r"\lVert": r"\|", r"\rVert": r"\|", r"\,": " "}.items():
        text = text.replace(old, new)
    text = re.sub(r"\\(mathcal|mathbb|hat|bar|tilde|sqrt) ?(\w)", r"\\\1{\2}", text)
    text = re.sub(r"(\\frac\{[^{}]*\})(\w)", r"\1{\2}", text)
    try:
        MathTextParser("agg").parse(text)
    except ValueError:
        return re.sub(r"[${}\\]", "", text)
    return text


def lines(text: str, letters: int) -> str:
    """A text in lines of about so many letters, cut at spaces outside of formulas."""
    found = [""]
    for word in re.split(r"\s+(?=(?:[^$]*\$[^$]*\$)*[^$]*$)", text):
        if found[-1] and length(f"{found[-1]} {word}") > letters:
            found.append("")
        found[-1] = f"{found[-1]} {word}".strip()
    return "\n".join(found)


def length(text: str) -> int:
    """The letters of a text as it is drawn, about."""
    return len(re.sub(r"[${}^_]", "", re.sub(r"\\[a-zA-Z]+", "x", text)))


def enlarged(picture: bytes) -> Image.Image:
    """The figure on white, as large as the box and its pixels allow."""
    image = Image.open(io.BytesIO(picture)).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    factor = min(BOX[0] / image.width, BOX[1] / image.height, ENLARGED)
    size = (round(image.width * factor), round(image.height * factor))
    image = image.resize(size, Image.Resampling.LANCZOS)
    return image.filter(ImageFilter.UnsharpMask(factor, 60, 2)) if factor > 1 else image


def draw(slide: Slide) -> Image.Image:
    """The slide: title, figure, sentence, and in the corner lesson and section."""
    figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    image = enlarged(slide.picture)
    across = (WIDTH - image.width) // 2
    above = TOP + (BOX[1] - image.height) // 2
    figure.figimage(np.asarray(image), across, HEIGHT - above - image.height)
    left = (WIDTH - BOX[0]) / 2
    put = lambda down, text, **style: figure.text(
        left / WIDTH, 1 - down / HEIGHT, text, va="top", linespacing=1.4, **style
    )
    put(50, lines(shown(slide.title), LETTERS[TITLE]), size=TITLE, weight="bold")
    size = min(TEXT, int(TEXT * 3 * LETTERS[TEXT] / max(1, length(slide.text)) * 0.9))
    said = lines(shown(slide.text), LETTERS[TEXT] * TEXT // size)
    put(TOP + BOX[1] + 30, said, size=size)
    corner = f"Lesson {slide.lesson} · section {slide.section}".removesuffix(" · section ")
    figure.text(1 - left / WIDTH, 28 / HEIGHT, corner, size=SMALL, color="0.4", ha="right")
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


# ---- all of them

def index(slides: list[Slide]) -> str:
    """A page that shows all slides, small, each with its title and its sentence."""
    items = []
    for slide in slides:
        title = html.escape(f"{slide.section} {slide.title}".strip())
        items.append(
            f'<figure><a href="{slide.name}"><img src="{slide.name}" alt="{title}" loading="lazy">'
            f"</a><figcaption><b>{title}</b><br>{html.escape(slide.text)}</figcaption></figure>"
        )
    style = "body{font-family:sans-serif;margin:2em}figure{display:inline-block;width:30em;" \
            "vertical-align:top;margin:1em}img{width:100%;border:1px solid #ccc}"
    return (f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Slides</title>'
            f"<style>{style}</style><h1>{len(slides)} slides</h1>{''.join(items)}</html>\n")


def chosen(lessons: list[int], picked: list[str]) -> list[Slide]:
    """The slides of these lessons (none: of all), or of the sections that are picked.

    Raises SystemExit for a section without a slide.
    """
    files = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    found = [slide for file in files for slide in slides_of(file)]
    missing = sorted(set(picked) - {slide.section for slide in found})
    if missing:
        raise SystemExit(f"no slide comes from {', '.join(missing)}: see --list")
    kept = [slide for slide in found if not lessons or slide.lesson in lessons]
    return [slide for slide in kept if not picked or slide.section in picked]


def write(slides: list[Slide], target: Path) -> None:
    """Write pictures and index into a folder, from which old slides are removed."""
    target.mkdir(parents=True, exist_ok=True)
    for file in target.glob("[0-9]_*.png"):
        file.unlink()
    for slide in slides:
        draw(slide).save(target / slide.name, optimize=True)
    (target / "index.html").write_text(index(slides), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("lessons", nargs="*", type=int, help="1 to 7; all when none is given")
    parser.add_argument("--pick", nargs="+", default=[], metavar="SECTION")
    parser.add_argument("--list", action="store_true", help="write nothing")
    parser.add_argument("--folder", type=Path, default=TARGET)
    args = parser.parse_args()
    slides = chosen(args.lessons, args.pick)
    for slide in slides if args.list else []:
        print(f"{slide.name}  {slide.section} {slide.title}")
    if not args.list:
        write(slides, args.folder)
        print(f"{len(slides)} slides in {args.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
