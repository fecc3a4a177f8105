"""The questions of lesson 7 that need mini-SD: 7.4, a board of faults, and 7.7, an adapter.

`lesson07.py` lists them in their places. Neither check loads the model.
"""
import hashlib
import re
from collections.abc import Callable
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from ..lab.evaluation import faults
from .common import (
    F64,
    Case,
    Question,
    Wrong,
    as_function,
    one_thread,
    reject_first,
    reject_if,
    reject_none,
    wrong_answers,
)

# ---- 7.4: three faults, from pictures alone

ROWS = ("A", "B", "C")
FAULTS = (
    "text not causal",
    "another padding token",
    "no final norm of the text",
    "v taken for eps, or eps for v",
    "encoder padded on both sides",
    "no convolution before the decoder",
)
REASONS = {
    "first words": "what a caption names first is lost, and most of what it names later is right; "
                   "without a caption all is right",
    "few words": "long captions are drawn nearly as before, short ones and the empty one are not",
    "no trace": "of a long caption's picture neither shape nor colours are left, and the pictures "
                "of short captions are broken as well",
    "blobs": "what is drawn from noise is blobs, with words or without, in the places and colours "
             "of the right picture",
    "round trips": "what is drawn from noise is right, and only the round trips are broken",
    "all": "everything is broken, the round trips as well",
    "noise left": "the figures are right, under a rest of noise",
    "colours": "all shapes are right, and all colours too strong or too weak",
}
REASON_OF = dict(zip(FAULTS, REASONS))                      # the last two belong to no fault
LOOKS = {
    "text not causal":
        "a caption's first words see the later ones, which they never did in training, and its "
        "last ones hardly see more than before. Which parts of the figures are lost?",
    "another padding token":
        "what is changed stands where a row has no words, so a long caption hides it, and the "
        "empty one shows it best",
    "no final norm of the text":
        "no text has vectors of the size that the U-Net knows, so no caption is understood, and "
        "not a colour of a long one comes through. The round trips read no text",
    "v taken for eps, or eps for v":
        "every text is understood, and each step makes the wrong thing of what the network "
        "predicts. The right colours are still where they belong. The round trips take no step",
    "encoder padded on both sides":
        "only what is encoded can be wrong, and drawing from noise encodes nothing",
    "no convolution before the decoder":
        "every picture of the row went through the decoder, so none is spared",
}
NO_REASON = {
    "noise left": "steps that are too few leave noise under a right figure; take the figures of "
                  "the row one by one, and say which are not right",
    "colours": "a wrong scale of the latents would change the round trips' colours, and leave "
               "every shape. Compare shapes first",
}


def three_faults(reader: str) -> list[str]:
    """The faults of the rows A, B and C, which this reader is given."""
    def place(fault: str) -> str:
        return hashlib.sha256(f"{plain(reader)}: {fault}".encode()).hexdigest()
    return sorted(FAULTS, key=place)[:len(ROWS)]


def planted(reader: str) -> dict[str, Callable[[faults.Parts], None]]:
    """Three functions, each of which plants another of the FAULTS in a model: {"A": plant, ...}.

    reader: decides which three. Raises ValueError for a reader without a name.
    """
    if not is_text(reader):
        raise ValueError(f"reader must be a name, such as 'Ada'; got {reader!r}")
    return {row: faults.FAULTS[name] for row, name in zip(ROWS, three_faults(reader))}


def judge_board(answer: object) -> None:
    """7.4: (reader, diagnosis), diagnosis() -> {"A": (fault, reason), "B": ..., "C": ...}."""
    pair = isinstance(answer, (tuple, list)) and len(answer) == 2
    if callable(answer) or not pair:
        answer = "", answer
    reader, found = answer
    found = found if isinstance(found, dict) else as_function(found)()
    reject_none(found)
    reject_if((not is_text(reader), 'the check must know whose rows these are: check("7.4", '
               "(READER, diagnosis))"))
    c = Case(right=dict(zip(ROWS, three_faults(reader))))
    describe_diagnosis(c, found)
    reject_first(DIAGNOSIS_SUSPECTS, c)
    wrong = [row for row in ROWS if c.faults[row] != c.right[row]]
    reject_if((len(wrong) > 1 and {*c.faults.values()} == {*c.right.values()},
               f"these are the three faults, but not in these rows: {', '.join(wrong)} have "
               "changed places"))
    for row in wrong[:1]:
        raise Wrong(f"{row} is not {c.faults[row]!r}. With that, {LOOKS[c.faults[row]]} "
                    f"({len(ROWS) - len(wrong)} of 3 faults are right)")
    for row in ROWS:
        judge_reason(row, c.faults[row], c.reasons[row])


def judge_reason(row: str, fault: str, reason: str) -> None:
    """Raise Wrong unless this is the reason for this fault, which is right."""
    if reason == REASON_OF[fault]:
        return
    others = {other: name for name, other in REASON_OF.items()}
    words = NO_REASON.get(reason) or f"that is what {others.get(reason)!r} would look like"
    raise Wrong(f"{row} is right, but {reason!r} is not the reason: {words}")


def describe_diagnosis(c: Case, found: object) -> None:
    """The fault and the reason of each row, as the FAULTS and REASONS have them."""
    c.came = type(found).__name__
    c.is_dict = isinstance(found, dict) and all(isinstance(row, str) for row in found)
    if not c.is_dict:
        return
    rows = {row.strip().upper(): pair for row, pair in found.items()}
    c.missing = [row for row in ROWS if row not in rows]
    c.no_pair = [row for row in ROWS if row in rows and not is_pair(rows[row])]
    if c.missing or c.no_pair:
        return
    c.faults = {row: plain(rows[row][0]) for row in ROWS}
    c.reasons = {row: plain(rows[row][1]) for row in ROWS}
    c.swapped = [row for row in ROWS if c.faults[row] in REASONS and c.reasons[row] in FAULTS]
    c.strange = [name for name in c.faults.values() if name not in FAULTS]
    c.no_reason = [name for name in c.reasons.values() if name not in REASONS]
    c.again = [name for name in c.faults.values() if [*c.faults.values()].count(name) > 1]
    c.known_faults = "; ".join(FAULTS)
    c.known_reasons = "; ".join(REASONS)


def is_pair(value: object) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(map(is_text, value))


DIAGNOSIS_SUSPECTS = {
    'a dict is wanted, {{"A": (fault, reason), ...}}; got {c.came}':
        lambda c: not c.is_dict,
    "row {c.missing[0]} has no diagnosis":
        lambda c: c.missing,
    "row {c.no_pair[0]}: two texts are wanted, the fault and the reason":
        lambda c: c.no_pair,
    "row {c.swapped[0]}: the fault comes first, and then the reason":
        lambda c: c.swapped,
    "{c.strange[0]!r} is none of the six faults: {c.known_faults}":
        lambda c: c.strange,
    "{c.no_reason[0]!r} is none of the reasons: {c.known_reasons}":
        lambda c: c.no_reason,
    "{c.again[0]!r} comes twice; the three rows have three different faults":
        lambda c: c.again,
}


# ---- 7.7: something of the reader's own, taught to mini-SD

LEAST = 50                                                  # prompts of each kind
FEWEST = 4                                                  # training pictures
PARTS_OF_RECORD = {
    "training": ("captions", "pictures"),
    "asked": ("captions", "before", "after", "pictures"),
    "others": ("captions", "before", "after"),
}
TEXTS = ("thing", "word", "better")
NUMBERS = ("gain", "gain error", "cost", "cost error", "nearest", "nearest in training", "copies")
PLACES = {"training": "of the training", "asked": "that ask for it", "others": "that do not"}


def judge_own_adapter(answer: object) -> None:
    """7.7: record() -> a dict of what was taught, what was drawn, and what was measured."""
    with torch.random.fork_rng(devices=[]), one_thread():
        if isinstance(answer, dict):
            c = Case(record=answer)
        else:
            with torch.enable_grad():
                c = Case(record=as_function(answer)())
        with torch.no_grad():
            reject_none(c.record)
            describe_form(c)
            reject_first(FORM_SUSPECTS, c)
            describe_captions(c)
            reject_first(CAPTION_SUSPECTS, c)
            describe_pictures(c)
            reject_first(PICTURE_SUSPECTS, c)
            describe_scores(c)
            reject_first(SCORE_SUSPECTS, c)
            measure_record(c)
            judge_numbers(c)
            reject_first(RESULT_SUSPECTS, c)


def describe_form(c: Case) -> None:
    """What is there, and what is missing."""
    c.came = type(c.record).__name__
    if not isinstance(c.record, dict):
        return
    wanted = (*TEXTS, *PARTS_OF_RECORD, *NUMBERS)
    c.missing = [key for key in wanted if key not in c.record]
    c.no_dict = [key for key in PARTS_OF_RECORD
                 if key in c.record and not isinstance(c.record[key], dict)]
    c.no_text = [key for key in TEXTS if not is_text(c.record.get(key, "here"))]
    c.no_number = [key for key in NUMBERS if not is_number(c.record.get(key, 0.0))]
    c.better = c.record.get("better")
    c.lacking = [(key, part) for key, parts in PARTS_OF_RECORD.items()
                 if isinstance(c.record.get(key), dict)
                 for part in parts if part not in c.record[key]]


def is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def is_number(value: object) -> bool:
    """Whether this is one real number; True and False are none."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and value.dtype != torch.bool and not value.is_complex()
    return isinstance(value, Real) and not isinstance(value, bool)


FORM_SUSPECTS = {
    "a dict is wanted, as the question lists it; got {c.came}":
        lambda c: not isinstance(c.record, dict),
    "the record has no {c.missing[0]!r}":
        lambda c: c.missing,
    "{c.no_text[0]!r} must be a text":
        lambda c: c.no_text,
    "{c.no_dict[0]!r} must be a dict of its own":
        lambda c: c.no_dict,
    "{c.lacking[0][0]!r} has no {c.lacking[0][1]!r}":
        lambda c: c.lacking,
    "'better' is 'higher' or 'lower': which scores are the good ones? got {c.better!r}":
        lambda c: c.better not in ("higher", "lower"),
    "{c.no_number[0]!r} must be one number":
        lambda c: c.no_number,
}


def describe_captions(c: Case) -> None:
    """The three lists of captions, and what they share."""
    lists = {key: c.record[key]["captions"] for key in PARTS_OF_RECORD}
    c.no_list = [key for key, texts in lists.items()
                 if not isinstance(texts, (list, tuple)) or not all(map(is_text, texts))]
    if c.no_list:
        return
    c.captions = {key: [plain(text) for text in texts] for key, texts in lists.items()}
    c.count = {key: len(texts) for key, texts in c.captions.items()}
    c.twice = [key for key in ("asked", "others")
               if len({*c.captions[key]}) < len(c.captions[key])]
    seen = {*c.captions["training"]}
    c.trained = [short(text) for text in c.captions["asked"] if text in seen]
    asked = {*c.captions["asked"]}
    c.both = [short(text) for text in c.captions["others"] if text in asked]
    asks = re.compile(rf"(?<!\w){re.escape(plain(c.record['word']))}(?!\w)").search
    c.without = [(key, short(text)) for key in ("training", "asked")
                 for text in c.captions[key] if not asks(text)]
    c.leaking = [short(text) for text in c.captions["others"] if asks(text)]


def plain(text: str) -> str:
    """A text in small letters with single spaces."""
    return " ".join(text.lower().split())


def short(text: str) -> str:
    return text if len(text) <= 50 else f"{text[:47]}..."


def fewest(c: Case) -> str | None:
    """The first kind of which there are too few captions; how many are wanted is c.least."""
    for key, count in c.count.items():
        c.least = FEWEST if key == "training" else LEAST
        if count < c.least:
            c.few = count
            c.place = PLACES[key]
            return key
    return None


CAPTION_SUSPECTS = {
    "the captions of {c.no_list[0]!r} must be a list of texts":
        lambda c: c.no_list,
    "{c.few} captions {c.place} are too few to say anything: at least {c.least}":
        fewest,
    "a caption comes twice in {c.twice[0]!r}: with the same noise it is one picture, counted twice":
        lambda c: c.twice,
    "{c.trained[0]!r} is a caption of the training: what was learned by heart shows nothing, "
    "so ask for new combinations":
        lambda c: c.trained,
    "{c.both[0]!r} stands in both lists, among those that ask for it and among the others":
        lambda c: c.both,
    "the word {c.record[word]!r} is not in {c.without[0][1]!r}, a caption of "
    "{c.without[0][0]!r}: then nothing asks for it":
        lambda c: c.without,
    "the word {c.record[word]!r} stands in {c.leaking[0]!r}, one of the others: what it cost "
    "elsewhere is measured where nobody asks for it":
        lambda c: c.leaking,
}


def describe_pictures(c: Case) -> None:
    """The training pictures and the drawn ones, in float64: (m, P), (n, P)."""
    c.pictures = {}
    c.no_pictures = None
    for key in ("training", "asked"):
        x = c.record[key]["pictures"]
        wanted = (c.count[key], 3, 32, 32)
        shape = tuple(getattr(x, "shape", ()))
        if not isinstance(x, Tensor) or shape != wanted or not x.is_floating_point():
            came = f"{x.dtype} {shape}" if isinstance(x, Tensor) else type(x).__name__
            c.no_pictures = key, wanted, came
            return
        c.pictures[key] = x.detach().cpu().double().flatten(1)
    c.broken = [key for key, x in c.pictures.items() if not x.isfinite().all()]
    c.beyond = [key for key, x in c.pictures.items() if x.abs().max() > 1.1]
    training = c.pictures["training"]
    c.same_training = len(training.unique(dim=0)) < len(training)
    c.different = len(drawn(c).unique(dim=0)) / len(drawn(c))


PICTURE_SUSPECTS = {
    "the pictures of {c.no_pictures[0]!r} must be a tensor {c.no_pictures[1]} of real numbers, one "
    "for each caption; got {c.no_pictures[2]}":
        lambda c: c.no_pictures,
    "the pictures of {c.broken[0]!r} have nan or inf in them":
        lambda c: c.broken,
    "the pictures of {c.beyond[0]!r} lie outside of [-1, 1]: divide bytes by 127.5, and subtract 1":
        lambda c: c.beyond,
    "two training pictures are the same: one is enough, and more say no more":
        lambda c: c.same_training,
    "only {c.different:.0%} of the pictures drawn differ from each other, for {c.count[asked]} "
    "different captions":
        lambda c: c.different < 0.5,
}


def describe_scores(c: Case) -> None:
    """before and after, of the captions that ask for it and of the others, in float64."""
    c.scores = {}
    c.no_scores = None
    for key in ("asked", "others"):
        for when in ("before", "after"):
            scores = as_scores(c.record[key][when])
            if scores is None or len(scores) != c.count[key]:
                came = "no such list" if scores is None else f"{len(scores)} of them"
                c.no_scores = key, when, c.count[key], came
                return
            c.scores[key, when] = scores
    c.broken = [f"{when} of {key}" for (key, when), x in c.scores.items() if not x.isfinite().all()]
    c.constant = [f"{when} of {key}" for (key, when), x in c.scores.items()
                  if (x == x[0]).all() and x[0] not in (0, 1)]
    c.unmoved = torch.equal(c.scores["asked", "before"], c.scores["asked", "after"])
    before, after = c.scores["others", "before"], c.scores["others", "after"]
    yes_no = ((before == 0) | (before == 1)).all()
    c.no_others = torch.equal(before, after) and not yes_no


def as_scores(value: object) -> Tensor | None:
    """A list, array or tensor (n,) of numbers, or of yes and no, as float64; else None."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        value = torch.from_numpy(value)
    if isinstance(value, (list, tuple)):
        if not all(isinstance(x, bool) or is_number(x) for x in value):
            return None
        value = torch.tensor([float(x) for x in value], dtype=F64)
    if not isinstance(value, Tensor) or value.ndim != 1 or value.is_complex():
        return None
    return value.detach().cpu().to(F64)


SCORE_SUSPECTS = {
    "{c.no_scores[1]!r} of {c.no_scores[0]!r} must be {c.no_scores[2]} numbers, the score of each "
    "caption's picture; got {c.no_scores[3]}":
        lambda c: c.no_scores,
    "'{c.broken[0]}' has nan or inf in it":
        lambda c: c.broken,
    "all scores '{c.constant[0]}' are the same number: each caption has its own, not the mean of "
    "all":
        lambda c: c.constant,
    "before and after are the same for every caption that asks for it: was the adapter there, and "
    "turned up?":
        lambda c: c.unmoved,
    "before and after are the same for every other caption, to the last digit: what it cost "
    "elsewhere is measured with the adapter":
        lambda c: c.no_others,
}


# ---- what the check finds

def measure_record(c: Case) -> None:
    """All numbers of the record, once more."""
    sign = 1 if c.better == "higher" else -1
    c.change = {key: sign * (c.scores[key, "after"] - c.scores[key, "before"])
                for key in ("asked", "others")}
    c.change["others"] = -c.change["others"]                # a cost is a loss
    training = c.pictures["training"]
    c.table = distances(drawn(c), training)                             # (n, m)
    c.to_training = c.table.amin(1)                                     # (n,)
    c.within = distances(training, training)                           # (m, m)
    c.among = nearest_other(c.within)                                  # (m,)
    c.copied = c.to_training < c.among.min()


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Root mean square of the differences of pictures (n, P) and (m, P): (n, m)"""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist") / a.shape[1]**0.5


def median(x: Tensor, c: Case, change: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
    """change(median): of both middle values and their mean, the one nearest to the claim."""
    low, high = medians(x)
    values = change(torch.stack([low, (low + high) / 2, high]))
    return values[(values - c.claim).abs().argmin()]


def standard_error(x: Tensor) -> Tensor:
    return x.std() / len(x)**0.5


def of_change(key: str, name: str) -> dict[str, Callable[[Case], Tensor | None]]:
    """The mistakes of a mean: gain or cost."""
    return {
        f"{name!r}: that is a percentage; scores and their differences have one unit":
            lambda c: 100 * c.change[key].mean(),
        f"{name!r}: the sign: " + (
            "a gain is positive where it got better" if key == "asked"
            else "a cost is positive where it got worse"):
            lambda c: -c.change[key].mean(),
        f"{name!r}: that is the mean after; before is not subtracted":
            lambda c: c.scores[key, "after"].mean(),
        f"{name!r}: that is the sum over the captions; the mean is wanted":
            lambda c: c.change[key].sum(),
    }


def of_error(key: str, name: str) -> dict[str, Callable[[Case], Tensor | None]]:
    """The mistakes of a standard error."""
    def unpaired(c: Case) -> Tensor:
        return (standard_error(c.scores[key, "before"])**2
                + standard_error(c.scores[key, "after"])**2).sqrt()

    return {
        f"{name!r}: that is the standard deviation of the differences; the error of their mean is "
        "smaller by the root of their number":
            lambda c: c.change[key].std(),
        f"{name!r}: that takes both rows for independent; they belong to the same captions, so "
        "take the standard deviation of the differences":
            unpaired,
        f"{name!r}: that is the error of the mean after; take the differences":
            lambda c: standard_error(c.scores[key, "after"]),
        f"{name!r}: the standard deviation is divided by the number, not by its root":
            lambda c: c.change[key].std() / len(c.change[key]),
        f"{name!r}: that is the half width of a 95 % interval, about two standard errors":
            lambda c: 1.96 * standard_error(c.change[key]),
        f"{name!r}: that is a variance; take the root":
            lambda c: standard_error(c.change[key])**2,
        f"{name!r}: that is a percentage; scores and their differences have one unit":
            lambda c: 100 * standard_error(c.change[key]),
    }


COST_MISTAKES = {
    **of_change("others", "cost"),
    "'cost': that is what the captions gained that ask for it; take the others":
        lambda c: c.change["asked"].mean(),
    "'cost': that is what the captions that ask for it would have lost; take the others":
        lambda c: -c.change["asked"].mean(),
}
NEAREST_MISTAKES = {
    "'nearest': that is the mean over the pictures; the median is wanted":
        lambda c: c.to_training.mean(),
    "'nearest': that is the least of all; the median over the pictures is wanted":
        lambda c: c.to_training.min(),
    "'nearest': those are mean squares; take the root":
        lambda c: median(c.to_training, c, torch.square),
    "'nearest': that is the length of the difference; divide by the root of 3 x 32 x 32":
        lambda c: median(c.to_training, c, lambda x: x * (3 * 32 * 32)**0.5),
    "'nearest': that is the distance to all training pictures, and not to the nearest":
        lambda c: median(c.table.flatten(), c),
    "'nearest': that is the distance to the nearest of the other pictures drawn; a copy is one of "
    "a training picture":
        lambda c: median(nearest_other(distances(drawn(c), drawn(c))), c),
    "'nearest': those are mean absolute differences; take the root of the mean square":
        lambda c: median(absolute(c).amin(1), c),
}
AMONG_MISTAKES = {
    "'nearest in training': each picture finds itself; take the nearest other one":
        lambda c: torch.zeros((), dtype=F64),
    "'nearest in training': that is the mean over the pictures; the median is wanted":
        lambda c: c.among.mean(),
    "'nearest in training': that is the least of all; the median over the pictures is wanted":
        lambda c: c.among.min(),
    "'nearest in training': those are mean squares; take the root":
        lambda c: median(c.among, c, torch.square),
    "'nearest in training': that is the length of the difference; divide by the root of "
    "3 x 32 x 32":
        lambda c: median(c.among, c, lambda x: x * (3 * 32 * 32)**0.5),
    "'nearest in training': that is the distance to all others, and not to the nearest":
        lambda c: median(c.within[~torch.eye(len(c.within), dtype=torch.bool)], c),
}
COPY_MISTAKES = {
    "'copies': that is a percentage; a share lies between 0 and 1":
        lambda c: 100 * c.copied.to(F64).mean() if c.copied.any() else None,
    "'copies': that is their number; divide by the number of pictures drawn":
        lambda c: c.copied.to(F64).sum(),
    "'copies': that is the share of those that are none":
        lambda c: 1 - c.copied.to(F64).mean(),
    "'copies': only pictures are counted that are the same to the last digit":
        lambda c: (c.to_training == 0).to(F64).mean(),
    "'copies': those are nearer than training pictures are on average; a copy is nearer than any "
    "two of them":
        lambda c: median(c.among, c, lambda x: (c.to_training < x[:, None]).to(F64).mean(1)),
}


def drawn(c: Case) -> Tensor:
    return c.pictures["asked"]


def nearest_other(table: Tensor) -> Tensor:
    """Of distances of pictures to each other (n, n), each one's to the nearest other: (n,)"""
    return table.clone().fill_diagonal_(torch.inf).amin(1)


def absolute(c: Case) -> Tensor:
    """Mean absolute differences of the pictures drawn and the training pictures: (n, m)"""
    return torch.cdist(drawn(c), c.pictures["training"], p=1) / drawn(c).shape[1]


def judge_numbers(c: Case) -> None:
    """The seven numbers of the record against the check's own."""
    for key, name in (("asked", "gain"), ("others", "cost")):
        mistakes = COST_MISTAKES if name == "cost" else of_change(key, name)
        mean, error = c.change[key].mean(), standard_error(c.change[key])
        judge_number(c, name, mean - 0.02 * error, mean + 0.02 * error, mistakes)
        low = error * (1 - 1 / len(c.change[key]))**0.5     # the deviation by n, not n - 1
        judge_number(c, f"{name} error", low, error, of_error(key, f"{name} error"))
    judge_number(c, "nearest", *medians(c.to_training), NEAREST_MISTAKES)
    judge_number(c, "nearest in training", *medians(c.among), AMONG_MISTAKES)
    share = c.copied.to(F64).mean()
    judge_number(c, "copies", share, share, COPY_MISTAKES)


def medians(x: Tensor) -> tuple[Tensor, Tensor]:
    """Both middle values, which are the same for an odd number of them."""
    ordered = x.sort().values
    return ordered[(len(x) - 1) // 2], ordered[len(x) // 2]


def judge_number(c: Case, key: str, low: Tensor, high: Tensor,
                 mistakes: dict[str, Callable]) -> None:
    """Raise Wrong unless the claim lies between low and high; the nearest mistake is named."""
    claim = c.claim = torch.as_tensor(c.record[key], dtype=F64).detach().reshape(())
    reject_if((not claim.isfinite(), f"{key!r} is {claim.item()}"))
    tolerance = 2e-3 * max(high.abs(), low.abs()) + 1e-4
    if low - tolerance <= claim <= high + tolerance:
        return
    wrong = wrong_answers(mistakes, c)
    words = min(wrong, key=lambda words: (claim - wrong[words]).abs())
    reject_if(((claim - wrong[words]).abs() <= 2e-2 * wrong[words].abs() + 1e-4, words))
    raise Wrong(f"{key!r}: the record says {claim:.4g}, and from its own parts the check finds "
                f"{(low + high) / 2:.4g}")


RESULT_SUSPECTS = {
    "the numbers are right, but by them it got worse: is {c.better!r} really the better?":
        lambda c: c.change["asked"].mean() < -2 * standard_error(c.change["asked"]),
    "the numbers are right, but the gain {c.record[gain]:.3g} is less than two standard errors: "
    "they do not show that anything was learned. Train longer, or with a higher rate or rank":
        lambda c: c.change["asked"].mean() < 2 * standard_error(c.change["asked"]),
}


QUESTIONS = [
    Question(
        "7.4", 3, judge_board,
        "which columns are broken says where, before anyone asks how",
        ("Go by columns, not by looks. Which columns of a row are right? A round trip has no text, "
         "no noise and no step; a picture drawn from noise has no encoder; and all have the "
         "decoder.",
         "If only drawn pictures are broken, compare long captions with the empty one. Is it worse "
         "with words, or without, or as bad in both? In the last case: are the right picture's "
         "colours still where they belong? Then its caption was understood.",
         "Plant each of the six yourself: model = faults.Parts(mini, vae), "
         "faults.FAULTS[name](model), with captions and noise of your own. Then look which row "
         "of A, B and C is broken in the same columns")),
    Question(
        "7.7", 4, judge_own_adapter,
        "now look at the pictures that are nearest to the training, and at those that went wrong",
        ("Take one of the ten heads that mini-SD has never seen; attributes_correct says for each "
         "picture what is right. A dozen pictures suffice for the training.",
         "Score each caption's picture twice, drawn from the same noise: with the adapter at dial "
         "0, and at dial 1. The error is the standard deviation of the differences, divided by "
         "the root of their number.",
         "far = torch.cdist(a.flatten(1), b.flatten(1)) / 3072**0.5; nearest is "
         "far.amin(1).median(). In the training itself fill the diagonal with infinity first. "
         "copies: the share of drawn pictures nearer than the least of those distances")),
]
