"""Sample the surfaces of chairs, tables and lamps: Sweet Home 3D's furniture as point clouds.

    python tools/recipes/make_clouds.py DIR
        DIR holds BlendSwap-CC-0.sh3f, BlendSwap-CC-BY.sh3f, KatorLegaz.sh3f and Scopia.sh3f of
        Sweet Home 3D's 3D models (https://www.sweethome3d.com/)
    python tools/recipes/make_clouds.py DIR --licences FILE
        also writes the table of models, creators and licences for assets/LICENSES.md

Each model has the proportions of the catalogue, and faces the viewer: x to the right, y up, z to
the front. 2,048 points are drawn evenly from its surface, centred and scaled so that the largest
coordinate is 1: how large it was is lost.

Models that two samples of 512 points hardly tell apart are one group, and a group is in one split.
Prints counts, groups, and the digest that `course_lib/lab/data/furniture.py` checks.
"""
import argparse
import html
import itertools
import re
import zipfile
from pathlib import Path
from typing import NamedTuple

import npz
import numpy as np
from scipy.cluster.hierarchy import DisjointSet
from scipy.spatial import KDTree

FILE = Path(__file__).parents[2] / "course_lib/assets/clouds.npz"
CLASSES = ("chair", "table", "lamp")
POINTS = 2048
HELD_OUT = 0.3                      # of each class, at least
ALIKE = 1.3                         # times the distance of two samples of one model
RESOLUTION = 512                    # points, when models are compared

# The folders of the models, chosen by eye. A chair has a back: no stools without one, no loungers,
# no sofas. A table stands on legs or on a foot: no boxes with a top. A lamp is no tube, spot,
# lantern or candle.
MODELS = {
    "BlendSwap-CC-0": {
        "chair": """armchair oakChair plasticChair silla2 stool deckChair sillaBlanca armchair2
            chair modernArmchair antiqueChair chairWithCushion chair2 osakaChair winchesterArmchair
            designChair thonet""",
        "table": "oakTable poolTable technicalTable1 technicalTable2 table lbDesk",
        "lamp": "desklamp lamp2 wallLight outdoorLamp",
    },
    "BlendSwap-CC-BY": {
        "chair": """cafe_set_mota_chair cafe_set_tonon_chair chairWithCushion childChair
            ella_chair_f leaf_chair armchair1 fotel classSeat foldingChair plaidChair armChair2
            kitchenChair chair3 chair4""",
        "table": """biurko3 cafe_set_mota_table cafe_set_tonon_table coffeeTable simpleDesk
            table_tennis table officeTable""",
        "lamp": "hangingLight lamp campingLamp",
    },
    "KatorLegaz": {
        "chair": "cafe-chair mid-century-chair bar-stool dining-chair office-chair",
        "table": "cafe-table folding-table glass-dining-table",
        "lamp": """classic-lamppost hanging-restaurant-light park-light pedestal-vase-lamp
            porch-light""",
    },
    "Scopia": {
        "chair": """ext_chair silla_teca armchair3 armchair armchair1 chair3 chair4 chair
            office_chair tubular_chair armchair2 bar_chair kids_desk_chair kitchen_stool
            modern_armchair plastic_chair white_kitchen_chair baby_high_chair children_chair
            rattanArmchair ryokanChair""",
        "table": """ext_table black_table saloon_table coffee_table table3 table4
            wooden_table_office metal_glass_table glass_table_office desk_table bar_table
            kids_desk_table kids_wooden_desk living_room_table table_wood_and_iron
            wooden_office_alder_table wooden_office_pear_table_rect wooden_office_pear_table
            wooden_office_teak_table white_kitchen_table coffee-table2 table-on-trestles
            table-with-leaning-feet round-table children_table""",
        "lamp": """farola1 desk_lamp1 desk_lamp2 little_lamp1 little_lamp2 little_lamp3 saloon_lamp
            table_lamp living_room_lamp1 living_lamp chandelier-lamp candelabre""",
    },
}
CC0 = "CC0 1.0"
CC_BY = "CC BY 3.0"
LICENCES = {                        # of the archive
    "BlendSwap-CC-0": CC0,
    "BlendSwap-CC-BY": CC_BY,
    "KatorLegaz": "CC BY 3.0 US",
    "Scopia": CC_BY,
}
CREATORS = {                        # as LICENSE.TXT in the archive asks; others by model
    "KatorLegaz": "Andrew Kator & Jennifer Legaz",
    "Scopia": "Emmanuel PUYBARET / eTeks <info@eteks.com> and Scopia Visual Interfaces Systems, "
              "s.l. (http://www.scopia.es)",
}


class Model(NamedTuple):
    """One piece of furniture. page: where it was published, if its licence file says so; points:
    (POINTS, 3) in [-1, 1].
    """
    kind: str
    name: str
    creator: str
    licence: str
    page: str
    points: np.ndarray


# ---- reading

def catalogue(archive: zipfile.ZipFile) -> dict[str, dict[str, str]]:
    """The properties of each model, by its folder: name#7=Chair, model#7=/scopia/chair/chair.obj.
    """
    text = archive.read("PluginFurnitureCatalog.properties").decode("latin-1")
    entries: dict[str, dict[str, str]] = {}
    for key, number, value in re.findall(r"^(\w+)#(\d+)=(.*?)\s*$", text, re.M):
        entries.setdefault(number, {})[key] = value
    return {entry["model"].split("/")[-2]: entry for entry in entries.values()}


def read_obj(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) and triangles (F, 3) of an OBJ file; polygons become fans of triangles."""
    vertices, triangles = [], []
    for line in text.splitlines():
        kind, *fields = line.split() or [""]
        if kind == "v":
            vertices.append([float(field) for field in fields[:3]])
        elif kind == "f":
            corners = [int(field.split("/")[0]) for field in fields]
            # counted from 1, or backwards from the last one read
            corners = [c - 1 if c > 0 else len(vertices) + c for c in corners]
            triangles += [(corners[0], *pair) for pair in itertools.pairwise(corners[1:])]
    return np.array(vertices), np.array(triangles)


def in_proportion(vertices: np.ndarray, triangles: np.ndarray, entry: dict) -> np.ndarray:
    """The vertices, turned and stretched to the catalogue's width, height and depth."""
    turn = np.array(entry.get("modelRotation", "1 0 0 0 1 0 0 0 1").split(), float)
    vertices = vertices @ turn.reshape(3, 3).T
    low, high = (end(vertices[np.unique(triangles)], axis=0) for end in (np.min, np.max))
    size = np.array([float(entry[side]) for side in ("width", "height", "depth")])
    return (vertices - low) / (high - low) * size


def licence(archive: zipfile.ZipFile, folder: str, default: str) -> tuple[str, str]:
    """The licence that a model's own file states (the archive's, default, where it has no file),
    and the page that it came from. Raises SystemExit for another licence than CC0 and CC BY 3.0.
    """
    files = [f for f in archive.namelist() if f"/{folder}/" in f and "licen" in f.lower()]
    if not files:
        return default, ""
    text = html.unescape(re.sub("<[^>]*>", " ", archive.read(files[0]).decode("utf-8", "replace")))
    stated = re.search(r"Creative\s+Commons\s+(Zero|Attribution\s+3\.0)", text)
    if stated is None:
        raise SystemExit(f"{files[0]} names another licence: leave {folder} out")
    page = re.search(r"https?://www\.blendswap\.com/blends/view/\d+", text)
    return CC0 if stated[1] == "Zero" else CC_BY, page[0] if page else ""


# ---- points

def sample_surface(vertices: np.ndarray, triangles: np.ndarray, n: int, g) -> np.ndarray:
    """n points (n, 3), uniform on the surface. (Osada et al. 2002, section 3.2)"""
    a, b, c = vertices[triangles.T]                                     # (F, 3) each
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    chosen = g.choice(len(triangles), n, p=area / area.sum())
    root, u = np.sqrt(g.random((n, 1))), g.random((n, 1))
    return (1 - root) * a[chosen] + root * (1 - u) * b[chosen] + root * u * c[chosen]


def normalised(points: np.ndarray) -> np.ndarray:
    """Centred at the middle of the box, the largest coordinate 1."""
    points = points - (points.min(0) + points.max(0)) / 2
    return points / np.abs(points).max()


def packed(clouds: np.ndarray) -> np.ndarray:
    """Clouds (N, P, 3) in 127ths, points in sorted order, as differences (N, 3, P) int8.

    Differences of sorted points are small, so that the file takes little more than half of the
    bytes. They are modulo 256, and so is the sum that undoes them.
    """
    whole = np.rint(127 * clouds).astype(np.int16)
    in_order = np.stack([cloud[np.lexsort(cloud[:, [1, 0, 2]].T)] for cloud in whole])
    return np.diff(in_order, axis=1, prepend=0).astype(np.int8).transpose(0, 2, 1)


# ---- groups and splits

def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The Chamfer distance of two clouds (P, 3): the mean of both directions, not squared."""
    return (KDTree(a).query(b)[0].mean() + KDTree(b).query(a)[0].mean()) / 2


def symmetric_copies(cloud: np.ndarray) -> list[np.ndarray]:
    """A cloud in four quarter turns about the vertical, as it is and mirrored."""
    turned = [cloud @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
              for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    return turned + [copy * (-1, 1, 1) for copy in turned]


def groups(models: list[Model]) -> np.ndarray:
    """The number of each model's group (N,): models of one class that are nearly the same."""
    halves = [(m.points[:RESOLUTION], m.points[RESOLUTION : 2 * RESOLUTION]) for m in models]
    floor = [distance(*half) for half in halves]
    sets = DisjointSet(range(len(models)))
    for i, j in itertools.combinations(range(len(models)), 2):
        if models[i].kind != models[j].kind:
            continue
        apart = min(distance(halves[i][0], copy) for copy in symmetric_copies(halves[j][1]))
        ratio = apart / (floor[i] * floor[j]) ** 0.5
        if ratio < ALIKE:
            print(f"{ratio:.2f}  {models[i].name}  =  {models[j].name}")
            sets.merge(i, j)
    number = {min(subset): k for k, subset in enumerate(sorted(sets.subsets(), key=min))}
    return np.array([number[min(sets.subset(i))] for i in range(len(models))])


def held_out(kinds: np.ndarray, group: np.ndarray, seed: int = 0) -> np.ndarray:
    """Which models are for tests (N,): of each class whole groups at random, up to HELD_OUT."""
    g, test = np.random.default_rng(seed), np.zeros(len(kinds), bool)
    for kind in range(len(CLASSES)):
        own = kinds == kind
        for number in g.permutation(np.unique(group[own])):
            if test[own].mean() < HELD_OUT:
                test |= group == number
    return test


# ---- all of it

def read_models(folder: Path) -> list[Model]:
    """Every chosen model, class by class."""
    found = []
    for kind in CLASSES:
        for pack, names in MODELS.items():
            with zipfile.ZipFile(folder / f"{pack}.sh3f") as archive:
                entries = catalogue(archive)
                found += [read_model(archive, pack, name, entries[name], kind)
                          for name in names[kind].split()]
    return found


def read_model(archive: zipfile.ZipFile, pack: str, folder: str, entry: dict, kind: str) -> Model:
    """One model; the same points each time, whatever other models there are."""
    mesh = archive.read(entry["model"].lstrip("/")).decode("latin-1")
    vertices, triangles = read_obj(mesh)
    vertices = in_proportion(vertices, triangles, entry)
    name = f"{pack}/{folder}"
    points = sample_surface(vertices, triangles, POINTS, np.random.default_rng(list(name.encode())))
    said, page = licence(archive, folder, LICENCES[pack])
    creator = CREATORS.get(pack, entry["creator"])
    return Model(kind, name, creator, said, page, normalised(points))


def table(models: list[Model]) -> str:
    """Models by creator and licence, as Markdown."""
    by: dict[tuple[str, str], list[Model]] = {}
    for model in models:
        by.setdefault((model.licence, model.creator), []).append(model)
    lines = ["| creator | licence | models | published at |", "| --- | --- | --- | --- |"]
    for (said, creator), own in sorted(by.items()):
        names = ", ".join(f"`{model.name}`" for model in own)
        pages = ", ".join(sorted({model.page for model in own if model.page}))
        lines.append(f"| {creator} | {said} | {names} | {pages} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--licences", type=Path, help="a file for the table")
    parser.add_argument("--out", type=Path, default=FILE)
    args = parser.parse_args()
    models = read_models(args.folder)
    kinds = np.array([CLASSES.index(m.kind) for m in models])
    group = groups(models)
    test = held_out(kinds, group)
    arrays = {
        "deltas": packed(np.stack([m.points for m in models])),
        "y": kinds.astype(np.uint8),
        "group": group.astype(np.uint8),
        "test": test,
        "names": np.array([m.name for m in models]),
        "creators": np.array([m.creator for m in models]),
        "licences": np.array([m.licence for m in models]),
    }
    for kind, name in enumerate(CLASSES):
        own = kinds == kind
        said = ", ".join(f"{(own & (arrays['licences'] == text)).sum()} {text}"
                         for text in sorted(set(arrays["licences"])))
        print(f"{name}: {own.sum()} models, {len(set(group[own]))} groups, "
              f"{(own & test).sum()} held out; {said}")
    print(npz.write(args.out, arrays))
    if args.licences:
        args.licences.write_text(table(models), encoding="utf-8")


if __name__ == "__main__":
    main()
