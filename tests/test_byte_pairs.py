"""The byte-pair code: the same ids as transformers' CLIPTokenizer (5.24, the tokenizers library),
on a thousand strings; what is learned; what is cut.
"""
import random
import warnings
from collections import Counter

import pytest
import torch

from course_lib.lab.data.caption_grammar import draw_captions
from course_lib.networks.stable_diffusion import tokenizer as module
from course_lib.networks.stable_diffusion.tokenizer import END, START, BytePairTokenizer

CLIPTokenizer = pytest.importorskip("transformers").CLIPTokenizer
TEXTS = [*draw_captions(300, seed=1), "the café naïve über", "don't you'll it's", "中文 中文"]
NASTY = [
    "a photo of an astronaut riding a horse",
    "should've  COULD'VE it's I'M ''s 'S '",
    "na\u00efve cafe\u0301 \ufb01 \ufb02 \u01c5",
    "\uff21\uff22\uff23\u3000\uff44\uff45\uff46",
    "\u00b2\u00b3\u00bd \u2177 12345 1.5e-3 \u0967\u0968",
    "emoji \U0001f600\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
    "\u4e2d\u6587\u6d4b\u8bd5 \u65e5\u672c\u8a9e \ud55c\uad6d\uc5b4",
    "\t\n tabs\u00a0nbsp\u2003em\u200bzw \u2028line \x00\x1c\x1f\x85 z",
    "&amp; &lt;b&gt; a_b-c/d --__++",
    f"{END} hi {START} <|ENDOFTEXT|> <|endoftext|>x",
    "\u0130stanbul \u1e9e \u00df a\u0301",
    "x" * 300,
    "",
    " ",
    "\ufeffbom \ufdfa \u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd",
]
SIGNS = "abcXYZ 0129'-_.,!?\u00e9\u00df\u0130\u4e2d\u6587\U0001f600\u0301\u200b\t\u00b2\ufb01&<>|"


@pytest.fixture(scope="module")
def learned():
    return BytePairTokenizer.learn(TEXTS, 700)


@pytest.fixture(scope="module")
def reference(learned):
    return CLIPTokenizer(vocab=learned.vocabulary, merges=learned.merges)


def ids(tokenizer, text):
    return [tokenizer.vocabulary[part] for part in tokenizer.split(text)]


def test_a_thousand_nasty_strings(learned, reference):
    g = random.Random(0)
    drawn = ["".join(g.choices(SIGNS, k=g.randint(1, 40))) for _ in range(1000)]
    for text in [*NASTY, *drawn, *TEXTS]:
        assert ids(learned, text) == reference(text)["input_ids"][1:-1], repr(text)


@pytest.mark.parametrize("pad", [END, "!"])
def test_rows_are_padded_as_in_both_families(learned, pad):
    ours = BytePairTokenizer(learned.vocabulary, learned.merges, 20, pad)
    theirs = CLIPTokenizer(vocab=learned.vocabulary, merges=learned.merges, pad_token=pad)
    texts = ["a hat", "", "red glasses"]
    wanted = theirs(texts, padding="max_length", max_length=20, return_tensors="pt").input_ids
    assert torch.equal(ours(texts), wanted)
    assert torch.equal(ours("a hat"), wanted[:1])


def test_a_long_text_is_cut_and_it_is_said(learned):
    tokenizer = BytePairTokenizer(learned.vocabulary, learned.merges, 8)
    with pytest.warns(UserWarning, match=r"at most 6 tokens; left out: 'hat on a cool background'"):
        row = tokenizer("a figure with a red shirt hat on a cool background")
    assert row.shape == (1, 8) and row[0, -1] == learned.vocabulary[END]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer("a figure with a red shirt")


def test_text_and_back(learned):
    texts = ["a figure with a red shirt", "the café", "中文", "\U0001f600 ok"]
    assert learned.decode(learned(texts)) == texts
    assert learned.decode(torch.tensor([[learned.vocabulary[START]]])) == [""]
    broken = torch.tensor([[learned.vocabulary[module.SIGNS[0xE4]]]])   # a part of a letter
    assert learned.decode(broken) == ["\ufffd"]
    with pytest.raises(ValueError, match="tokens lie between 0 and 699"):
        learned.decode(torch.tensor([[700]]))


def test_the_bytes_have_256_signs():
    signs = module.byte_signs()
    assert sorted(signs) == list(range(256)) and len(set(signs.values())) == 256
    assert signs[ord("a")] == "a" and all(sign.isprintable() for sign in signs.values())
    assert signs[ord(" ")] == "Ġ"                                       # as in GPT-2's files


def test_learning_by_hand():
    """aab twice, ab three times: of a+b</w> (5), a+a (2) the first is merged, then a+ab</w>."""
    tokenizer = BytePairTokenizer.learn(["aab ab", "aab ab ab"], 516)
    assert tokenizer.merges == [("a", "b</w>"), ("a", "ab</w>")]
    assert tokenizer.split("aab ab b") == ["aab</w>", "ab</w>", "b</w>"]
    assert tokenizer.vocabulary[START] == 514 and tokenizer.vocabulary[END] == 515
    assert len(tokenizer.vocabulary) == 516


def test_equal_pairs_are_merged_in_alphabetical_order():
    assert BytePairTokenizer.learn(["za ax"], 515).merges == [("a", "x</w>")]


def test_a_learned_code_is_short(learned):
    """The more merges, the fewer tokens: the most frequent words of these texts are one."""
    words = Counter(word for text in TEXTS for word in module.split_words(text))
    assert all(len(learned.split(word)) == 1 for word, _ in words.most_common(20))
    small = BytePairTokenizer.learn(TEXTS, 550)
    length = lambda code: sum(len(code.split(text)) for text in TEXTS)
    assert length(learned) < length(small) < sum(len(text.encode()) for text in TEXTS)


def test_from_files(learned, reference, tmp_path):
    import json
    (tmp_path / "vocab.json").write_text(json.dumps(learned.vocabulary))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in learned.merges), ""]
    (tmp_path / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    again = BytePairTokenizer.from_folder(tmp_path, length=20)
    assert again.merges == learned.merges and again.vocabulary == learned.vocabulary
    reference.save_pretrained(tmp_path / "new")                         # tokenizer.json alone
    new = BytePairTokenizer.from_folder(tmp_path / "new")
    assert new.merges == learned.merges and new.vocabulary == learned.vocabulary
    short = BytePairTokenizer.from_merges([" ".join(pair) for pair in learned.merges])
    assert short.vocabulary == learned.vocabulary
    with pytest.raises(FileNotFoundError):
        BytePairTokenizer.from_folder(tmp_path / "nothing")


@pytest.mark.parametrize("change, sentence", [
    (dict(vocabulary={"a": 0}), "no token '<|startoftext|>'"),
    (dict(merges=[("q", "x")]), "no token 'qx'"),
    (dict(pad="nothing"), "no token 'nothing'"),
    (dict(length=1), "length must be a whole number, at least 2"),
])
def test_what_cannot_be_a_code(learned, change, sentence):
    import re
    arguments = dict(vocabulary=learned.vocabulary, merges=learned.merges) | change
    with pytest.raises((ValueError, TypeError), match=re.escape(sentence)):
        BytePairTokenizer(**arguments)


def test_what_cannot_be_learned(learned):
    with pytest.raises(ValueError, match="these texts have 1 pairs to merge: ask for less"):
        BytePairTokenizer.learn(["ab"], 600)
    with pytest.raises(ValueError, match="size must be a whole number, at least 514"):
        BytePairTokenizer.learn(["ab"], 500)
    with pytest.raises(TypeError, match="a text is a string; got 3"):
        learned.split(3)
