"""A text-to-image model behind a web page and a JSON endpoint, on this machine.

    python -m course_lib.web
        pixel figures, at http://127.0.0.1:7860; Ctrl-C ends it
    python -m course_lib.web --model nouns --port 8000
        another checkpoint of the course, or the folder of a published Stable Diffusion

It needs the extra `web`: pip install 'course_lib[web]'.
"""
import argparse
import dataclasses
import logging
import signal
import sys

from .gate import LOCAL
from .limits import Limits
from .painter import Painter
from .server import serve
from .service import Service


def read_limits(pairs: list[str]) -> Limits:
    """Limits from pairs such as "queue=4". Raises ValueError for what is no such pair."""
    kinds = {field.name: field.type for field in dataclasses.fields(Limits)}
    found = {}
    for pair in pairs:
        name, _, number = pair.partition("=")
        try:
            found[name] = kinds[name](number)
        except (KeyError, ValueError):
            names = ", ".join(kinds)
            raise ValueError(f"a limit is NAME=NUMBER, of {names}; got {pair!r}") from None
    return Limits(**found)


def main(arguments: list[str] | None = None) -> int:
    """Raises nothing: says in one sentence what is missing, and returns 1."""
    parser = argparse.ArgumentParser(
        prog="python -m course_lib.web",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="mini_sd", help="a checkpoint's name, or a folder")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 in a container")
    parser.add_argument("--name", action="append", default=[],
                        help="a name under which clients may ask, besides localhost")
    parser.add_argument("--device", help="cpu, cuda or mps; by default the best there is")
    parser.add_argument("--limit", action="append", default=[], metavar="NAME=NUMBER",
                        help="such as queue=4 or drawing=600: course_lib/web/limits.py has all")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    try:
        limits = read_limits(chosen.limit)
        painter = Painter.load(chosen.model, chosen.device)
        with Service(painter, limits) as service:
            serve(service, chosen.host, chosen.port, (*LOCAL, *chosen.name))
    except KeyboardInterrupt:
        pass
    except (ImportError, OSError, TypeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))   # so that the private folder is deleted
    sys.exit(main())
