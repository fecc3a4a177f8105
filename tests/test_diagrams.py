"""Diagrams: shapes and skip connections are the module's own; what cannot be drawn is refused."""
import pytest
import torch

from course_lib import DiT, UNet
from course_lib.lab.notebook import diagrams, plots


@pytest.fixture
def drawn(monkeypatch):
    """Figures in place of their display: a list of (figure, alternative text)."""
    found = []
    show = lambda figure, kind="png", alt=None: found.append((figure, alt))
    monkeypatch.setattr(plots, "display", show)
    return found


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


NETS = {
    "two levels": dict(widths=(32, 64), num_classes=10),
    "three levels, two blocks": dict(widths=(16, 32, 64), depth=2, patch_size=1),
}


@pytest.mark.parametrize("options", NETS.values(), ids=NETS)
def test_the_shapes_are_those_of_the_network(drawn, options):
    net = UNet(1, **options)
    diagrams.unet(net, 28)
    (figure, alt), = drawn
    first = 28 // net.patch_size
    assert f"stem\n{net.config['widths'][0]} x {first} x {first}" in texts(figure)
    out = net.out.out_channels
    assert f"out\n{out} x {first} x {first}" in texts(figure) and f"out ({out}," in alt
    boxes = [text for text in texts(figure) if "\n" in text]
    assert len(boxes) == 2 + len(net.down) + len(net.middle) + len(net.up)


@pytest.mark.parametrize("options", NETS.values(), ids=NETS)
def test_the_skip_connections_are_those_of_the_forward_pass(monkeypatch, options):
    """What `concat_skip` is really given, by the stage that made it and the stage that reads it."""
    net = UNet(1, **options)
    made, pairs, waiting = {}, [], []
    for part in ("down", "up"):
        for k, stage in enumerate(getattr(net, part)):
            name = f"{part} {k}"
            stage.register_forward_hook(lambda m, i, o, name=name: made.update({id(o): name}))
            if part == "up":
                stage.register_forward_pre_hook(
                    lambda m, i, name=name: pairs.append((waiting.pop(), name)) if waiting else None
                )

    def concat(h, skip):
        waiting.append(made[id(skip)])
        return torch.cat([h, skip], dim=1)
    monkeypatch.setattr(net, "concat_skip", concat)
    net(torch.zeros(1, 1, 28, 28), torch.zeros(1))
    names = list(diagrams._shapes(net, 28, 28))
    monkeypatch.undo()
    assert pairs[: len(pairs) // 2] == diagrams._skips(net, names)      # _shapes ran it once more


def test_no_hook_is_left():
    net = UNet(1)
    diagrams._shapes(net, 28, 28)
    assert not any(module._forward_hooks for module in net.modules())


def test_the_chain(drawn):
    diagrams.chain(torch.randn(5, 1, 8, 8))
    diagrams.chain(torch.randn(4, 3, 8, 8))
    labels = [[axes.get_xlabel() for axes in figure.axes] for figure, _ in drawn]
    assert labels[0] == ["$x_0$", "...", "...", "...", "$x_T$"]
    assert labels[1] == ["$x_0$", "$x_{t-1}$", "$x_t$", "$x_T$"]
    assert texts(drawn[0][0]).count("$q$") == 4             # an arrow each way between neighbours
    assert texts(drawn[0][0]).count(r"$p_\theta$") == 4


def test_a_block(drawn):
    diagrams.block(["norm", "conv"], (0, 1), 1, "A block")
    (figure, alt), = drawn
    assert {"x", "norm", "conv", "output", "embedding e"} <= {*texts(figure)}
    assert alt == "A block: norm -> conv"


@pytest.mark.parametrize("draw, words", [
    (lambda: diagrams.chain(torch.randn(1, 1, 8, 8)), "two images or more"),
    (lambda: diagrams.chain(torch.randn(3, 2, 8, 8)), "1 or 3"),
    (lambda: diagrams.chain(torch.randn(3, 1, 8, 8), ["a"]), "3 states and 1 labels"),
    (lambda: diagrams.unet(DiT(1, 28), 28), "UNet"),
    (lambda: diagrams.unet(UNet(1, extra_channels=1), 28), "extra channels"),
    (lambda: diagrams.unet(UNet(1), 27), "multiples"),
    (lambda: diagrams.block(["a", "b"], (1, 0)), "first <= last"),
    (lambda: diagrams.block(["a", "b"], (0, 2)), "bypass"),
    (lambda: diagrams.block(["a", "b"], (0, 1), 2), "condition"),
])
def test_what_cannot_be_drawn(drawn, draw, words):
    with pytest.raises((TypeError, ValueError), match=words):
        draw()
    assert not drawn


def test_guidance_vectors_draws_and_refuses(drawn):
    points = torch.tensor([0.2, 1.1]), torch.tensor([0.0, 0.2]), torch.tensor([1.0, -0.1])
    diagrams.guidance_vectors(*points, [2.0])
    axes = drawn[0][0].axes[0]
    marked = torch.tensor([[line.get_xdata()[0], line.get_ydata()[0]] for line in axes.lines])
    wanted = torch.stack([*points, points[1] + 2 * (points[2] - points[1])])
    torch.testing.assert_close(marked.float(), wanted)
    with pytest.raises(ValueError, match="two numbers"):
        diagrams.guidance_vectors(torch.zeros(3), *points[1:], [2.0])


def test_overlaid_draws_all_clouds_in_one_panel(drawn):
    diagrams.overlaid({"a": torch.zeros(3, 2), "b": torch.ones(4, 2)}, "title", "x", "y")
    [axes] = drawn[0][0].axes
    assert [len(c.get_offsets()) for c in axes.collections] == [3, 4]
    with pytest.raises(ValueError, match="at least one cloud"):
        diagrams.overlaid({}, "title", "x", "y")


def test_the_map_of_samplers_has_a_box_for_each_cell(drawn):
    diagrams.sampler_map({("no noise", 1): ["DDIM", "Euler"], ("noise", 2): ["SDE"]})
    [(figure, alt)] = drawn
    assert {"DDIM\nEuler", "SDE", "order 1", "order 2", "noise", "no noise"} <= set(texts(figure))
    assert alt == "no noise, order 1: DDIM, Euler; noise, order 2: SDE"
    with pytest.raises(ValueError, match="at least one cell"):
        diagrams.sampler_map({})
