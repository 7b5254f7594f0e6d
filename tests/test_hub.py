"""The Hub, played by a local server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import forms
import pytest
from conftest import commands
from server import Answer, Request, Site, hub, serve

from emoe.checkpoint import hub as our_hub
from emoe.checkpoint.open import open_checkpoint, part_config, reach
from emoe.errors import EmoeError

REPO = "some-one/a_model.v1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    state = forms.state(1)
    return forms.hub(tmp_path_factory.mktemp("hub") / "a", forms.unet(state), forms.text(state), forms.vae(state))


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_only_the_parts_that_are_asked_for_are_downloaded(at, folder):
    with serve(hub({REPO: files(folder)})) as site:
        at(site.url)
        found = open_checkpoint(REPO, parts=())
        downloads = {r.path.partition("/resolve/")[2] for r in site.requests if r.method == "GET"} - {""}
    assert set(found.parts) == {"unet"}
    assert len(found.parts["unet"].places) == 686
    settings = {"main/unet/config.json", "main/model_index.json"}
    assert downloads == {"main/unet/diffusion_pytorch_model.safetensors", *settings}


def test_of_a_vae_only_the_config_is_downloaded_to_know_its_levels(at, folder):
    held = files(folder) | {"vae/config.json": b'{"block_out_channels": [32, 64, 128]}'}
    with serve(hub({REPO: held})) as site:
        at(site.url)
        assert part_config(REPO, "vae") == {"block_out_channels": [32, 64, 128]}
        assert part_config(f"{REPO}/vae", "vae") == part_config(REPO, "vae")
        downloads = {r.path.partition("/resolve/")[2] for r in site.requests if r.method == "GET"} - {""}
    assert downloads == {"main/vae/config.json"}


def test_a_revision_and_a_file(at, folder):
    with serve(hub({REPO: files(folder)})) as site:
        at(site.url)
        found = open_checkpoint(f"{REPO}@fp16/unet/diffusion_pytorch_model.safetensors")
        assert next(r.path for r in site.requests if r.path.startswith("/api/models/")).endswith("/revision/fp16")
        assert found.parts["unet"].config["attention_head_dim"] == 8
        assert set(open_checkpoint(f"{REPO}/unet").parts) == {"unet"}


def test_a_second_time_without_the_network(at, folder, monkeypatch):
    with serve(hub({REPO: files(folder)})) as site:
        at(site.url)
        open_checkpoint(REPO, parts=())
    our_hub.repository.cache_clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert len(open_checkpoint(REPO, parts=()).parts["unet"].places) == 686


def test_a_single_file_repository(at, tmp_path):
    data = forms.COMPLETE["ldm-fp16"](tmp_path, forms.state(1)).read_bytes()
    with serve(hub({REPO: {"README.md": b"hello", "model.safetensors": data}})) as site:
        at(site.url)
        assert open_checkpoint(REPO).naming == "LDM"


REFUSALS = {
    401: "does not exist or is private (401)",
    403: "refused the download (403)",
    404: "is not known (404)",
    418: "answered 418",
}


@pytest.mark.parametrize("status", REFUSALS)
def test_refusals(at, status):
    with serve(lambda request: Answer.json({"error": "no"}, status)) as site:
        at(site.url)
        with pytest.raises(EmoeError) as caught:
            reach(REPO)
    assert REFUSALS[status] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_errors_with_a_code(at):
    codes = {"RepoNotFound": "does not exist or is private", "RevisionNotFound": "at revision 'x' does not exist"}
    for code, sentence in (codes | {"GatedRepo": "is gated: accept its terms"}).items():
        status = 403 if code == "GatedRepo" else 404
        with serve(lambda request, c=code, s=status: Answer(s, headers={"X-Error-Code": c})) as site:
            at(site.url)
            with pytest.raises(EmoeError, match=sentence):
                reach(f"{REPO}@x")


def test_a_file_that_is_not_in_the_repository(at, folder):
    with serve(hub({REPO: files(folder)})) as site:
        at(site.url)
        with pytest.raises(EmoeError, match=r"has no nothing\.ckpt"):
            open_checkpoint(f"{REPO}/nothing.ckpt")


def test_a_listing_that_lies(at, folder):
    answer = hub({REPO: files(folder)})

    def lying(request):
        found = answer(request)
        return Answer(404, headers={"X-Error-Code": "EntryNotFound"}) if "/resolve/" in request.path else found

    with serve(lying) as site:
        at(site.url)
        with pytest.raises(EmoeError, match="lacks a file that its own listing names"):
            open_checkpoint(REPO, parts=())


def test_no_network_and_no_cache(at):
    at("http://127.0.0.1:9")
    with pytest.raises(EmoeError, match="cannot be reached"):
        reach(REPO)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "sentence"), [(401, "does not exist or is private (401)"), (404, "is not known (404)")]
)
def test_the_command_line_says_so_in_one_line(tmp_path, status, sentence):
    """A process of its own, as HF_ENDPOINT is read when the library is imported."""
    with serve(lambda request: Answer.json({"error": "no"}, status)) as site:
        environment = os.environ | {"HF_ENDPOINT": site.url, "HF_HUB_CACHE": str(tmp_path / "cache")}
        command = [sys.executable, "-m", "emoe", *commands(tmp_path, REPO)[-1]]
        found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert found.returncode == 2
    assert found.stdout == ""
    assert found.stderr.startswith("emoe: ")
    assert found.stderr.count("\n") == 1
    assert sentence in found.stderr


NO_LISTING = {
    "a web page": Answer(200, b"<html>log in</html>", {"Content-Type": "text/html"}),
    "nothing": Answer(200, b""),
    "a list": Answer.json([1]),
    "null": Answer.json(None),
    "too deep": Answer(200, b"[" * 100_000),
    "no id": Answer.json({"sha": "c" * 40, "siblings": []}),
    "no commit": Answer.json({"id": REPO, "siblings": []}),
    "a number for the commit": Answer.json({"id": REPO, "sha": 3, "siblings": []}),
    "text for the files": Answer.json({"id": REPO, "sha": "c" * 40, "siblings": "abc"}),
    "a file without a name": Answer.json({"id": REPO, "sha": "c" * 40, "siblings": [{"size": 3}]}),
    "null for a name": Answer.json({"id": REPO, "sha": "c" * 40, "siblings": [{"rfilename": None}]}),
}


@pytest.mark.parametrize("case", NO_LISTING)
def test_what_is_no_listing(at, case):
    with serve(lambda r: NO_LISTING[case] if r.path.startswith("/api/models/") else Answer(404)) as site:
        at(site.url)
        with pytest.raises(EmoeError, match="cannot be reached or understood"):
            reach(REPO)


def test_a_token_that_no_header_can_hold(at, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_SECRET…")
    at("http://127.0.0.1:9")
    with pytest.raises(EmoeError, match="the token holds characters that no token has") as caught:
        reach(REPO)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_secrets_do_not_show(at, run, tmp_path, status):
    link = f"https://user:SECRET@huggingface.co/{REPO}/resolve/main/a.safetensors?token=SECRET"
    with serve(lambda request: Answer.json({"error": "no"}, status)) as site:
        at(site.url)
        for arguments in commands(tmp_path, link):
            code, out, err = run(*arguments)
            assert code == 2
            assert "SECRET" not in out + err
            assert err.count("\n") == 1


# What was seen before -----------------------------------------------------------------------------------------------


@pytest.fixture
def seen(at, folder, monkeypatch) -> Iterator[Site]:
    """A Hub whose REPO has been asked for its UNet; a test may let it answer otherwise from then on."""
    monkeypatch.setattr("time.sleep", lambda _: None)  # the library tries again
    with serve(hub({REPO: files(folder)})) as site:
        at(site.url)
        open_checkpoint(REPO, parts=())
        our_hub.repository.cache_clear()
        yield site


@pytest.mark.parametrize(
    "answer",
    [None, *(Answer.json({}, status) for status in (500, 503)), NO_LISTING["a web page"]],
    ids=["no server", "500", "503", "a web page"],
)
def test_out_of_reach_it_is_as_it_was_last_seen(seen, caplog, answer):
    if answer:
        seen.answer = lambda _: answer
    else:
        seen.stop()
    assert len(open_checkpoint(REPO, parts=()).parts["unet"].places) == 686
    assert f"no network: {REPO} as it was when last seen" in caplog.text


def test_out_of_reach_what_was_not_downloaded_is_missed(seen):
    seen.stop()
    with pytest.raises(EmoeError, match="is not whole in the cache, and the network is out of reach"):
        open_checkpoint(REPO)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_not_answered_from_the_cache(seen, caplog, status):
    seen.answer = lambda _: Answer.json({"error": "no"}, status)
    with pytest.raises(EmoeError, match=str(status)):
        reach(REPO)
    assert "last seen" not in caplog.text


@pytest.mark.parametrize("content", ["", "[" * 100_000, '{"answer": {"commit": "c"}}', '{"answer": {"files": 3}}'])
def test_a_broken_memory(seen, tmp_path, caplog, content):
    """What the library has left in its own cache is still there."""
    next((tmp_path / "cache" / "memory").iterdir()).write_text(content)
    seen.stop()
    assert len(open_checkpoint(REPO, parts=()).parts["unet"].places) == 686
    assert "as another program has left it" in caplog.text


def test_a_repository_that_changes_while_it_is_read(at, folder):
    old, new = (hub({REPO: files(folder)}, commit * 40) for commit in "cd")

    def changing(request: Request) -> Answer:
        return (new if "/resolve/" in request.path else old)(request)

    with serve(changing) as site:
        at(site.url)
        with pytest.raises(EmoeError, match="changed while it was being read; run this again"):
            open_checkpoint(REPO, parts=())
        site.answer = new
        our_hub.repository.cache_clear()
        assert len(open_checkpoint(REPO, parts=()).parts["unet"].places) == 686
