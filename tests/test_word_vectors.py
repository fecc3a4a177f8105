"""The shipped sentence vectors: whole, and as good at synonyms as the lesson says."""
import pytest

from course_lib.lab import noun_parts, word_vectors
from course_lib.lab.storage import ASSETS


def right(word: str, part: str, accepted: set[str]) -> bool:
    return word_vectors.nearest(word, part, 1)[0][0] in accepted


def test_synonyms():
    """71 questions written beforehand; a name drawn at random is right 1 time in 60."""
    tests = word_vectors.synonyms()
    assert (
        len(tests) == 71
        and all(accepted <= set(noun_parts.load_art().names[part]) for _, part, accepted in tests)
    )
    share = sum(right(*test) for test in tests) / len(tests)
    chance = (
        sum(len(accepted) / len(noun_parts.load_art().names[part]) for _, part, accepted in tests)
        / len(tests)
    )
    assert share >= 0.78 and chance < 0.02


@pytest.mark.parametrize(
    "word, part, name",
    [
        ("kitten", "head", "cat"),
        ("hound", "head", "dog"),
        ("automobile", "head", "car"),
        ("violet", "body", "purple"),
    ],
)
def test_words_find_names(word, part, name):
    assert word_vectors.nearest(word, part)[0][0] == name


def test_a_name_finds_itself():
    for word in ("shark", "pizza", "cat", "banana"):
        (name, cosine), *_ = word_vectors.nearest(word, "head")
        assert name == word and cosine == pytest.approx(1, abs=1e-4)


def test_vectors():
    assert (
        word_vectors.vector("Dog").shape == (128,)
        and word_vectors.vector("dog").norm().item() == pytest.approx(1, abs=1e-5)
    )
    assert (
        {part: len(v) for part, v in word_vectors.load_vectors().names.items()}
        == {part: len(n) for part, n in noun_parts.load_art().names.items()}
    )
    assert (
        word_vectors.vector("kitten") @ word_vectors.vector("cat")
        > word_vectors.vector("kitten") @ word_vectors.vector("tax")
    )


def test_bad_input_and_a_damaged_file(tmp_path):
    with pytest.raises(ValueError, match="not among"):
        word_vectors.vector("xylographer")
    with pytest.raises(ValueError, match="part must be"):
        word_vectors.nearest("dog", "tail")
    with pytest.raises(ValueError, match="k must be .* names of head.*got 0"):
        word_vectors.nearest("dog", "head", 0)
    bad = tmp_path / "minilm.npz"
    bad.write_bytes((ASSETS / "minilm.npz").read_bytes()[:-100])
    with pytest.raises(OSError, match="damaged"):
        word_vectors.load_vectors(bad)
    with pytest.raises(FileNotFoundError):
        word_vectors.load_vectors(tmp_path / "none.npz")
