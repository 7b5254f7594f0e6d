"""CLIP score beside transformers' own, SSIM's fixed points, ground truths."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from server import hub, serve
from transformers import CLIPModel

from emoe.errors import EmoeError
from emoe.study.alignment import load_clip, open_truth, ssim, usual_clip


def picture(seed: int, size: tuple[int, int] = (48, 32)) -> Image.Image:
    return Image.fromarray(numpy.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=numpy.uint8))


def test_the_score_is_the_cosine_of_the_two_towers(clip_folder):
    clip = load_clip(clip_folder)
    images, texts = [picture(0), picture(1)], ["a red bus", "a cat " * 100]
    found = clip.score(images, texts)
    model = CLIPModel.from_pretrained(clip_folder)
    for image, text, score in zip(images, texts, found, strict=True):
        pixels = clip.processor(image, return_tensors="pt")["pixel_values"]
        ids = clip.tokenizer(text, truncation=True, max_length=77, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            out = model(input_ids=ids, pixel_values=pixels)
        assert score.item() == pytest.approx(100 * (out.image_embeds @ out.text_embeds.T).item(), abs=1e-3)


def test_a_clip_that_is_not_there(tmp_path):
    with pytest.raises(EmoeError, match="cannot load CLIP"):
        load_clip(str(tmp_path))


def test_a_clip_on_the_hub(at, clip_folder):
    """In one line where there is none; what other frameworks would load is left there."""
    held = {path.name: path.read_bytes() for path in Path(clip_folder).iterdir()}
    with serve(hub({"some-one/clip": held | {"flax_model.msgpack": b"x", "README.md": b"x"}})) as site:
        at(site.url)
        found = load_clip("some-one/clip").score([picture(0)], ["a red bus"])
        asked = {request.path.rpartition("/")[2] for request in site.requests}
        with pytest.raises(EmoeError, match=r"cannot load CLIP some-one/none, name another with --clip: .*not exist"):
            load_clip("some-one/none")
    assert torch.equal(found, load_clip(clip_folder).score([picture(0)], ["a red bus"]))
    assert "model.safetensors" in asked
    assert not {"flax_model.msgpack", "README.md"} & asked


def test_each_mixture_has_its_clip():
    assert usual_clip("miniature") == usual_clip("miniature-bootstrap") == "miniature"
    assert usual_clip("weights.toml") == "openai/clip-vit-base-patch16"
    assert load_clip("miniature").score([picture(0, (64, 64))], ["a red circle"]).shape == (1,)


def test_ssim():
    a = picture(0, (32, 32))
    assert ssim(a, a) == pytest.approx(1)
    assert abs(ssim(a, picture(1, (32, 32)))) < 0.2
    lighter = Image.fromarray((numpy.asarray(a) * 0.9).astype(numpy.uint8))
    assert 0.9 < ssim(a, lighter) < 1


def test_a_truth_is_cut_about_its_middle(tmp_path):
    wide = Image.new("RGB", (60, 20), "red")
    wide.paste((0, 0, 255), (20, 0, 40, 20))
    wide.save(tmp_path / "wide.png")
    assert (numpy.asarray(open_truth(str(tmp_path / "wide.png"), 20)) == (0, 0, 255)).all()
    (tmp_path / "no.png").write_text("no")
    for name in ("no.png", "gone.png"):
        with pytest.raises(EmoeError, match="cannot read the image"):
            open_truth(str(tmp_path / name))
