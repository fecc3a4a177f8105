"""Numbers among the defaults of every function and class: what callers get without asking.

    python tests/test_signatures.py          writes the table anew, after a change on purpose
"""
import importlib
import inspect
import json
import pkgutil
from pathlib import Path

import course_lib

TABLE = Path(__file__).with_name("signatures.json")


def found() -> dict[str, dict[str, float]]:
    """{"course_lib.guidance.cfg": {"rescale": 0.0}, ...}, of what each module defines."""
    table = {}
    for module in pkgutil.walk_packages(course_lib.__path__, "course_lib."):
        if not module.name.endswith("__main__"):
            owner = importlib.import_module(module.name)
            for name, value in inspect.getmembers(owner):
                if getattr(value, "__module__", None) == module.name:
                    table |= _of(f"{module.name}.{name}", value)
    return dict(sorted(table.items()))


def _of(name: str, value) -> dict[str, dict[str, float]]:
    """The defaults of a function, or of a class and of its own methods."""
    table = {}
    if inspect.isclass(value):
        for method, f in vars(value).items():
            f = getattr(f, "__func__", f)                   # class and static methods
            if inspect.isfunction(f):
                table |= _of(f"{name}.{method}", f)
    elif callable(value):
        parameters = inspect.signature(value).parameters.values()
        numbers = {p.name: p.default for p in parameters if type(p.default) in (int, float)}
        if numbers:
            table[name] = numbers
    return table


def test_the_numbers_among_the_defaults():
    here, table = found(), json.loads(TABLE.read_text(encoding="utf-8"))
    changed = [name for name in here.keys() | table.keys() if here.get(name) != table.get(name)]
    assert not changed, "on purpose? then python tests/test_signatures.py"


if __name__ == "__main__":
    TABLE.write_text(json.dumps(found(), indent=1) + "\n", encoding="utf-8")
