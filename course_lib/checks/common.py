"""What all questions share: the checker, comparisons with known mistakes, and inputs to judge by.

A question is a `Question` in `lesson01.py` and its siblings. With COURSE_STRICT=1 anything but
"right" raises CheckFailed.
"""
import contextlib
import importlib
import inspect
import numbers
import os
import pkgutil
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import CodeType, MappingProxyType, SimpleNamespace
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from .. import validate
from ..lab.data.mixtures import GaussianMixture
from ..schedules import Schedule

F64 = torch.float64
COSINE = Schedule.cosine()
SCHEDULES = {"cosine": COSINE, "flow": Schedule.flow()}


class Wrong(Exception):
    """A diagnosis: one sentence that says what is wrong and where to look."""


class CheckFailed(AssertionError):
    """What a wrong answer raises when COURSE_STRICT=1."""


@dataclass(frozen=True)
class Question:
    """One question.

    `judge(answer)` returns when the answer is right and raises Wrong with a diagnosis when it is
    not.
    """
    name: str
    points: int
    judge: Callable[[object], None]
    praise: str = ""
    hints: tuple[str, ...] = ()


@dataclass
class Checker:
    """Keeps the verdicts of one session.

    `verdicts` maps a question's name to "right", "not yet" or "not attempted".
    """
    verdicts: dict[str, str] = field(default_factory=dict)
    hints_given: dict[str, int] = field(default_factory=dict)

    def __call__(self, name: str, answer: object = None) -> None:
        """Judge one answer and print the verdict."""
        verdict, words = _judge(question(name), answer)
        self.verdicts[name] = verdict
        print(f"{name} {verdict}{': ' + words if words else ''}")
        if verdict != "right" and os.environ.get("COURSE_STRICT") == "1":
            raise CheckFailed(f"{name} {verdict}: {words}")

    def passed(self, name: str) -> bool:
        """Whether the last answer to this question was right."""
        return self.verdicts.get(question(name).name) == "right"

    def summary(self, lesson: int | None = None) -> None:
        """Print points and progress, for one lesson or for every lesson that was begun.

        Raises ValueError for a lesson that is not there.
        """
        if lesson is not None:
            validate.choice(lesson, "lesson", _lessons())
        begun = sorted({int(name.split(".")[0]) for name in self.verdicts})
        if not lesson and not begun:
            print("No question has been checked yet.")
        for number in [lesson] if lesson else begun:
            self._summary_of(number)

    def _summary_of(self, lesson: int) -> None:
        questions = _questions(lesson).values()
        total = sum(q.points for q in questions)
        got = sum(q.points for q in questions if self.passed(q.name))
        print(f"Lesson {lesson}: {got} of {total} points")
        for q in questions:
            verdict = self.verdicts.get(q.name, "not attempted")
            print(f"  {q.name}  {verdict:<14} {q.points} points")


def question(name: str) -> Question:
    """The question of this name. Raises ValueError if there is none."""
    try:
        questions = _questions(int(name.split(".")[0]))
    except (ValueError, AttributeError, ModuleNotFoundError):
        raise ValueError(
            f"there is no question {name!r}: names look like '1.1', lesson first") from None
    if name not in questions:
        lesson = name.split(".")[0]
        raise ValueError(
            f"there is no question {name!r}: lesson {lesson} asks {', '.join(questions)}")
    return questions[name]


def hint(name: str) -> None:
    """Print the next hint for a question: the first nudges, the last nearly tells."""
    hints = question(name).hints
    given = check.hints_given.get(name, 0)
    if not hints:
        print(f"{name} has no hints.")
    elif given >= len(hints):
        print(f"{name}: that was the last of {len(hints)} hints.")
    else:
        check.hints_given[name] = given + 1
        print(f"{name}, hint {given + 1} of {len(hints)}: {hints[given]}")


def _lessons() -> list[int]:
    names = [module.name for module in pkgutil.iter_modules([os.path.dirname(__file__)])]
    return [int(name[6:]) for name in names if name[:6] == "lesson" and name[6:].isdigit()]


def _questions(lesson: int) -> dict[str, Question]:
    """Those of lessonNN.py and, in lesson 6, of lesson06_data.py."""
    name = f"lesson{lesson:02d}"
    found = [module.name for module in pkgutil.iter_modules([os.path.dirname(__file__)])]
    names = [name, *(other for other in found if other.startswith(f"{name}_"))]
    modules = [importlib.import_module(f"{__package__}.{other}") for other in names]
    return {q.name: q for module in modules for q in module.QUESTIONS}


def _judge(q: Question, answer: object) -> tuple[str, str]:
    """The verdict and its words."""
    if answer is None or answer is ...:
        return "not attempted", ""
    try:
        # whatever the notebook has set, and without effect on its random numbers
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            q.judge(answer)
    except NotImplementedError as error:
        return _not_implemented(error, answer)
    except Wrong as diagnosis:
        return "not yet", str(diagnosis)
    # the reader's own code failed: say how, lose nothing
    except (Exception, SystemExit) as error:
        return "not yet", f"your answer raised {type(error).__name__}: {error}"
    return "right", q.praise


def _not_implemented(error: NotImplementedError, answer: object) -> tuple[str, str]:
    """The verdict on an answer that raises NotImplementedError, and its words."""
    code = _raised_in(error)
    if is_stub(error, answer):
        return "not attempted", ""
    if code in _codes(answer):
        return "not yet", ("your answer gets to `raise NotImplementedError`: return the result, "
                           "and delete that line")
    if _is_bare(code):
        return "not yet", f"your answer calls {code.co_name}, which is not written yet"
    return "not yet", f"your answer raised NotImplementedError: {error}"


def is_stub(error: NotImplementedError, answer: object) -> bool:
    """Whether the answer is as the sheet gives it, and the error its own."""
    code = _raised_in(error)
    return _is_bare(code) and code in _codes(answer)


def _raised_in(error: Exception) -> CodeType:
    """The code of the function that raised the error."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_code


def _unwritten() -> None:
    """What the sheets give."""
    raise NotImplementedError


def _is_bare(code: CodeType) -> bool:
    """Whether a function does nothing but raise NotImplementedError."""
    return code.co_code == _unwritten.__code__.co_code and code.co_names == ("NotImplementedError",)


def _codes(answer: object) -> set[CodeType | None]:
    """The code of a function, of several functions or of a class's methods."""
    if isinstance(answer, (tuple, list)):
        return set().union(*map(_codes, answer))
    if isinstance(answer, type):
        return _codes([f for f in vars(answer).values() if inspect.isfunction(f)])
    return {getattr(inspect.unwrap(answer), "__code__", None)}


# ---- what came back from the reader's function

Answers = Mapping[str, Tensor]
NO_ANSWERS: Answers = MappingProxyType({})


def as_function(answer: object) -> Callable:
    """The reader's function. Raises Wrong, saying what came instead, if it is not callable."""
    if not callable(answer):
        raise Wrong(
            "pass the function itself, its name without brackets; "
            f"got {type(answer).__name__}")
    return answer


def as_class(answer: object) -> Callable:
    """The reader's class, or a function that makes an object. Raises Wrong for anything else."""
    if isinstance(answer, torch.nn.Module) or not callable(answer):
        raise Wrong("pass the class itself, its name without brackets; "
                    f"got an object, a {type(answer).__name__}")
    return answer


def as_tensor(got: object) -> object:
    """Arrays and numbers of numpy, and lists of numbers or of tensors of one shape, as a tensor.

    Anything else as it came.
    """
    if not isinstance(got, (np.ndarray, np.generic, list, tuple)):
        return got
    try:
        if np.iscomplexobj(got):
            return torch.as_tensor(np.asarray(got))
        return validate.tensor(got, dtype=F64)
    except (TypeError, ValueError, RuntimeError):
        return got


def as_drawn(got: object) -> object:
    """Arrays of numpy and lists of numbers as a tensor, whole numbers as whole numbers.

    Anything else as it came, a tuple too.
    """
    if not isinstance(got, (np.ndarray, np.generic, list)):
        return got
    try:
        return torch.as_tensor(np.asarray(got))
    except (TypeError, ValueError, RuntimeError):
        return got


def as_scalar(got: object) -> Tensor:
    """What should be one number, as a float64 tensor of shape (). Raises Wrong if it is not one."""
    reject_none(got)
    if isinstance(got, (np.ndarray, np.generic)):
        got = as_tensor(got)
    if isinstance(got, Tensor) and got.numel() != 1:
        raise Wrong(f"one number is wanted; got a tensor of shape {tuple(got.shape)}")
    if not isinstance(got, (numbers.Real, Tensor)):
        raise Wrong(f"one number is wanted; got {type(got).__name__}")
    if not isinstance(got, Tensor):
        return torch.tensor(float(got), dtype=F64)
    reject_if((got.is_complex(), COMPLEX))
    return got.to(F64).reshape(())


def compare(got: object, wanted: Tensor, mistakes: Answers | Callable[[], Answers] = NO_ANSWERS,
            rtol: float = 1e-4, atol: float = 1e-5, otherwise: str = "") -> None:
    """Raise Wrong unless got equals wanted.

    mistakes: diagnosis -> what this mistake would have computed, or a function that computes this
    table, called only for a wrong answer; the first mistake that equals got is raised. otherwise:
    the diagnosis if none does.
    """
    got = _of_shape(got, wanted.shape)

    def same(other: Tensor) -> bool:
        return torch.allclose(got.double(), other.double(), rtol=rtol, atol=atol)

    if same(wanted):
        return
    if not got.isfinite().all():
        raise Wrong(f"{(~got.isfinite()).sum()} of the values are nan or inf")
    for diagnosis, result in (mistakes() if callable(mistakes) else mistakes).items():
        if result.shape == wanted.shape and same(result):
            raise Wrong(diagnosis)
    difference = (got.double() - wanted.double()).abs().max()
    raise Wrong(otherwise or f"the values differ by up to {difference:.3g}")


def whole(got: object, right: int, mistakes: Mapping[str, int], otherwise: str = "") -> None:
    """Compare whole numbers, exactly."""
    wrong = {words: _in_float64(n) for words, n in mistakes.items()}
    compare(as_scalar(got), _in_float64(right), wrong, rtol=0, atol=0.01, otherwise=otherwise)


def reject_none(got: object) -> None:
    """Raise Wrong if the reader's function returned nothing."""
    if got is None:
        raise Wrong("your function returned None: does it end with `return`?")


def reject_if(*suspects: tuple[object, str]) -> None:
    """Raise Wrong with the diagnosis of the first pair (condition, diagnosis) that holds."""
    for guilty, words in suspects:
        if guilty:
            raise Wrong(words)


def not_finite(got: object, words: str) -> None:
    """Raise Wrong with these words if got is a tensor with nan or inf in it."""
    if torch.is_tensor(got) and not got.isfinite().all():
        raise Wrong(words)


def reject_cut(got: Tensor, inputs: list[Tensor], words: str) -> None:
    """Raise Wrong with these words unless a gradient flows from got to each of the inputs."""
    grads = [None]
    if got.requires_grad:
        weights = torch.linspace(1, 2, got.numel(), dtype=got.dtype).view_as(got)
        grads = torch.autograd.grad((weights * got).sum(), inputs, allow_unused=True)
    reject_if((any(grad is None or not grad.any() for grad in grads), words))


def _of_shape(got: object, shape: torch.Size) -> Tensor:
    """What the reader's function returned, as a tensor. Raises Wrong if it has another shape."""
    reject_none(got)
    found = as_tensor(got)
    other_list = isinstance(got, (list, tuple)) and getattr(found, "shape", None) != shape
    if not isinstance(found, Tensor) or other_list:
        raise Wrong(f"expected a tensor; got {type(got).__name__}")
    reject_if((found.shape != shape, f"expected shape {tuple(shape)}; got {tuple(found.shape)}"),
              (found.is_complex(), COMPLEX))
    return found


def _in_float64(answer: object) -> Tensor:
    return answer if torch.is_tensor(answer) else torch.tensor(answer, dtype=F64)


COMPLEX = "your answer is complex: take .real, if the imaginary part is rounding"
AMBIGUOUS = ("an `if` cannot decide for a whole batch of levels: each example has its own t and s, "
             "so use formulas that are right for all, or torch.where")
SEEDED = ("every call draws the same random numbers: set no seed inside, for each call needs new "
          "ones")
SIZES = ("coefficients of shape (B,) meet x of another shape ({error}): reshape them, "
         "t.view(-1, *[1] * (x.ndim - 1))")


def call_pure(f: Callable, *inputs: object) -> Tensor:
    """call_twice, with a diagnosis where coefficients of shape (B,) are used as they are."""
    try:
        return call_twice(f, *inputs)
    except RuntimeError as error:
        reject_if(("ambiguous" in str(error), AMBIGUOUS),
                  ("must match the size" in str(error), SIZES.format(error=error)))
        raise


def call_twice(f: Callable, *inputs: object) -> Tensor:
    """The reader's answer to copies of the inputs.

    Raises Wrong if f changes its inputs or gives two answers to the same ones.
    """
    as_function(f)
    try:
        return _pure(f, inputs)
    except RuntimeError as error:
        if "dtype" not in str(error):
            raise
    return _pure(f, [_in_float32(x) for x in inputs])           # float32 tensors made inside f


def _pure(f: Callable, inputs: Sequence[object]) -> Tensor:
    """What f gives for copies of the inputs, after two calls."""
    given = [x.clone() if torch.is_tensor(x) else x for x in inputs]
    with torch.random.fork_rng(devices=[]):
        got, again = f(*given), f(*given)
    changed = any(torch.is_tensor(x) and not torch.equal(x, y) for x, y in zip(inputs, given))
    reject_if((changed, "your function changes the tensors it was given: compute new ones"),
              (_differ(got, again),
               "the same inputs gave two different answers: draw no noise of your own"))
    return got


def _in_float32(x: object) -> object:
    return x.float() if torch.is_tensor(x) and x.is_floating_point() else x


def _differ(got: object, again: object) -> bool:
    """Whether two tensors of one shape, or two tuples of them, differ (nan equals nan)."""
    if isinstance(got, (tuple, list)) and isinstance(again, (tuple, list)):
        return len(got) != len(again) or any(map(_differ, got, again))
    if not (torch.is_tensor(got) and torch.is_tensor(again) and got.shape == again.shape):
        return False
    return not torch.equal(got.nan_to_num(), again.nan_to_num())


# ---- a question as a table: cases, the right answer, the mistakes

Case = SimpleNamespace
Mistakes = Mapping[str, Callable[[Case], Tensor | None]]


def fill(words: str, c: Case) -> str:
    """A sentence with its numbers filled in from the case.

    A sentence with "{c." in it goes through str.format(c=c), as in "got {c.width:.2f}"; any other
    stays as it is, braces included.
    """
    return words.format(c=c) if "{c." in words else words


def wrong_answers(mistakes: Mistakes, c: Case) -> dict[str, Tensor]:
    """What each mistake of a table would give in the case c: diagnosis -> answer.

    A mistake that gives None does not apply to this case and is left out.
    """
    answers = {fill(words, c): wrong(c) for words, wrong in mistakes.items()}
    return {words: _in_float64(a) for words, a in answers.items() if a is not None}


def compare_case(got: object, c: Case, right: Callable[[Case], Tensor], mistakes: Mistakes, *,
                 rtol: float = 1e-4, atol: float = 1e-5, otherwise: str = "") -> None:
    """Raise Wrong unless got is right(c); a mistake of the table is named by its sentence."""
    wrong = partial(wrong_answers, mistakes, c)
    compare(got, _in_float64(right(c)), wrong, rtol, atol, fill(otherwise, c))


def draw_case(draw: Callable[[], Case], right: Callable[[Case], Tensor], mistakes: Mistakes, *,
              rtol: float = 1e-3, atol: float = 1e-3) -> Case:
    """Draw cases until the right answer and the mistakes can all be told apart."""
    def answers() -> tuple:
        c = draw()
        return c, _in_float64(right(c)), wrong_answers(mistakes, c)

    return distinguishable_case(answers, rtol, atol)[0]


def reject_first(suspects: Mapping[str, Callable[[Case], object]], c: Case) -> None:
    """Raise Wrong with the first sentence of the table whose condition holds in the case c.

    A condition is evaluated only if none before it holds: it may rely on what they exclude.
    """
    for words, guilty in suspects.items():
        if guilty(c):
            raise Wrong(fill(words, c))


def distinguishable_case(case: Callable[[], tuple], rtol: float = 1e-3,
                         atol: float = 1e-3) -> tuple:
    """Draw (inputs, right, mistakes) until no two answers could be taken for each other."""
    for _ in range(300):
        inputs, right, mistakes = case()
        answers = [right, *mistakes.values()]
        pairs = [(a, b) for k, a in enumerate(answers) for b in answers[:k]]
        if not any(_confusable(a, b, rtol, atol) for a, b in pairs):
            return inputs, right, mistakes
    warnings.warn("no case tells all mistakes apart: another may be named", stacklevel=3)
    return inputs, right, mistakes


def _confusable(a: Tensor, b: Tensor, rtol: float, atol: float) -> bool:
    """Whether two answers are near each other without being the same."""
    if a.shape != b.shape or torch.allclose(a, b, rtol=1e-9, atol=1e-12):
        return False
    return torch.allclose(a, b, rtol=3 * rtol, atol=3 * atol)


# ---- inputs to judge by

def draws(*shape: int, seed: int = 11) -> Tensor:
    """Gaussian numbers of this shape, the same in every session."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def fresh_generator() -> torch.Generator:
    """A generator seeded by the machine; torch's own random numbers stay as they are."""
    g = torch.Generator()
    g.seed()
    return g


def noise(*shape: int) -> Tensor:
    """Gaussian numbers of this shape, new in every call."""
    return torch.randn(shape, generator=fresh_generator(), dtype=F64)


def between(low: float, high: float, *shape: int) -> Tensor:
    """Uniform numbers of this shape in [low, high), new in every call."""
    return low + (high - low) * torch.rand(shape, generator=fresh_generator(), dtype=F64)


def bumps(d: int = 2, k: int = 3) -> GaussianMixture:
    """A mixture of k Gaussians in d dimensions with random means, widths and weights."""
    return GaussianMixture(between(-1.5, 1.5, k, d), between(0.1, 0.4, k), between(0.5, 1.5, k))


@contextlib.contextmanager
def forbidden(owner: object, name: str, words: str) -> Iterator[None]:
    """An answer that uses owner.name in this context is wrong, with these words."""
    def refuse(*inputs: object, **options: object) -> None:
        raise Wrong(words)

    with mock.patch.object(owner, name, refuse):
        yield


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread.

    On a busy machine two threads wait for each other, a hundred times longer than such small
    layers need.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


check = Checker()
