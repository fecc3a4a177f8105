"""Textual inversion: a new word with a vector of its own, the only thing that is learned.

Gal et al. 2023. The word becomes one more token of the tokenizer, and one more row of the text
encoder's table of embeddings. Everything else stays as it was, byte for byte.
"""
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ... import validate
from .model import StableDiffusionNet
from .tokenizer import END, START, BytePairTokenizer, _signs, split_words


class WordTokenizer(BytePairTokenizer):
    """A tokenizer with one more token: this word, whole. Its id is the last one.

    Raises TypeError or ValueError for another tokenizer, what is not one word in lower case, and a
    word that is one token already.
    """

    def __init__(self, tokenizer: BytePairTokenizer, word: str):
        validate.instance(tokenizer, BytePairTokenizer, "tokenizer", "D.net.tokenizer")
        validate.instance(word, str, "word", "'sks'")
        if split_words(word) != [word] or word in (START, END):
            raise ValueError(
                f"word must be one word of lower-case letters, such as 'sks'; got {word!r}"
            )
        token, vocabulary = "".join(_signs(word)), tokenizer.vocabulary
        if token in vocabulary:
            raise ValueError(f"{word!r} is one token already: take a word that has none")
        vocabulary = vocabulary | {token: len(vocabulary)}
        super().__init__(vocabulary, tokenizer.merges, tokenizer.length, tokenizer.pad)
        self.words = getattr(tokenizer, "words", {}) | {word: token}

    def _merge(self, word: str) -> tuple[str, ...]:
        return (self.words[word],) if word in self.words else super()._merge(word)


class WordEmbedding(nn.Module):
    """A table of V embeddings with one more row, which is a parameter of its own: ids (...) in
    [0, V] -> (..., dim).

    embedding: the table, an nn.Embedding or another WordEmbedding
    word:      what the new row stands for
    vector:    (dim,), its first value
    """

    def __init__(self, embedding: nn.Module, word: str, vector: Tensor):
        super().__init__()
        self.embedding = embedding
        self.word = word
        self.vector = nn.Parameter(vector.detach().clone())
        self.num_embeddings = embedding.num_embeddings + 1

    def forward(self, tokens: Tensor) -> Tensor:
        last = self.num_embeddings - 1
        others = self.embedding(tokens.clamp(max=last - 1))             # (..., dim)
        return torch.where((tokens == last)[..., None], self.vector, others)


def add_word(net: StableDiffusionNet, word: str, like: str) -> nn.Parameter:
    """Give a network a new word; returns its vector (dim,), the only weight to train.

    like: a known text; the mean of its tokens' embeddings is the vector's first value

    Freeze the rest first: `net.requires_grad_(False)`. Keep what was learned by `save_word`: a
    checkpoint of the whole network does not say what its new words are.
    Raises TypeError or ValueError for another network, what is not one word in lower case, a word
    that is one token already, and a `like` without tokens.
    """
    validate.instance(net, StableDiffusionNet, "net", "D.net")
    tokenizer = WordTokenizer(net.tokenizer, word)
    known = net.tokenizer.split(like)
    if not known:
        raise ValueError(f"like must be a text that the network knows, such as 'dog'; got {like!r}")
    table = net.text.token_embedding
    ids = torch.tensor([net.tokenizer._id(token) for token in known])
    vector = table(ids.to(net.text.position_embedding.device)).mean(0)
    return _grow(net, tokenizer, word, vector)


def learned_words(net: StableDiffusionNet) -> dict[str, nn.Parameter]:
    """The new words of a network and their vectors (dim,), in the order in which they were added.
    """
    validate.instance(net, StableDiffusionNet, "net", "D.net")
    found, table = [], net.text.token_embedding
    while isinstance(table, WordEmbedding):
        found.append((table.word, table.vector))
        table = table.embedding
    return dict(reversed(found))


def _grow(
    net: StableDiffusionNet, tokenizer: WordTokenizer, word: str, vector: Tensor
) -> nn.Parameter:
    """The tokenizer, the table and the sizes of a network get the word together."""
    table = WordEmbedding(net.text.token_embedding, word, vector)
    net.text.token_embedding = table
    net.text.config["vocabulary"] = table.num_embeddings
    net.tokenizer = tokenizer
    return table.vector


# ---- files

def save_word(net: StableDiffusionNet, file: str | Path, word: str) -> None:
    """A word's vector in the layout that diffusers loads (`load_textual_inversion`).

    Raises ValueError for a word that was not added, OSError where the file cannot be written.
    """
    words = learned_words(net)
    if word not in words:
        raise ValueError(f"this network has no new word {word!r}; it has {[*words] or 'none'}")
    try:
        save_file({word: words[word].detach().float().cpu()}, file, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{file} cannot be written ({error})") from error


def load_word(net: StableDiffusionNet, file: str | Path, word: str | None = None) -> nn.Parameter:
    """Add the word of a file in that layout; returns its vector (dim,).

    word: another name for it; published names such as <cat-toy> are no words of letters

    Raises OSError for a file that is not whole, TypeError or ValueError as `add_word` does, and for
    a file that does not hold one vector of the text encoder's size.
    """
    validate.instance(net, StableDiffusionNet, "net", "D.net")
    try:
        with safe_open(file, framework="pt") as stored:
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise OSError(f"{file} is not a whole safetensors file ({error})") from error
    dim, shapes = net.text.config["dim"], [tuple(value.shape) for value in tensors.values()]
    if shapes not in ([(dim,)], [(1, dim)]):
        raise ValueError(f"{file} must hold one vector of {dim} numbers; its shapes are {shapes}")
    ((stored_word, vector),) = tensors.items()
    word = stored_word if word is None else word
    tokenizer = WordTokenizer(net.tokenizer, word)
    return _grow(net, tokenizer, word, vector.view(dim).to(net.text.position_embedding))
