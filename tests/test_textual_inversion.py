"""Textual inversion: a new word is one token with one vector, which can be learned and kept;
nothing else changes.
"""
import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

from course_lib import Denoiser, Schedule
from course_lib.networks.stable_diffusion import inversion
from course_lib.networks.stable_diffusion.inversion import (
    WordEmbedding,
    WordTokenizer,
    add_word,
    learned_words,
    load_word,
    save_word,
)
from course_lib.networks.stable_diffusion.model import StableDiffusionNet
from course_lib.networks.stable_diffusion.tokenizer import BytePairTokenizer

close = torch.testing.assert_close
CAPTIONS = ["a red hat", "a blue hat", "a red dog", "a red-headed dog with a blue hat", "a dog"] * 3
DIM = 16


def net(seed=0):
    torch.manual_seed(seed)
    tokenizer = BytePairTokenizer.learn(CAPTIONS, 530, 24)
    unet = {"in_channels": 2, "out_channels": 2, "widths": (32, 32), "depth": 1,
            "context_dim": DIM, "num_heads": 4, "attention_levels": (True, False)}
    text = {"vocabulary": 530, "length": 24, "dim": DIM, "depth": 2, "num_heads": 4, "hidden": 32}
    made = StableDiffusionNet(unet, text, tokenizer)
    for p in made.parameters():                             # no zeros: everything matters
        p.data = torch.randn(p.shape) / (p[0].numel() ** 0.5 if p.ndim > 1 else 4)
    return made.eval().requires_grad_(False)


def inputs(n=4):
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, 2, 4, 4, generator=g), torch.linspace(0.1, 0.9, n)


# ---- the tokenizer

def test_the_word_is_one_token_and_all_others_are_as_before():
    plain = BytePairTokenizer.learn(CAPTIONS, 530, 24)
    longer = WordTokenizer(plain, "sks")
    assert len(plain.split("sks")) > 1 and longer.split("sks") == ["sks</w>"]
    assert longer.vocabulary["sks</w>"] == 530 == len(plain.vocabulary)
    assert longer.split("a sks-headed dog") == [
        *plain.split("a"), "sks</w>", *plain.split("-headed dog")]
    for text in (*CAPTIONS, "sk", "skss", "asks", "s ks", ""):
        assert torch.equal(plain(text), longer(text))
    assert longer.decode(longer(["SKS and a red hat"])) == ["sks and a red hat"]
    assert (longer.length, longer.pad) == (plain.length, plain.pad)


def test_words_in_any_script_and_two_of_them():
    plain = BytePairTokenizer.learn(CAPTIONS, 530, 24)
    both = WordTokenizer(WordTokenizer(plain, "naïve"), "sks")
    row = both("naïve sks")[0, 1:3].tolist()
    assert row == [530, 531] and both.decode(both("a naïve sks")) == ["a naïve sks"]


def test_padding_and_length_are_kept():
    """Version 2.x pads with another token than 1.x."""
    plain = BytePairTokenizer.learn(CAPTIONS, 530, 24)
    of_2 = BytePairTokenizer(plain.vocabulary, plain.merges, 9, pad="!")
    longer = WordTokenizer(of_2, "sks")
    assert torch.equal(longer(["a red hat", ""]), of_2(["a red hat", ""]))
    assert longer("a sks").shape == (1, 9) and longer("a sks")[0, -1] == plain.vocabulary["!"]


# ---- the vector

def test_an_embedding_with_one_more_row():
    table = torch.nn.Embedding(5, 3)
    longer = WordEmbedding(WordEmbedding(table, "a", torch.ones(3)), "b", 2 * torch.ones(3))
    tokens = torch.tensor([[0, 4, 5, 6], [6, 6, 1, 5]])
    wanted = torch.cat([table.weight, torch.ones(1, 3), 2 * torch.ones(1, 3)])[tokens]
    assert torch.equal(longer(tokens), wanted) and longer.num_embeddings == 7


@torch.no_grad()
def test_a_word_like_another_means_the_same():
    """The start is the embedding of `like`; of several tokens their mean."""
    model = net()
    red = model.text(model.tokenizer("a red hat"))
    add_word(model, "sks", like="red")
    add_word(model, "qux", like="red hat")
    assert torch.equal(model.text(model.tokenizer("a sks hat")), red)
    table = model.text.token_embedding
    ids = [model.tokenizer.vocabulary[token] for token in ("red</w>", "hat</w>")]
    close(learned_words(model)["qux"], table(torch.tensor(ids)).mean(0))
    assert [*learned_words(model)] == ["sks", "qux"]
    assert model.text.config["vocabulary"] == model.config["text"]["vocabulary"] == 532


@torch.no_grad()
def test_texts_without_the_word_and_all_weights_are_as_they_were():
    model = net()
    before, (x, t) = copy.deepcopy(model), inputs()
    vector = add_word(model, "sks", like="dog")
    vector += 1
    for text in (CAPTIONS[3], ""):
        tokens = model.tokenizer(text)
        assert torch.equal(model(x, t, tokens), before(x, t, tokens))
    assert torch.equal(model.null["tokens"], before.null["tokens"])
    state = {name.replace("embedding.embedding", "embedding"): value
             for name, value in model.state_dict().items() if "vector" not in name}
    assert state.keys() == before.state_dict().keys()
    assert all(torch.equal(state[name], p) for name, p in before.state_dict().items())
    tokens = model.tokenizer("a sks")
    assert not torch.allclose(model(x, t, tokens), before(x, t, before.tokenizer("a dog")))


def test_the_vector_alone_has_a_gradient_and_it_is_right():
    """The chain rule through the text encoder, against differences, in float64."""
    model = net().double()
    vector = add_word(model, "sks", like="dog")
    D, tokens = Denoiser(model, Schedule.scaled_linear(), "v"), model.tokenizer("a sks sks hat")
    x, t = inputs()
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    loss = lambda: D.loss(x.double(), t.double(), eps, tokens=tokens).mean()
    loss().backward()
    assert [name for name, p in D.named_parameters() if p.grad is not None] == [
        "net.text.token_embedding.vector"]
    for k in (0, 7):
        with torch.no_grad():
            sides = []
            for step in (1e-5, -2e-5):
                vector[k] += step
                sides.append(loss())
            vector[k] += 1e-5
        close(vector.grad[k], (sides[0] - sides[1]) / 2e-5, rtol=1e-5, atol=1e-10)


def learn(wanted, steps=40):
    """Fit a word that begins as "blue" to what a network gives for "a red hat", plus `wanted`;
    returns the first and the last loss.
    """
    model, (x, t) = net(), inputs(2)
    for name, p in model.named_parameters():
        p.data *= 4 if "cross_attention" in name else 1     # so that the text matters more
    target = model(x, t, model.tokenizer("a red hat")) + wanted
    vector, tokens = add_word(model, "sks", like="blue"), model.tokenizer("a sks hat")
    optimizer, losses = torch.optim.Adam([vector], 0.05), []
    for _ in range(steps):
        loss = (model(x, t, tokens) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


def test_it_learns_what_another_word_says_already():
    """(7.21): what "a red hat" gives can be asked for."""
    first, last = learn(wanted=0.0)
    assert last < 0.1 * first


def test_it_does_not_learn_what_no_word_says():
    """Another constant in the output is the U-Net's to give, and the U-Net is frozen."""
    first, last = learn(wanted=0.1)
    assert first == pytest.approx(0.01, rel=0.2) and 0.8 * first < last <= first


def test_a_copy_learns_by_itself():
    model = net()
    add_word(model, "sks", like="dog")
    other = copy.deepcopy(model)
    with torch.no_grad():
        learned_words(other)["sks"].zero_()
    assert learned_words(model)["sks"].abs().max() > 0
    assert torch.equal(model.tokenizer("a sks"), other.tokenizer("a sks"))


# ---- files

@torch.no_grad()
def test_kept_and_loaded_under_its_name_or_another(tmp_path):
    model, file = net(), tmp_path / "word.safetensors"
    vector = add_word(model, "sks", like="dog")
    vector.normal_()
    save_word(model, file, "sks")
    assert {name: tuple(v.shape) for name, v in load_file(file).items()} == {"sks": (DIM,)}
    for name in (None, "qux"):
        other = net()
        load_word(other, file, name)
        text = f"a {name or 'sks'} hat"
        assert torch.equal(other.text(other.tokenizer(text)),
                           model.text(model.tokenizer("a sks hat")))
    save_file({"<cat-toy>": vector[None].contiguous()}, file)           # a row, as some files are
    with pytest.raises(ValueError, match="one word of lower-case letters"):
        load_word(net(), file)
    assert torch.equal(load_word(net(), file, "toy"), vector)


@torch.no_grad()
def test_published_text_encoders_read_the_file(tmp_path):
    """diffusers puts the word into transformers' tokenizer and encoder: the same vectors."""
    transformers = pytest.importorskip("transformers")
    from diffusers.loaders import TextualInversionLoaderMixin

    from course_lib.networks.stable_diffusion.layout import to_published
    model, file = net(), tmp_path / "word.safetensors"
    add_word(model, "sks", like="dog").normal_(generator=torch.Generator().manual_seed(3))
    save_word(model, file, "sks")
    plain = net()
    tokenizer = transformers.CLIPTokenizer(
        vocab=plain.tokenizer.vocabulary, merges=plain.tokenizer.merges, model_max_length=24)
    config = transformers.CLIPTextConfig(
        vocab_size=530, hidden_size=DIM, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=24, hidden_act="quick_gelu")
    encoder = transformers.CLIPTextModel(config).eval()
    ours = {name.removeprefix("text_model."): p for name, p in to_published(plain.text).items()}
    names = {name.removeprefix("text_model."): name for name in encoder.state_dict()}
    found = encoder.load_state_dict({names[name]: p for name, p in ours.items()}, strict=False)
    assert not found.unexpected_keys and set(found.missing_keys) <= {"position_ids"}

    class Pipeline(TextualInversionLoaderMixin):
        hf_device_map, components = None, {}
    Pipeline().load_textual_inversion(str(file), tokenizer=tokenizer, text_encoder=encoder)
    texts = ["a sks hat", "a red-headed dog"]
    rows = tokenizer(texts, padding="max_length", return_tensors="pt").input_ids
    assert torch.equal(rows, model.tokenizer(texts))
    close(encoder(rows).last_hidden_state, model.text(model.tokenizer(texts)), rtol=1e-4,
          atol=1e-5)


# ---- what is refused

@pytest.mark.parametrize("said, error, call", [
    ("net must be a StableDiffusionNet", TypeError, lambda n, f: add_word(n.unet, "sks", "dog")),
    ("word must be a str", TypeError, lambda n, f: add_word(n, 3, "dog")),
    ("one word of lower-case letters", ValueError, lambda n, f: add_word(n, "two words", "dog")),
    ("one word of lower-case letters", ValueError, lambda n, f: add_word(n, "SKS", "dog")),
    ("one word of lower-case letters", ValueError, lambda n, f: add_word(n, "<toy>", "dog")),
    ("one word of lower-case letters", ValueError, lambda n, f: add_word(n, "", "dog")),
    ("one word of lower-case", ValueError, lambda n, f: add_word(n, "<|endoftext|>", "dog")),
    ("'dog' is one token already", ValueError, lambda n, f: add_word(n, "dog", "red")),
    ("like must be a text", ValueError, lambda n, f: add_word(n, "sks", " ")),
    ("a text is a string", TypeError, lambda n, f: add_word(n, "sks", None)),
    ("tokenizer must be a Byte", TypeError, lambda n, f: WordTokenizer(n, "sks")),
    ("no new word 'sks'; it has none", ValueError, lambda n, f: save_word(n, f, "sks")),
    ("net must be a StableDiffusionNet", TypeError, lambda n, f: load_word(n.text, f)),
    ("not a whole safetensors file", OSError, lambda n, f: load_word(n, broken(f))),
    ("one vector of 16 numbers", ValueError, lambda n, f: load_word(n, stored(f, sks=(DIM + 1,)))),
    ("one vector of 16 numbers", ValueError, lambda n, f: load_word(n, stored(f, sks=(2, DIM)))),
    ("one vector of 16", ValueError, lambda n, f: load_word(n, stored(f, a=(DIM,), b=(DIM,)))),
    ("'red' is one token already", ValueError, lambda n, f: load_word(n, stored(f, red=(DIM,)))),
])
def test_what_is_refused_and_nothing_has_changed(said, error, call, tmp_path):
    model = net()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    with pytest.raises(error, match=said):
        call(model, tmp_path / "word.safetensors")
    assert type(model.tokenizer) is BytePairTokenizer
    assert model.text.config["vocabulary"] == 530 and learned_words(model) == {}
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())


def test_the_same_word_twice_is_refused():
    model = net()
    add_word(model, "sks", "dog")
    with pytest.raises(ValueError, match="'sks' is one token already"):
        add_word(model, "sks", "dog")
    assert [*learned_words(model)] == ["sks"] and model.text.config["vocabulary"] == 531


def test_a_folder_is_no_file(tmp_path):
    model = net()
    add_word(model, "sks", "dog")
    with pytest.raises(OSError, match="cannot be written"):
        save_word(model, tmp_path / "none" / "word.safetensors", "sks")


def broken(file):
    file.write_bytes(b"PK, a pickle")
    return file


def stored(file, **shapes):
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, file)
    return file


def test_the_module_exports_what_the_lesson_imports():
    public = {name for name, value in vars(inversion).items()
              if getattr(value, "__module__", "") == inversion.__name__ and name[0] != "_"}
    assert public == {"WordTokenizer", "WordEmbedding", "add_word", "learned_words", "save_word",
                      "load_word"}
