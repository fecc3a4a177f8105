"""Nouns, their captions, their splits and their metric; and the networks that read."""
import re
import warnings

import pytest
import torch

from course_lib import Denoiser, Schedule
from course_lib.lab import attributes, data, noun_parts, train
from course_lib.lab.storage import ASSETS
from course_lib.networks.text import UNKNOWN, ConditionalUNet, TextEncoder, Tokenizer, word_dropout

WORDS = ["a", "blue", "glasses", "head", "red", "shark"]


def tiny(**options) -> ConditionalUNet:
    torch.manual_seed(0)
    return ConditionalUNet(
        3, WORDS, length=8, text_dim=16, widths=(16,), num_heads=2, **options
    ).eval()


# ---- pictures

def test_the_same_seed_the_same_nouns_and_fewer_are_the_first_of_many():
    a = data.nouns(50, seed=3)
    b = data.nouns(50, seed=3)
    few = data.nouns(7, seed=3)
    assert (
        torch.equal(a.x, b.x)
        and a.captions == b.captions
        and torch.equal(few.x, a.x[:7])
        and few.captions == a.captions[:7]
    )
    assert not torch.equal(a.parts, data.nouns(50, seed=4).parts)
    assert (
        a.x.shape == (50, 3, 32, 32)
        and a.x.dtype == torch.float32
        and a.x.min() >= -1
        and a.x.max() <= 1
    )


def test_a_picture_is_its_layers_on_top_of_each_other():
    """All 1,024 pixels of twenty nouns: the background, then the body on it, the accessory, the
    head, and the glasses on top.
    """
    art, parts = noun_parts.load_art(), noun_parts.draw_parts(20, seed=2)
    for row, x, index in zip(parts.tolist(), noun_parts.render(parts), noun_parts.indices(parts)):
        seen = art.layers["background"][row[0]].clone()
        for column, part in ((1, "body"), (2, "accessory"), (3, "head"), (4, "glasses")):
            layer = art.layers[part][row[column]]
            seen[layer > 0] = layer[layer > 0]
        assert torch.equal(index, seen) and torch.equal(x, art.palette[:, seen.long()])


def test_the_sheet_of_parts_is_that_of_the_artists():
    """Counts, and some colours that were read off the original file by hand."""
    art = noun_parts.load_art()
    assert (
        [len(art.layers[part]) for part in noun_parts.PARTS]
        == [2, 30, 143, 254, 23]
        == [len(art.names[part]) for part in noun_parts.PARTS]
    )
    assert all(len(set(names)) == len(names) for names in art.names.values())
    grey = noun_parts.render(torch.tensor([[0, 0, 0, 0, 0]]))[0, :, 0, 0]
    torch.testing.assert_close(grey, torch.tensor([0xD5, 0xD7, 0xE1]) / 127.5 - 1)
    body = art.layers["body"][noun_parts.index_of("body", "red")]
    assert (body > 0).sum() == 147 and torch.allclose(
        art.palette[:, body[body > 0][0].long()], torch.tensor([210, 34, 9]) / 127.5 - 1
    )


def test_splits_keep_what_they_promise():
    old, new, pairs = (
        noun_parts.draw_parts(n, seed, split)
        for n, seed, split in ((60_000, 0, "train"), (3000, 1, "test"), (3000, 2, "pairs"))
    )
    meets = lambda parts, a, b: {tuple(p) for p in parts[:, [a, b]].tolist()}
    combinations = {tuple(p) for p in old.tolist()}
    assert (
        not combinations & {tuple(p) for p in new.tolist()}
        and not combinations & {tuple(p) for p in pairs.tolist()}
    )
    assert not meets(old, 3, 4) & meets(pairs, 3, 4) and not meets(old, 1, 2) & meets(pairs, 1, 2)
    assert (
        not meets(new, 3, 4) & meets(pairs, 3, 4)
        and len(meets(new, 3, 4) & meets(old, 3, 4)) > 0.99 * len(meets(new, 3, 4))
    )
    assert all(
        len(old[:, k].unique()) == len(noun_parts.load_art().layers[part])
        for k, part in enumerate(noun_parts.PARTS)
    ), "every part is trained"


@pytest.mark.parametrize("call, says", [
    (lambda: data.nouns(5, split="valid"), "split must be one of train, test, pairs"),
    (lambda: data.nouns(0), "n must be a whole number, at least 1; got 0"),
    (lambda: noun_parts.render(torch.zeros(2, 4, dtype=torch.long)), "parts are whole numbers"),
    (lambda: noun_parts.render(torch.tensor([[0, 30, 0, 0, 0]])), "30 of body"),
    (
        lambda: noun_parts.render(torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, -1, 0]])),
        "254 of head.*got head number -1 in row 1",
    ),
    (lambda: noun_parts.render(torch.tensor([[0, 31, 0, 0, 0]])), "got body number 31 in row 0"),
    (
        lambda: noun_parts.indices(torch.tensor([[0, 0, 0, 0, -1]])),
        "got glasses number -1 in row 0",
    ),
    (lambda: noun_parts.nouns(3, seed=-1), "seed must be .*; got -1"),
    (
        lambda: noun_parts.captions(torch.zeros(1, 5, dtype=torch.long), seed=-2),
        "seed must be .*; got -2",
    ),
    (lambda: noun_parts.index_of("head", "big shark"), "there is big lens, shark"),
    (
        lambda: noun_parts.index_of("hat", "x"),
        "background, body, accessory, head, glasses; got 'hat'",
    ),
    (
        lambda: attributes.attributes_correct(
            torch.zeros(2, 1, 28, 28), torch.zeros(2, 5, dtype=torch.long)
        ),
        "nouns are pictures",
    ),
    (
        lambda: attributes.attributes_correct(
            torch.full((1, 3, 32, 32), float("nan")), torch.zeros(1, 5, dtype=torch.long)
        ),
        "not finite",
    ),
])
def test_bad_input_gets_one_sentence(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_a_damaged_file_is_refused(tmp_path):
    half = tmp_path / "nouns.npz"
    half.write_bytes((ASSETS / "nouns.npz").read_bytes()[:5000])
    with pytest.raises(OSError, match="damaged"):
        noun_parts.load_art.__wrapped__(half)
    with pytest.raises(FileNotFoundError, match="reinstall"):
        noun_parts.load_art.__wrapped__(tmp_path / "none.npz")


# ---- captions

FORMS = {  # written by hand: whole phrases, with (.+) for the name
    "head": ("(.+)-headed NOUN", "a NOUN with (.+) head", "a NOUN whose head is (.+)", "(.+) head"),
    "glasses": (
        "with (.+) glasses",
        "with (.+) square glasses",
        "in (.+) spectacles",
        "wearing (.+) specs",
        "(.+) glasses",
    ),
    "accessory": ("wearing (.+)", "with (.+) on its shirt", "(.+) on the chest", "showing (.+)"),
    "body": ("(.+) body", "with (.+) body", "(.+) torso"),
    "background": (
        "(.+) background",
        "on a (.+) background",
        "before a (.+) backdrop",
        "(.+) backdrop",
    ),
}
MEANS = {
    "cool": "cool",
    "cold": "cool",
    "bluish": "cool",
    "warm": "warm",
    "hot": "warm",
    "rosy": "warm",
}


def read_back(phrase: str) -> list[tuple[str, str]]:
    """Every (part, name) that one phrase of a caption can mean."""
    found = set()
    for part, forms in FORMS.items():
        for form in forms:
            match = re.fullmatch(form.replace("NOUN", "(?:noun|character|figure)"), phrase)
            names = {match[1], re.sub("^an? ", "", match[1])} if match else set()
            found |= {
                (part, MEANS.get(name, name))
                for name in names
                if MEANS.get(name, name) in noun_parts.load_art().names[part]
            }
    return sorted(found)


def test_captions_say_what_is_there_and_nothing_else():
    """Each phrase means one part and one name, and together they are those of the picture; a
    synonym of the background counts.
    """
    made = data.nouns(400, seed=5, omit=0.0)
    for caption, named in zip(
        made.captions + noun_parts.plain_captions(made.parts), 2 * noun_parts.part_names(made.parts)
    ):
        phrases = re.sub(r"(-headed noun) (?=with .+ glasses, wearing)", r"\1, ", caption).split(
            ", "
        )
        assert len(phrases) == 5 and [len(read_back(phrase)) for phrase in phrases] == [1] * 5, (
            caption,
            [read_back(phrase) for phrase in phrases],
        )
        assert dict(read_back(phrase)[0] for phrase in phrases) == named, caption
    assert (
        len(
            {
                re.sub(
                    "|".join(
                        sorted(
                            (n for w in noun_parts.part_names(made.parts) for n in w.values()),
                            key=len,
                            reverse=True,
                        )
                    ),
                    "_",
                    c,
                )
                for c in made.captions
            }
        )
        > 200
    ), "the wording varies"


def test_a_part_is_left_unsaid_as_often_as_asked():
    """Every part; what is said is still true, and a caption never says nothing."""
    made = data.nouns(3000, seed=6, omit=0.2)
    said = dict.fromkeys(noun_parts.PARTS, 0)
    for caption, named in zip(made.captions, noun_parts.part_names(made.parts)):
        found = [pair for phrase in caption.split(", ") for pair in read_back(phrase)]
        assert found and all(named[part] == name for part, name in found), (caption, named)
        for part, _ in found:
            said[part] += 1
    for part, count in said.items():
        assert abs(1 - count / 3000 - 0.2) < 5 * (0.16 / 3000) ** 0.5, part
    assert all(c for c in noun_parts.captions(made.parts[:50], omit=0.99))


def test_articles():
    assert [
        noun_parts.article(name)
        for name in (
            "axe",
            "shark",
            "blood stains",
            "ufo",
            "unicorn",
            "chess",
            "rgb circles",
            "wet money",
        )
    ] == ["an ", "a ", "", "a ", "a ", "a ", "", ""]


def test_every_word_of_every_caption_is_in_the_vocabulary():
    tokenizer, made = Tokenizer(noun_parts.vocabulary()), data.nouns(3000, seed=7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokens = tokenizer(made.captions + noun_parts.plain_captions(made.parts))
    assert (tokens != UNKNOWN).all() and tokens.shape == (6000, 32)


# ---- the metric

def test_a_wrong_head_leaves_the_background_alone():
    """Also where the head that was drawn covers what the one that was asked for leaves free."""
    drawn = noun_parts.draw_parts(254, seed=2)
    head, background = (noun_parts.PARTS.index(part) for part in ("head", "background"))
    drawn[:, head] = torch.arange(254)
    asked = drawn.clone()
    asked[:, head] = noun_parts.index_of("head", "shark")
    right = attributes.attributes_correct(noun_parts.render(drawn), asked)
    assert right[:, background].all()
    asked[:, background] = 1 - asked[:, background]
    right = attributes.attributes_correct(noun_parts.render(drawn), asked)
    assert not right[:, background].any()


def test_real_nouns_match_and_shuffled_ones_are_chance():
    n = 100
    made = data.nouns(n, seed=8, split="test")
    assert attributes.attributes_correct(made.x, made.parts).all()
    shuffled = attributes.attributes_correct(made.x, made.parts.roll(1, 0)).float().mean(0)
    chance = attributes.chance_accuracy(made.parts)
    assert ((shuffled - chance).abs() < 5 * (chance * (1 - chance) / n).sqrt() + 0.01).all(), (
        shuffled,
        chance,
    )


def test_one_wrong_part_is_one_mismatch_and_a_hidden_body_is_none():
    parts = noun_parts.draw_parts(40, seed=9, split="test")
    for column, part in enumerate(noun_parts.PARTS):
        other = parts.clone()
        other[:, column] = (other[:, column] + 1) % len(noun_parts.load_art().layers[part])
        matches = attributes.attributes_correct(noun_parts.render(other), parts)
        same = (noun_parts.render(other) == noun_parts.render(parts)).flatten(1).all(1)
        assert (
            torch.equal(matches[:, column], same)
            and matches[:, [k for k in range(5) if k != column]].float().mean() > 0.9
        )
    hidden = parts.clone()
    hidden[:, 2] = noun_parts.index_of("accessory", "rgb checkered shirt")
    assert (
        attributes.chance_accuracy(hidden)[1] == 1
        and abs(attributes.chance_accuracy(hidden)[3] - 1 / 254) < 0.01
    )


# ---- words and networks

def test_the_tokenizer_reads_names_warns_of_strangers_and_refuses_what_is_too_long():
    tokenizer = Tokenizer(WORDS, length=6)
    assert (
        tokenizer("A shark-head, RED").tolist() == [[2, 7, 5, 6, 0, 0]]
        and tokenizer.decode(tokenizer(["a red head", ""])) == ["a red head", ""]
    )
    with pytest.warns(UserWarning, match="zebra, tuba"):
        assert tokenizer("a zebra tuba")[0, :3].tolist() == [2, 1, 1]
    assert tokenizer.unknown("a zebra head") == ["zebra"]
    with pytest.raises(ValueError, match="this one has 7: shorten it before 'glasses'"):
        tokenizer("a red a red a red glasses")


def test_the_encoder_ignores_padding_and_notices_order():
    torch.manual_seed(0)
    encoder = TextEncoder(8, length=6, dim=16).eval()
    short, long = torch.tensor([[2, 6, 5]]), torch.tensor([[2, 6, 5, 0, 0, 0]])
    torch.testing.assert_close(encoder(short)[0], encoder(long)[0][:, :3])
    assert encoder(torch.zeros(2, 6, dtype=torch.long))[0].isfinite().all()
    swapped = encoder(torch.tensor([[5, 6, 2]]))[0]
    assert (swapped.flip(1) - encoder(short)[0]).abs().max() > 1e-2


def test_a_network_reads_and_the_empty_caption_is_none():
    net = tiny()
    for p in net.parameters():  # blocks begin as the identity, and would not listen
        p.data += 0.1 * torch.randn_like(p)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([0.3, 0.8])
    out = lambda tokens: net(x, t, tokens)
    words = net.tokenizer(["a red shark", "a blue head"])
    torch.testing.assert_close(out(None), out(0))
    assert (
        torch.equal(out(0), out(torch.zeros_like(words)))
        and (out(words) - out(0)).abs().max() > 1e-2
    )
    torch.testing.assert_close(out(words)[:1], net(x[:1], t[:1], words[:1]))
    torch.testing.assert_close(out(words[:1]), out(words[:1].expand(2, -1)))
    mixed = torch.where(torch.tensor([[True], [False]]), words, 0)
    torch.testing.assert_close(
        out(mixed)[1],
        out(0)[1],
        msg="an example whose caption was dropped is one without a caption",
    )


def test_a_sampler_encodes_no_padding():
    net = tiny()
    for p in net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([0.3, 0.8])
    words = net.tokenizer(["a red shark", "a head"])
    for tokens, length in [(words, 3), (words[1:], 2), (words[:, [0, 5, 1]], 3), (0, 1)]:
        encoded = net.encode(tokens, 2)
        assert encoded["context"].shape[:2] == encoded["context_mask"].shape == (2, length)
        torch.testing.assert_close(net(x, t, **encoded), net(x, t, tokens))


@pytest.mark.parametrize(
    "tokens, says",
    [
        (torch.zeros(3, 8), "tokens are whole numbers"),
        (torch.full((2, 8), 99), "take this network's own tokenizer"),
        (torch.zeros(2, 9, dtype=torch.long), "tokens are whole numbers"),
        ("a red head", "got str"),
    ],
)
def test_bad_tokens_get_one_sentence(tokens, says):
    with pytest.raises(ValueError, match=says):
        tiny()(torch.randn(2, 3, 8, 8), torch.rand(2), tokens)


def test_forgetful_forgets_words_and_leaves_padding():
    tokens = torch.tensor([[2, 3, 4, 0]]).repeat(5000, 1)
    lost = word_dropout(tokens, 0.1)
    assert (
        (lost[:, 3] == 0).all()
        and abs((lost[:, :3] == UNKNOWN).float().mean() - 0.1) < 0.015
        and ((lost == tokens) | (lost == UNKNOWN)).all()
    )


def small_reader() -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(
        ConditionalUNet(3, noun_parts.vocabulary(), text_dim=16, widths=(16,), num_heads=2),
        Schedule.cosine(),
    )


def test_training_drops_whole_captions_as_often_as_asked(runs):
    """What the network is shown: half of the captions whole, the others empty."""
    made = data.nouns(64, seed=1)
    D = small_reader()
    seen = []
    tokens = D.net.tokenizer(made.captions)
    D.net.register_forward_pre_hook(
        lambda net, inputs, named: seen.append(named["tokens"].clone()), with_kwargs=True
    )
    train.train(
        D, {"x0": made.x[..., ::4, ::4], "tokens": tokens}, steps=10, batch_size=64, p_drop=0.5
    )
    seen = torch.cat(seen)
    empty = (seen == 0).all(1)
    assert len(seen) == 640 and abs(empty.double().mean() - 0.5) < 5 * (0.25 / 640) ** 0.5
    whole = {tuple(row) for row in tokens.tolist()}
    assert all(tuple(row) in whole for row in seen[~empty].tolist())


def test_a_reader_is_saved_and_loaded_with_its_words(runs):
    """With weights that all say something: a fresh network's last layer is zero, and would hide
    every difference.
    """
    D = small_reader()
    for p in D.net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    train.save(D.eval(), runs / "tiny.safetensors", data="nouns")
    again = train.load(runs / "tiny.safetensors")
    state, loaded = D.net.state_dict(), again.net.state_dict()
    assert state.keys() == loaded.keys()
    for name, value in state.items():                                   # saved in half precision
        torch.testing.assert_close(loaded[name], value, rtol=1e-3, atol=1e-6, msg=name)
    assert (
        again.net.null == {"tokens": 0}
        and again.net.tokenizer.words == D.net.tokenizer.words
        and again.net.tokenizer.length == 32
    )
    x, tokens = torch.randn(2, 3, 32, 32), again.net.tokenizer(["a shark head", "red glasses"])
    torch.testing.assert_close(
        again(x, 0.5, tokens=tokens), D(x, 0.5, tokens=tokens), atol=2e-2, rtol=0
    )
    assert (D(x, 0.5, tokens=tokens) - D(x, 0.5)).abs().max() > 0.1, "the words matter"


def test_a_configuration_for_nouns():
    config = {
        "data": "nouns",
        "examples": 40,
        "network": {
            "type": "ConditionalUNet",
            "channels": 3,
            "widths": [16],
            "text_dim": 16,
            "num_heads": 2,
        },
        "train": {"steps": 1, "time_sampler": {"mean": -2.5, "std": 2.5}},
    }
    D, made, options = train.from_config(config)
    assert made["x0"].shape == (40, 3, 32, 32) and made["tokens"].shape == (40, 32)
    assert callable(options.time_sampler) and options.steps == 1
    unknown = (made["tokens"] == UNKNOWN).sum() / (made["tokens"] != 0).sum()
    assert 0.002 < unknown < 0.03, "about one word in a hundred is forgotten"
