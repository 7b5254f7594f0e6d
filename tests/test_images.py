"""Pixels, maps, contact sheets, and PNGs that are written whole."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy
import pytest
import torch
from PIL import Image

from emoe.errors import EmoeError
from emoe.images import draw_map, to_images
from emoe.png import check_ours, save_png
from emoe.sheet import contact_sheet, in_lines


def test_pixels_are_rounded_and_cut_off():
    values = torch.tensor([-2, -1, 0, 0.999, 1, 2])
    image = to_images(SimpleNamespace(decode=lambda z: values.expand(1, 3, 1, -1)), torch.zeros(1, 4, 1, 1))[0]
    assert numpy.array(image)[0].tolist() == [[value] * 3 for value in (0, 0, 128, 255, 255, 255)]


def test_a_map_is_red_where_the_paths_disagree():
    image = Image.new("RGB", (64, 64), (200, 100, 50))  # its colours are left out
    variance = torch.zeros(8, 8)
    variance[1, 6] = 5.0
    pixels = numpy.array(draw_map(image, variance)).astype(int)
    redness = pixels[..., 0] - pixels[..., 1]
    row, column = divmod(int(redness.argmax()), 64)
    assert (row // 8, column // 8) == (1, 6)
    assert abs(redness[40:, :30]).max() == 0
    grey = numpy.array(image.convert("L").convert("RGB"))
    assert numpy.array_equal(draw_map(image, torch.ones(8, 8)), grey)  # all the same: nothing to show
    above = numpy.array(draw_map(image, variance + 100)).astype(int)  # scaled to the map's own range
    assert numpy.array_equal(above, pixels)


def test_pixels_that_are_no_numbers_are_an_error_in_any_image():
    values = iter((torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), float("nan"))))
    with pytest.raises(EmoeError, match="not finite"):
        to_images(SimpleNamespace(decode=lambda z: next(values)), torch.zeros(2, 4, 1, 1))


def test_a_link_that_leads_nowhere_is_somebody_elses(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(EmoeError, match="not of emoe's making"):
        check_ours(tmp_path / "a.png")


@pytest.mark.parametrize("size", [0, 100, 3 * 2**20])
def test_zeros_are_nobodys(tmp_path, size):
    path = tmp_path / "a.png"
    path.write_bytes(bytes(size))
    check_ours(path)
    path.write_bytes(bytes(size) + b"mine")
    with pytest.raises(EmoeError, match="not of emoe's making"):
        check_ours(path)


def test_a_contact_sheet_has_a_row_a_prompt_and_a_column_an_expert():
    colours = [["red", "green"], ["blue", "yellow"], ["black", "white"]]
    rows = [("label " * 100, [Image.new("RGB", (64, 64), c) for c in row]) for row in colours]
    sheet = contact_sheet(rows, ["one", "two " * 100])
    inside = [[sheet.getpixel((136 + 264 * j, 28 + 284 * i + 20 + 128)) for j in range(2)] for i in range(3)]
    assert inside == [[Image.new("RGB", (1, 1), c).getpixel((0, 0)) for c in row] for row in colours]


def test_the_labels_of_a_contact_sheet_stay_in_their_place():
    rows = [(label, [Image.new("RGB", (64, 64), "white")] * 2) for label in ("long\n" * 100, "short")]
    ink = numpy.array(contact_sheet(rows, ["wide " * 100, "b"]).convert("L")) < 128
    tops = [0, *(28 + 284 * i for i in range(2))]
    assert [ink[top : top + 20].any() for top in tops] == [True] * 3
    assert not ink[:20, 264:272].any()  # between the columns
    assert not ink[:, -8:].any()
    assert ink.sum() == sum(ink[top : top + 20].sum() for top in tops)


def test_labels_of_several_lines():
    text = "a small red circle on the left and a large blue star on the right"
    lines = in_lines(text, 120, 3).split("\n")
    assert len(lines) == 3
    assert " ".join(lines) == text  # broken between words, nothing lost
    assert in_lines("short", 120, 3) == "short"
    assert in_lines("赤" * 60, 120, 2).replace("\n", "") == "赤" * 60  # no words to break between


def test_a_sheet_makes_room_for_its_labels_and_no_more():
    cell = Image.new("RGB", (8, 8))
    one, two = (contact_sheet([("", [cell])], [head], cell=64).height for head in ("a", "a\nb"))
    labelled = contact_sheet([("a prompt", [cell])], ["a"], cell=64).height
    assert 0 < two - one == labelled - one  # a line each


def test_a_png_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    save_png(Image.new("RGB", (8, 8)), path, {"prompt": "赤いバス\n"})
    before = path.read_bytes()
    with Image.open(path) as image:
        assert json.loads(image.text["emoe"]) == {"prompt": "赤いバス\n"}
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(13, "Permission denied")))
    with pytest.raises(EmoeError, match="Permission denied"):
        save_png(Image.new("RGB", (8, 8), "red"), path, {})
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["a.png"]
