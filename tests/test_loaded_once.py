"""Networks that tests of the command line share (`loaded_once`): anything that differs is another load."""

from __future__ import annotations

import logging
import os

import pytest
import torch
from folders import weights, write

from emoe.pipeline import EMoE

pytestmark = pytest.mark.slow


def test_anything_that_differs_is_another_load(states, tmp_path, loaded_once, monkeypatch):
    paths = write(tmp_path, *states[:2])
    toml = weights(tmp_path, paths[0], *paths)

    def unet(**to: str) -> torch.nn.Module:
        return EMoE.from_toml(toml, **to).unet

    seen = [unet()]
    assert unet() is seen[0]
    seen.append(unet(dtype="bfloat16"))
    os.utime(paths[1])  # written again, to the same bytes
    seen.append(unet())
    seen[-1].conv_in.weight.fill_(0)
    seen.append(unet())
    monkeypatch.setattr(seen[-1].conv_in, "weight", seen[0].conv_in.weight)
    seen.append(unet())
    toml.write_text(toml.read_text().replace("anime", "manga"))
    seen.append(unet())
    assert len({*map(id, seen)}) == len(seen) == 6
    assert unet() is seen[-1]


def test_a_model_is_its_own_and_warnings_come_again(states, tmp_path, loaded_once, caplog):
    paths = write(tmp_path, *states[:2])
    toml = weights(tmp_path, paths[0], *paths)
    one, other = (EMoE.from_toml(toml) for _ in range(2))
    assert (one.unet is other.unet, one._notices is other._notices) == (True, False)
    alike = weights(tmp_path, paths[0], *[paths[0]] * 2)
    with caplog.at_level(logging.WARNING):
        for count in (1, 2):
            EMoE.from_toml(alike)
            assert caplog.text.count("almost the same") == count
