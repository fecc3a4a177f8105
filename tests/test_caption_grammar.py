"""The captions' grammar, read backwards, against what draws them and against arithmetic by hand."""
import math

import pytest
import torch

from course_lib.lab.data import noun_parts
from course_lib.lab.data.caption_grammar import (
    caption_log_prob,
    caption_tokenizer,
    caption_tokens,
    draw_captions,
    parse_caption,
)

COUNTS = (2, 30, 143, 254, 23)                              # background to glasses, as in PARTS


def drawn(n, seed, omit=0.0):
    g = torch.Generator().manual_seed(seed)
    parts = torch.stack([torch.randint(k, (n,), generator=g) for k in COUNTS], 1)
    return parts, noun_parts.captions(parts, seed, omit)


def test_captions_are_drawn_with_every_part_equally_likely():
    n = 6000
    captions = draw_captions(n, seed=4)
    assert captions[:10] == draw_captions(10, seed=4) and captions != draw_captions(n, seed=5)
    names = [parse_caption(caption) for caption in captions]
    for part, k in zip(noun_parts.PARTS, COUNTS):
        counts = torch.tensor([sum(x[part] == name for x in names)
                               for name in noun_parts.load_art().names[part]])
        chi_squared = (counts - n / k).square().sum() / (n / k)
        assert len(counts) == k and chi_squared < k + 6 * (2 * k) ** 0.5
    tokens = caption_tokens(10, seed=4)
    assert tokens.shape == (10, 32) and tokens.dtype == torch.int64
    plain = [" ".join(caption_tokenizer().split(caption)) for caption in captions[:10]]
    assert caption_tokenizer().decode(tokens) == plain
    assert min(len(draw_captions(1, seed, omit=1.0)[0]) for seed in range(9)) < 20
    with pytest.raises(ValueError, match="omit"):
        draw_captions(3, omit=2.0)


def test_every_caption_is_read_as_what_it_was_made_of():
    parts, captions = drawn(1000, 0)
    assert [parse_caption(caption) for caption in captions] == noun_parts.part_names(parts)
    plain = noun_parts.plain_captions(parts)
    assert [parse_caption(caption) for caption in plain] == noun_parts.part_names(parts)


def test_what_is_left_out_is_not_read():
    parts, captions = drawn(1000, 1, omit=0.5)
    for caption, names in zip(captions, noun_parts.part_names(parts)):
        found = parse_caption(caption)
        assert found.items() <= names.items()
        assert len(found) == caption.count(",") + ("head" in found)


def test_the_mean_is_the_entropy():
    """No caption has two readings, so the entropy is that of the choices: they are independent."""
    choices = [*COUNTS, 24, 4, 5, 4, 4, 4, 3]               # parts, order, wordings, synonyms
    entropy = sum(math.log(k) for k in choices) + 0.75 * math.log(3)    # three forms have a noun
    log_p = caption_log_prob(drawn(4000, 2)[1])
    assert abs(log_p.mean() + entropy) < 4 * log_p.std() / 4000**0.5


@pytest.mark.parametrize("caption, omit, p", [
    ("a shark head, red body", 0.5, 1 / 254 / 4 * (1 / 30 / 4) * 0.5**5),
    ("a shark head, red body", 0.25, 1 / 254 / 4 * (1 / 30 / 4) * 0.75**2 * 0.25**3),
    ("a shark head, red body, rosy backdrop", 0.5,
     1 / 254 / 4 * (1 / 30 / 4) * (1 / 2 / 4 / 3) * 0.5**5 / 2),
    ("a figure, red body", 0.5, 1 / 3 * (1 / 30 / 4) * 0.5**5),
    ("a shark head", 0.5, 1 / 254 / 4 * (0.5**5 + 0.5**5)),      # the head is said, or nothing was
    ("a figure", 0.5, 0),
    ("a shark head, red body", 0.0, 0),
])
def test_probabilities_by_hand(caption, omit, p):
    found = caption_log_prob([caption], omit).exp().item()
    assert found == pytest.approx(p, rel=1e-9)


@pytest.mark.parametrize("caption", [
    "an shark head, red body", "shark head, red body", "a shark head, red", "a shark head red body",
    "a shark head, red body, red body", "red body, a shark head", "a shark, red body", "",
    "a shark-headed noun with blue glasses and a hat", "a shark head, a red body body",
])
def test_what_the_grammar_cannot_say(caption):
    said = caption == "a shark head red body"               # commas do not count
    assert (parse_caption(caption) is not None) == said
    if caption:
        assert caption_log_prob([caption], 0.5).isinf().item() != said


def test_every_part_out_of_its_place_makes_it_less_than_a_caption():
    """One wrong word of any place is noticed, unless it makes another caption."""
    parts, captions = drawn(200, 3)
    for caption in captions[:40]:
        words = caption.replace(",", "").replace("-", " ").split()
        for k in range(len(words)):
            broken = " ".join(words[:k] + ["zebra"] + words[k + 1 :])
            found = parse_caption(broken)
            assert found is None or "zebra" in " ".join(found.values())


def test_what_is_no_caption_is_said():
    with pytest.raises(TypeError, match="captions must be a list of strings"):
        caption_log_prob("a shark head")
    with pytest.raises(TypeError, match="a caption is a string"):
        parse_caption(None)
    with pytest.raises(ValueError, match="omit must be"):
        caption_log_prob(["a shark head"], omit=2)
