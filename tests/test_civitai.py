"""Civitai: what is asked and chosen, what is known without the network, what is told of secrets."""

from __future__ import annotations

import hashlib
from typing import Any

import forms
import pytest
from civitai_world import DATA, SOURCE, World, cached, fails, version
from conftest import commands
from server import Answer, Site

from emoe.checkpoint import civitai, download
from emoe.checkpoint.open import open_checkpoint, reach
from emoe.checkpoint.source import parse
from emoe.errors import EmoeError


def test_a_download(world, tmp_path):
    path = civitai.fetch(SOURCE)
    assert path.read_bytes() == DATA
    assert path.name == hashlib.sha256(DATA).hexdigest() + ".safetensors"
    assert path.parent.name == "128713"
    assert cached(tmp_path) == [path.name]
    assert all(r.headers["authorization"] == "Bearer TOKEN" for r in world.site.requests)
    assert all(r.headers["user-agent"] == "emoe" for r in world.site.requests)
    assert world.site.requests[-1].query == {"fileId": "7"}
    assert all("authorization" not in r.headers for r in world.storage.requests)  # it would answer 400


def test_the_newest_version_of_a_model(world):
    assert civitai.fetch(parse("https://civitai.com/models/4384")).read_bytes() == DATA


def test_no_hash_yet(world, caplog):
    world.metadata = version(file={"hashes": {}})
    assert civitai.fetch(SOURCE).name == "unverified-7.safetensors"
    assert "only its size can be verified" in caplog.text


def test_a_distilled_model_is_a_warning(world, caplog):
    world.metadata = version(baseModel="SD 1.5 LCM")
    reach("civitai:128713")
    assert "few steps" in caplog.text


def test_no_network(world, monkeypatch):
    monkeypatch.setenv("CIVITAI_ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in fails()


def test_the_best_file_is_chosen_and_a_link_may_ask_for_another(world):
    def file(number: int, fp: str, size: str, format: str) -> dict[str, Any]:
        meta = {"fp": fp, "size": size, "format": format}
        return version()["files"][0] | {"id": number, "metadata": meta}

    files = [
        file(1, "fp16", "pruned", "PickleTensor"),
        file(2, "fp32", "full", "SafeTensor"),
        file(3, "fp16", "pruned", "SafeTensor"),
        file(4, "fp32", "pruned", "SafeTensor"),
        file(5, "fp16", "pruned", "SafeTensor") | {"type": "VAE"},
    ]
    world.metadata = version(files=files)
    assert civitai.look_up(SOURCE)[1].id == 3
    asked = parse("https://civitai.com/api/download/models/128713?type=Model&format=SafeTensor&size=full&fp=fp32")
    assert civitai.look_up(asked)[1].id == 2
    with pytest.raises(EmoeError, match="with fp=bf16; it offers: format=PickleTensor size=pruned fp=fp16"):
        civitai.look_up(parse("https://civitai.com/api/download/models/128713?fp=bf16"))


def test_a_checkpoint_from_civitai(world, tmp_path):
    path = forms.COMPLETE["ldm-fp16"](tmp_path, forms.state(1))
    world.data = path.read_bytes()
    world.metadata = version(world.data)
    assert open_checkpoint("civitai:128713").naming == "LDM"


@pytest.mark.parametrize("token", ["abc…", "a\nb", "a\x7fb"])
def test_a_token_that_no_header_can_hold(world, monkeypatch, token):
    monkeypatch.setenv("CIVITAI_TOKEN", token)
    assert "holds characters that no API key has" in fails()


def test_space_around_a_token_does_not_count(world, monkeypatch):
    monkeypatch.setenv("CIVITAI_TOKEN", " TOKEN\n")
    civitai.fetch(SOURCE)
    assert all(r.headers["authorization"] == "Bearer TOKEN" for r in world.site.requests)


# Without the network ------------------------------------------------------------------------------------------------


def stop(site: Site) -> None:
    site.stop()
    civitai.look_up.cache_clear()


def test_a_second_run_without_the_network(world, caplog):
    path = civitai.fetch(SOURCE)
    stop(world.site)
    assert civitai.fetch(SOURCE) == path
    assert "no network: Civitai's version 128713 as it was when last seen" in caplog.text


def test_without_the_network_nothing_is_checked_less(world, caplog):
    world.metadata = version(baseModel="SD 1.5 LCM", file={"hashes": {}})
    civitai.fetch(SOURCE)
    stop(world.site)
    caplog.clear()
    civitai.fetch(SOURCE)
    assert "few steps" in caplog.text
    assert "no hash" in caplog.text


def test_a_second_run_without_the_network_and_without_the_file(world):
    civitai.fetch(SOURCE).unlink()
    stop(world.site)
    assert "keeps failing (ConnectionError)" in fails()


def test_a_first_run_without_the_network(world):
    stop(world.site)
    assert "cannot be reached (ConnectionError)" in fails()


def test_a_refusal_is_not_answered_from_memory(world):
    civitai.fetch(SOURCE)
    civitai.look_up.cache_clear()
    world.site.answer = lambda _: Answer.json({"error": "no"}, 410)
    assert "has archived it" in fails()


BROKEN = ["", "{", "[]", "\0\0\0", "[" * 100_000, '{"answer": []}', '{"answer": {}}', '{"answer": {"host": 1}}']


@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_memory(world, tmp_path, content):
    path = civitai.fetch(SOURCE)
    memory = next((tmp_path / "cache" / "memory").iterdir())
    memory.write_text(content)
    civitai.look_up.cache_clear()
    assert civitai.fetch(SOURCE) == path  # and remembers it again
    memory.write_text(content)
    stop(world.site)
    fails()


# Secrets ------------------------------------------------------------------------------------------------------------

LINK = "https://civitai.com/api/download/models/128713?fp=fp16&token=SECRET&api_key=SECRET#SECRET"


def unknown(world: World) -> None:
    world.site.answer = lambda _: Answer.json({}, 404)


def of_another_kind(world: World) -> None:
    world.metadata = version(file={"metadata": {"format": "GGUF"}})


def not_for_this_account(world: World) -> None:
    ask = world.ask
    world.site.answer = lambda r: Answer.json({}, 403) if "download" in r.path else ask(r)


def gone_from_the_storage(world: World) -> None:
    world.storage.answer = lambda _: Answer(404)


def breaking_off(world: World) -> None:
    world.drops = [0] * 3 * download.ATTEMPTS


@pytest.mark.parametrize(
    "trouble", [unknown, of_another_kind, not_for_this_account, gone_from_the_storage, breaking_off]
)
def test_secrets_do_not_show(world, run, tmp_path, monkeypatch, trouble):
    monkeypatch.setenv("CIVITAI_ENDPOINT", world.site.url.replace("//", "//user:SECRET@"))
    monkeypatch.setenv("CIVITAI_TOKEN", "SECRET")
    trouble(world)
    for arguments in commands(tmp_path, LINK):
        civitai.look_up.cache_clear()
        code, out, err = run(*arguments)
        assert code == 2
        assert "SECRET" not in out + err
        assert err.count("\n") == 1
