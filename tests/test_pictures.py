"""A folder of image files as training data, and what else people bring."""
import csv
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from course_lib import Denoiser, Schedule, UNet
from course_lib.lab import train
from course_lib.lab.data.convert import as_training_data
from course_lib.lab.data.pictures_folder import pictures
from course_lib.lab.training.__main__ import main

RED = (255, 0, 0)
GREEN = (0, 255, 0)
BLUE = (0, 0, 255)
WHITE = (255, 255, 255)
BLACK = (0, 0, 0)


def plain(color=RED, size=(8, 8), mode="RGB"):
    return Image.new(mode, size, color)


def halves(left, right, mode="RGB", size=(8, 8)):
    """An image whose left half has one colour and whose right half has another."""
    image = Image.new(mode, size, right)
    image.paste(left, (0, 0, size[0] // 2, size[1]))
    return image


def only(folder, size=8, **options):
    """The one picture of a folder, (C, H, W)."""
    found = pictures(folder, size, **options)
    assert len(found) == 1
    return found.images[0]


def pixel(image, row, column):
    return tuple(image[:, row, column].tolist())


# ---- kinds of files

@pytest.mark.parametrize("level, expected", [(0, 0), (32767, 127), (32768, 128), (65535, 255)])
def test_16_bit_grey_is_scaled(tmp_path, level, expected):
    Image.fromarray(np.full((8, 8), level, np.uint16)).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "I;16"
    assert pixel(only(tmp_path), 3, 4) == (expected,) * 3
    assert pixel(only(tmp_path, channels=1), 3, 4) == (expected,)


def test_palette_with_transparency_on_white_and_on_a_colour(tmp_path):
    image = halves(0, 1, "P")
    image.putpalette([*RED, *GREEN])
    image.save(tmp_path / "a.png", transparency=1)
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.mode == "P" and "transparency" in saved.info
    assert [pixel(only(tmp_path), 0, column) for column in (0, 7)] == [RED, WHITE]
    assert pixel(only(tmp_path, background="#0000ff"), 0, 7) == BLUE
    assert pixel(only(tmp_path, background=40), 0, 7) == (40, 40, 40)
    assert pixel(only(tmp_path, background=BLUE, channels=1), 0, 7) == (29,)    # 0.114 x 255


def test_half_transparent_pixels_are_mixed_with_the_background(tmp_path):
    plain((255, 0, 0, 128), mode="RGBA").save(tmp_path / "a.png")
    assert pixel(only(tmp_path), 0, 0) == (255, 127, 127)
    assert pixel(only(tmp_path, background="black"), 0, 0) == (128, 0, 0)


def test_webp_with_alpha(tmp_path):
    halves((0, 0, 255, 255), (0, 0, 255, 0), "RGBA").save(tmp_path / "a.webp", lossless=True)
    assert [pixel(only(tmp_path), 7, column) for column in (0, 7)] == [BLUE, WHITE]


def test_grey_with_alpha_and_grey_with_a_transparent_level(tmp_path):
    halves((10, 255), (10, 0), "LA").save(tmp_path / "a.png")
    halves(10, 200, "L").save(tmp_path / "b.png", transparency=200)
    for image in pictures(tmp_path, 8).images:
        assert [pixel(image, 0, column) for column in (0, 7)] == [(10, 10, 10), WHITE]


def test_one_bit(tmp_path):
    halves(1, 0, "1").save(tmp_path / "a.png")
    assert [pixel(only(tmp_path), 0, column) for column in (0, 7)] == [WHITE, BLACK]


def test_cmyk_jpeg(tmp_path):
    plain((0, 255, 255, 0), (16, 16), "CMYK").save(tmp_path / "a.jpg", quality=100)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.mode == "CMYK"
    red, green, blue = pixel(only(tmp_path), 4, 4)
    assert red > 245 and green < 10 and blue < 10


@pytest.mark.parametrize("orientation, corner", [
    (1, (0, 0)), (2, (0, 7)), (3, (7, 7)), (4, (7, 0)), (5, (0, 0)), (6, (0, 7)), (7, (7, 7)),
    (8, (7, 0))])
def test_exif_orientation(tmp_path, orientation, corner):
    """The corner that is stored at the top left is shown where the tag says."""
    image = plain(BLUE, (16, 16))
    image.paste(RED, (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    read = only(tmp_path)
    reddish = {place for place in ((0, 0), (0, 7), (7, 0), (7, 7)) if read[0][place] > 200}
    assert reddish == {corner}


@pytest.mark.parametrize("orientation, size, red", [
    (1, (8, 16), (4, 1)), (2, (8, 16), (4, 14)), (3, (8, 16), (4, 14)), (4, (8, 16), (4, 1)),
    (5, (16, 8), (1, 4)), (6, (16, 8), (1, 4)), (7, (16, 8), (14, 4)), (8, (16, 8), (14, 4))])
def test_the_size_is_that_of_the_turned_picture(tmp_path, orientation, size, red):
    exif = Image.Exif()
    exif[0x0112] = orientation
    halves(RED, BLUE, size=(32, 16)).save(tmp_path / "a.png", exif=exif)
    read = only(tmp_path, size)
    assert read.shape[1:] == size and pixel(read, *red) == RED
    assert (read[0] > 128).sum() == (read[2] > 128).sum() == 64         # nothing is cut off


def test_first_frame_of_an_animation(tmp_path):
    frames = [plain(GREEN), plain(RED), plain(BLUE)]
    for name in ("a.gif", "b.webp", "c.png"):
        options = {"lossless": True} if name == "b.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
    assert [pixel(image, 4, 4) for image in pictures(tmp_path, 8).images] == [GREEN] * 3


def test_bmp_and_names_in_capitals_or_in_other_letters(tmp_path):
    plain(RED).save(tmp_path / "B.BMP")
    plain(GREEN).save(tmp_path / "\u732b \u00e9.PNG")
    plain(BLUE, (16, 16)).save(tmp_path / "a.JPeG", quality=100)
    found = pictures(tmp_path, 8)
    assert [file.name for file in found.files] == ["B.BMP", "a.JPeG", "\u732b \u00e9.PNG"]
    assert pixel(found.images[0], 0, 0) == RED and pixel(found.images[2], 0, 0) == GREEN


# ---- size and shape

def test_a_single_pixel_fills_the_picture(tmp_path):
    plain((3, 200, 90), (1, 1)).save(tmp_path / "a.png")
    for fit in ("crop", "pad"):
        image = only(tmp_path, (5, 7), fit=fit)
        assert image.shape == (3, 5, 7)
        assert pixel(image, 2, 3) == (3, 200, 90)
    assert (image[1, :, 0] == 255).all() and (image[1, :, 1:6] == 200).all()    # 5 x 5 of 5 x 7


def test_crop_keeps_the_centre(tmp_path):
    image = plain(BLUE, (24, 8))
    image.paste(RED, (8, 0, 16, 8))
    image.save(tmp_path / "a.png")
    assert torch.equal(only(tmp_path), torch.tensor(RED).byte()[:, None, None].expand(3, 8, 8))
    wide = only(tmp_path, (8, 12))
    assert [pixel(wide, 4, column) for column in (0, 1, 2, 9, 10, 11)] == [BLUE] * 2 + [RED] * 2 + [
        BLUE] * 2


def test_pad_keeps_the_whole_picture(tmp_path):
    halves(RED, BLUE, size=(16, 8)).save(tmp_path / "a.png")
    image = only(tmp_path, (16, 16), fit="pad", background=GREEN)
    column = [pixel(image, row, 0) for row in (0, 3, 4, 11, 12, 15)]
    assert column == [GREEN, GREEN, RED, RED, GREEN, GREEN] and pixel(image, 8, 15) == BLUE
    tall = only(tmp_path, (8, 32), fit="pad")
    assert [pixel(tall, 4, c) for c in (7, 8, 23, 24)] == [WHITE, RED, BLUE, WHITE]


@pytest.mark.parametrize("size", [(3000, 2), (2, 3000), (3000, 1)])
def test_extreme_shapes(tmp_path, size):
    plain(RED, size).save(tmp_path / "a.png")
    assert (only(tmp_path)[1] == 0).all()
    padded = only(tmp_path, fit="pad")
    assert (padded[1] == 0).sum() == 8 and (padded[1] == 255).sum() == 56       # one line of eight


def test_shrinking_averages_and_does_not_skip(tmp_path):
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    inner = only(tmp_path, 8, channels=1)[0, 2:-2, 2:-2].int()
    assert (inner - 127.5).abs().max() < 6                          # without averaging: 0 or 255


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_large_jpeg_is_decoded_small_and_looks_the_same(tmp_path, orientation, fit, channels):
    noise = np.random.default_rng(0).integers(0, 256, (30, 33, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((331, 301), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.jpg", quality=95, subsampling=0, exif=exif)
    image.save(tmp_path / "b.png", exif=exif)
    jpeg, png = pictures(tmp_path, (20, 33), channels=channels, fit=fit).images.float()
    assert png.std() > 30 and (jpeg - png).square().mean().sqrt() < 3


def test_channels(tmp_path):
    halves(RED, GREEN).save(tmp_path / "a.png")
    grey = only(tmp_path, channels=1)
    assert grey.shape == (1, 8, 8) and grey[0, 0, 0] == 76 and grey[0, 0, 7] == 150
    halves(20, 90, "L").save(tmp_path / "a.png")
    assert [pixel(only(tmp_path), 0, column) for column in (0, 7)] == [(20,) * 3, (90,) * 3]


@pytest.mark.parametrize("options, message", [
    ({"size": 0}, "size must be"), ({"size": (8, -1)}, "size must be"),
    ({"size": (8, 8, 3)}, "size must be"), ({"size": 8.5}, "size must be"),
    ({"size": 8, "channels": 4}, "channels must be 1 .* got 4"),
    ({"size": 8, "fit": "squash"}, "fit must be 'crop' or 'pad'; got 'squash'"),
    ({"size": 8, "background": "nocolour"}, "background must be a colour")])
def test_wrong_options(tmp_path, options, message):
    plain().save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=message):
        pictures(tmp_path, **options)


# ---- folders

def make(folder, *names):
    """One plain picture for each name, the n-th with the grey level n."""
    for level, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        plain((level,) * 3).save(folder / name)


def test_a_flat_folder_has_no_labels_and_is_sorted(tmp_path):
    make(tmp_path, "b.png", "a.png", "c.png")
    found = pictures(str(tmp_path), 8)
    assert found.images[:, 0, 0, 0].tolist() == [1, 0, 2] and found.images.dtype == torch.uint8
    assert found.labels is None and found.class_names is None and found.captions is None
    assert found.tensors().keys() == {"x0"}
    assert repr(found) == "<Pictures: 3 of 3 x 8 x 8>"


def test_sub_folders_are_labels(tmp_path):
    make(tmp_path, "dog/1.png", "cat/2.png", "dog/0.png", "cat/deeper/3.png", ".cache/4.png")
    (tmp_path / "empty").mkdir()
    found = pictures(tmp_path, 8)
    assert found.class_names == ["cat", "dog"] and found.labels.tolist() == [0, 1, 1]
    assert found.labels.dtype == torch.int64
    assert found.images[:, 0, 0, 0].tolist() == [1, 2, 0]
    assert [file.name for file in found.files] == ["2.png", "0.png", "1.png"]
    tensors = found.tensors()
    assert tensors["x0"] is found.images and tensors["y"] is found.labels
    assert "classes cat, dog" in repr(found)


def test_hidden_files_and_other_files_are_ignored(tmp_path):
    make(tmp_path, "a.png", ".b.png")
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "notes.md").write_text("x")
    (tmp_path / "folder.png").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [file.name for file in pictures(tmp_path, 8).files] == ["a.png"]


def test_unreadable_files_are_named_and_skipped(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "b.jpg")
    whole = (tmp_path / "b.jpg").read_bytes()
    (tmp_path / "b.jpg").write_bytes(whole[:len(whole) // 2])
    (tmp_path / "d.png").write_text("not a picture")
    (tmp_path / "e.gif").write_bytes(b"")
    make(tmp_path, "a.png", "c.png", "f.png")
    for name, caption in zip("abcdef", "ABCDEF"):
        (tmp_path / f"{name}.txt").write_text(caption)
    with pytest.warns(UserWarning) as record:
        found = pictures(tmp_path, 8)
    assert len(record) == 1 and record[0].filename == __file__
    said = str(record[0].message)
    assert said.startswith("skipped 3 of 6 pictures") and "b.jpg (image file is truncated" in said
    assert "d.png" in said and "e.gif" in said and "a.png" not in said
    assert [file.name for file in found.files] == ["a.png", "c.png", "f.png"]
    assert found.captions == ["A", "C", "F"]
    assert found.images.shape == (3, 3, 8, 8) and found.images[:, 2, 7, 7].tolist() == [0, 1, 2]


def test_a_long_list_of_unreadable_files_is_cut(tmp_path):
    make(tmp_path, "a.png")
    for number in range(6):
        (tmp_path / f"bad{number}.png").write_text("x")
    with pytest.warns(UserWarning, match="skipped 6 of 7 .*bad2.* and 3 more"):
        pictures(tmp_path, 8)


def test_a_wrong_folder_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        pictures(tmp_path / "nowhere", 8)
    with pytest.raises(ValueError, match="there are no pictures in .*looked for .png"):
        pictures(tmp_path, 8)
    (tmp_path / "a.png").write_text("x")
    with pytest.raises(NotADirectoryError, match="a.png is a file"):
        pictures(tmp_path / "a.png", 8)
    with pytest.raises(ValueError, match="none of 1 pictures can be read: .*a.png"):
        pictures(tmp_path, 8)


def test_pictures_too_deep(tmp_path):
    make(tmp_path, "train/cat/1.png", "train/dog/1.png")
    with pytest.raises(ValueError, match="too deep in .*: give .*train, "):
        pictures(tmp_path, 8)
    assert pictures(tmp_path / "train", 8).class_names == ["cat", "dog"]


def test_a_mixed_folder_is_refused(tmp_path):
    make(tmp_path, "a.png", "cat/1.png")
    with pytest.raises(ValueError, match=r"its own \(a.png\) and sub-folders .*\(cat\)"):
        pictures(tmp_path, 8)


# ---- captions

def test_text_files_are_captions(tmp_path):
    make(tmp_path, "a/x.y.png", "b/x.PNG")
    (tmp_path / "a/x.y.txt").write_bytes(b"\xef\xbb\xbfa dog \xc3\xa9\r\n")
    (tmp_path / "b/x.txt").write_text("a cat")
    (tmp_path / "b/README.txt").write_text("about")
    found = pictures(tmp_path, 8)
    assert found.captions == ["a dog \u00e9", "a cat"] and "captions" in repr(found)
    (tmp_path / "b/x.txt").unlink()
    with pytest.raises(ValueError, match="1 of 2 pictures in .* have no text file.*: x.PNG"):
        pictures(tmp_path, 8)


def write_table(folder, rows, encoding="utf-8-sig"):
    with open(folder / "metadata.csv", "w", newline="", encoding=encoding) as file:
        csv.writer(file, lineterminator="\r\n").writerows(rows)


@pytest.mark.parametrize("column", ["text", "caption"])
def test_metadata_csv(tmp_path, column):
    make(tmp_path, "b.png", "a\u0301.png")              # the accent is a character of its own
    write_table(tmp_path, [["id", "file_name", column], [1, "./b.png", 'a "red", big\r\nthing'],
                           [2, "\u00e1.png", "two\u2028lines"]])
    found = pictures(tmp_path, 8)
    assert [file.name for file in found.files] == ["a\u0301.png", "b.png"]
    assert found.captions == ["two\u2028lines", 'a "red", big\r\nthing']


def test_metadata_csv_with_sub_folders_comes_before_text_files(tmp_path):
    make(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "cat/1.txt").write_text("other")
    write_table(tmp_path, [["file_name", "text"], ["dog/1.png", "D"], ["cat\\1.png", "C"]])
    found = pictures(tmp_path, 8)
    assert found.captions == ["C", "D"] and found.labels.tolist() == [0, 1]


@pytest.mark.parametrize("rows, message", [
    ([["file_name", "text"], ["a.png", "A"], ["b.png", "B"], ["c.png", "C"]],
     "names 1 files that are not pictures of this folder: c.png"),
    ([["file_name", "text"], ["a.png", "A"]], "1 of 2 pictures .* no row in metadata.csv: b.png"),
    ([["file_name", "text"], ["a.png", "A"], ["a.png", "B"]], "more than one row for a.png"),
    ([["file", "text"], ["a.png", "A"]], "needs the columns file_name, .*it has file, text"),
    ([["file_name", "label"], ["a.png", "A"]], "and text or caption; it has file_name, label"),
    ([], "it has none")])
def test_metadata_csv_that_does_not_match(tmp_path, rows, message):
    make(tmp_path, "a.png", "b.png")
    write_table(tmp_path, rows)
    with pytest.raises(ValueError, match=message):
        pictures(tmp_path, 8)


def test_captions_in_another_encoding(tmp_path):
    make(tmp_path, "a.png")
    write_table(tmp_path, [["file_name", "text"], ["a.png", "caf\u00e9"]], "latin-1")
    with pytest.raises(ValueError, match="metadata.csv is not in UTF-8"):
        pictures(tmp_path, 8)


# ---- the result

def test_the_number_of_threads_does_not_matter(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (70, 20, 30, 3), dtype=np.uint8)
    for number, array in enumerate(noise):
        Image.fromarray(array).save(tmp_path / f"{number:02}.jpg")
    (tmp_path / "33.jpg").write_bytes(b"")
    with pytest.warns(UserWarning):
        one, four = (pictures(tmp_path, 16, threads=threads) for threads in (1, 4))
    assert len(one) == 69 and torch.equal(one.images, four.images) and one.files == four.files
    assert len({image.numpy().tobytes() for image in one.images}) == 69


def test_a_progress_bar_for_many(tmp_path, capsys, monkeypatch):
    make(tmp_path, *(f"{number}.png" for number in range(3)))
    pictures(tmp_path, 8)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("course_lib.lab.data.pictures_folder.MANY", 3)
    pictures(tmp_path, 8)
    captured = capsys.readouterr()
    assert "3/3" in captured.out and captured.err == ""


def test_floats(tmp_path):
    halves(BLACK, (255, 51, 102)).save(tmp_path / "a.png")
    make(tmp_path, "b.png", "c.png")
    found = pictures(tmp_path, 8)
    everything = found.floats()
    assert everything.shape == (3, 3, 8, 8) and everything.dtype == torch.float32
    assert everything[0, :, 0, 0].tolist() == [-1, -1, -1]
    torch.testing.assert_close(everything[0, :, 0, 7], torch.tensor([1.0, -0.6, -0.2]))
    assert torch.equal(found.floats(torch.tensor([2, 0])), everything[[2, 0]])
    assert torch.equal(found.floats(slice(1, 3)), everything[1:])
    assert found.images.dtype == torch.uint8 and found.images[0, 1, 0, 7] == 51     # not changed


# ---- what else people bring

def test_pictures_become_training_data(tmp_path):
    make(tmp_path, "a/1.png", "b/1.png")
    found = pictures(tmp_path, 8)
    data = as_training_data(found)
    assert data["x0"] is found.images and data["y"].tolist() == [0, 1]


def test_tensors_stay_as_they_are():
    x, y = torch.rand(4, 3, 8, 8), torch.arange(4)
    for data in (x, (x, y), {"x0": x, "y": y}):
        assert as_training_data(data)["x0"] is x
    assert as_training_data((x, y))["y"] is y
    assert as_training_data({"x0": x, "extra": y.to(torch.uint8)})["extra"].dtype == torch.int64


BYTES = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), dtype=np.uint8)     # (N, H, W, C)
FIRST = torch.from_numpy(BYTES).permute(0, 3, 1, 2)                                 # (N, C, H, W)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_bytes_get_their_channels_first(kind):
    for given in (BYTES, np.ascontiguousarray(FIRST.numpy())):
        x0 = as_training_data(kind(given))["x0"]
        assert x0.dtype == torch.uint8 and torch.equal(x0, FIRST)
    assert torch.equal(as_training_data(kind(BYTES[..., 0]))["x0"], FIRST[:, :1])
    narrow = as_training_data(kind(FIRST[..., :3].numpy()))["x0"]   # (5, 3, 8, 3) is not ambiguous
    assert torch.equal(narrow, FIRST[..., :3])


def test_arrays_in_floating_point():
    for scaled in (BYTES / 255, BYTES / 127.5 - 1, (BYTES / 255).astype(np.float32)):
        x0 = as_training_data(scaled)["x0"]
        assert x0.dtype == torch.float32
        torch.testing.assert_close(x0, FIRST / 127.5 - 1)
    points = np.random.default_rng(0).random((7, 2))
    assert torch.equal(as_training_data(points)["x0"], torch.from_numpy(points).float())


def test_the_line_of_code_that_a_refusal_gives_helps():
    for x, line in [
            (BYTES.astype(np.float32),
             "x = torch.from_numpy(x).permute(0, 3, 1, 2).float() / 127.5 - 1"),
            (FIRST.numpy().astype(np.float64), "x = torch.from_numpy(x).float() / 127.5 - 1"),
            (BYTES.astype(np.int64), "x = x.astype(np.uint8)"),
            (np.concatenate([BYTES, BYTES[..., :1]], axis=3), "x = x[..., :3]")]:
        with pytest.raises((TypeError, ValueError)) as refusal:
            as_training_data(x)
        assert line in str(refusal.value)
        names = {"x": x, "torch": torch, "np": np}
        exec(line, names)
        x0 = as_training_data(names["x"])["x0"]
        expected = FIRST if x0.dtype == torch.uint8 else FIRST / 127.5 - 1
        torch.testing.assert_close(x0, expected)


def test_lists_of_images():
    images = [Image.fromarray(array) for array in BYTES]
    assert torch.equal(as_training_data(images)["x0"], FIRST)
    for data in (list(zip(images, range(5))), (images, list(range(5)))):
        given = as_training_data(data)
        assert torch.equal(given["x0"], FIRST) and given["y"].tolist() == [0, 1, 2, 3, 4]
    greys = [plain(level, mode="L") for level in (3, 9)]
    assert as_training_data(greys)["x0"][:, 0, 4, 4].tolist() == [3, 9]
    assert as_training_data([plain((9, 9, 9, 0), mode="RGBA")])["x0"].unique().tolist() == [255]
    assert as_training_data([plain((9, 255), mode="LA")])["x0"].shape == (1, 1, 8, 8)


@pytest.mark.parametrize("other", [plain(size=(8, 9)), plain(7, mode="L")])
def test_unlike_images_are_refused_with_a_line_that_fits_them(other):
    for data in ([plain(), other], [(plain(), 0), (other, 1)]):
        with pytest.raises(ValueError, match="image 1 has .*make them alike") as refusal:
            as_training_data(data)
        names = {"data": data}
        exec("from PIL import ImageOps\n" + str(refusal.value).split("make them alike: ")[1], names)
        assert as_training_data(names["data"])["x0"].shape == (2, 3, 64, 64)


def test_torchvision_data_sets_and_loaders(tmp_path):
    for index, array in enumerate(BYTES):
        (tmp_path / f"c{index % 2}").mkdir(exist_ok=True)
        Image.fromarray(array).save(tmp_path / f"c{index % 2}/{index}.png")
    order, labels = [0, 2, 4, 1, 3], [0, 0, 0, 1, 1]
    as_floats = transforms.ToTensor()
    normalized = transforms.Compose([as_floats, transforms.Normalize(0.5, 0.5)])
    for transform in (None, transforms.PILToTensor(), as_floats, normalized):
        data = ImageFolder(tmp_path, transform=transform)
        for given in (data, DataLoader(data, batch_size=2, shuffle=True, drop_last=True)):
            found = as_training_data(given)
            x0 = found["x0"]
            x0 = x0 / 127.5 - 1 if x0.dtype == torch.uint8 else x0
            torch.testing.assert_close(x0, FIRST[order] / 127.5 - 1)
            assert found["y"].tolist() == labels and found["y"].dtype == torch.int64


def test_tensor_data_sets():
    x, y = FIRST / 127.5 - 1, torch.arange(5)
    found = as_training_data(TensorDataset(x, y))
    assert torch.equal(found["x0"], x) and torch.equal(found["y"], y)
    assert as_training_data(TensorDataset(x)).keys() == {"x0"}


class Endless(IterableDataset):
    def __iter__(self):
        yield plain()


@pytest.mark.parametrize("data, error, message", [
    ("photos", TypeError, r"data = pictures\('photos', size=64\)"),
    (Endless(), TypeError, r"an? Endless cannot be .* data = list\(data\)"),
    (DataLoader(Endless()), TypeError, r"data = list\(data\)"),
    ((image for image in []), TypeError, r"a generator cannot .* data = list\(data\)"),
    (None, TypeError, "a NoneType cannot be trained on"),
    ([], ValueError, "there are no images"),
    ([{"image": plain(), "label": 0}], TypeError, r'\(row\["image"\], row\["label"\]\)'),
    ({"images": torch.zeros(2, 3, 8, 8)}, TypeError, "not known which entries"),
    (["a.png"], TypeError, "got a str: .*Image.open"),
    ([(plain(), "cat")], TypeError, "integers; got 'cat': .*names.index"),
    ({"x0": torch.zeros(1, 1, 8, 8), "captions": ["a cat"]}, TypeError,
     "captions must be numbers; .*tokenizer")])
def test_what_cannot_be_trained_on(data, error, message):
    with pytest.raises(error, match=message):
        as_training_data(data)


# ---- into training

def test_a_folder_trains_from_a_configuration(tmp_path, runs):
    """As many classes as sub-folders, a checkpoint and a sheet of samples beside it."""
    for name, colour in (("cats", (250, 0, 0)), ("dogs", (0, 0, 250))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for k in range(4):
            Image.new("RGB", (40 + k, 50), colour).save(tmp_path / f"photos/{name}/{k}.png")
    config = tmp_path / "mine.toml"
    config.write_text(
        'data = "pictures"\nsize = [32, 16]\n[network]\nchannels = 3\nwidths = [16, 16]\n'
        "[train]\nsteps = 2\nbatch_size = 4\n"
    )
    main([str(config), "--folder", str(tmp_path / "photos"), "--lr", "1e-3"])
    D = train.load(runs / "mine/mine.safetensors", device="cpu")
    assert D.net.num_classes == 2 and D.data_shape == (3, 32, 16) and D.done is False
    assert Image.open(runs / "mine/mine.png").size == (8 * 18 + 2, 8 * 34 + 2)
    with pytest.raises(SystemExit):
        main([str(config), "--folder", str(tmp_path / "nowhere")])


def test_data_sets_and_arrays_go_straight_into_training(tmp_path, runs):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    D = Denoiser(UNet(3, widths=(16,), num_classes=10), Schedule.cosine())
    images = np.random.default_rng(0).random((6, 16, 16, 3), dtype=np.float32)
    for data in (pictures(tmp_path, 16), images, list(zip(torch.rand(4, 3, 16, 16), range(4)))):
        assert train.train(D, data, steps=1, batch_size=2).done
    with pytest.raises(TypeError, match="torch.from_numpy|images must be bytes"):
        train.train(D, images.astype(np.int64), steps=1)
