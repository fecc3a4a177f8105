"""What experiments need: data, training, evaluation and what a notebook shows.

Only this folder sees both schedules and networks. The short names are loaded when they are first
used: `from course_lib.lab import data, train, metrics, plots, widgets`.
"""
import importlib

SHORT_NAMES = {
    "data": "data",
    "noun_parts": "data.noun_parts",
    "styles": "data.styles",
    "word_vectors": "data.word_vectors",
    "caption_grammar": "data.caption_grammar",
    "sudoku": "data.sudoku",
    "train": "training",
    "attributes": "evaluation.attributes",
    "features": "evaluation.features",
    "metrics": "evaluation.metrics",
    "profiling": "evaluation.profiling",
    "sampler_study": "evaluation.sampler_study",
    "sampling": "evaluation.sampling",
    "texts": "evaluation.texts",
    "clips": "evaluation.clips",
    "sounds": "evaluation.sounds",
    "small_sets": "evaluation.small_sets",
    "policies": "evaluation.policies",
    "plots": "notebook.plots",
    "tables": "notebook.tables",
    "widgets": "notebook.widgets",
}


def __getattr__(name: str):
    if name not in SHORT_NAMES:
        raise AttributeError(f"course_lib.lab has {', '.join(SHORT_NAMES)}; there is no {name!r}")
    return importlib.import_module(f"{__name__}.{SHORT_NAMES[name]}")


def __dir__() -> list[str]:
    return sorted(SHORT_NAMES)
