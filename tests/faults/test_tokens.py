"""Tokens go to the host that they are for, and nowhere else: no log, record, picture, report or cache holds one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from civitai_world import World, version
from conftest import commands
from processes import PROMPTS, emoe
from server import Answer, Request, Site, hub, serve

from emoe.__main__ import main

pytestmark = pytest.mark.faults

SECRET = "S3cr3tW0rd"
REPO = "some-one/a_model.v1"
LOGGERS = ("urllib3", "requests", "huggingface_hub", "httpx", "httpx2", "filelock")


@pytest.fixture
def hub_site(at, world, monkeypatch):
    """Both sites, and tokens for both."""
    monkeypatch.setattr("time.sleep", lambda _: None)  # the library tries again
    with serve(lambda request: Answer.json({}, 404)) as site:
        at(site.url)
        monkeypatch.setenv("HF_ENDPOINT", site.url)  # for processes
        monkeypatch.setenv("HF_TOKEN", f"hf_{SECRET}")
        monkeypatch.setenv("CIVITAI_TOKEN", f"civitai{SECRET}")
        monkeypatch.setenv("EMOE_DEBUG", "1")
        yield site


@pytest.fixture(scope="module")
def data(weights) -> bytes:
    """An expert."""
    return (Path(weights).parent / "expert_2.safetensors").read_bytes()


def toml(folder: Path, weights: str) -> str:
    """A mixture of all three kinds of sources, one of them with a token of its own."""
    base, path = Path(weights).parent / "expert_1.safetensors", folder / "weights.toml"
    link = f"https://user:{SECRET}@civitai.com/api/download/models/128713?token={SECRET}"
    tables = [f'[[expert]]\nsource = "{s}"\npositive = "{s[:4]}"\nnegative = ""\n' for s in (str(base), link, REPO)]
    path.write_text(f'base = "{base}"\n' + "".join(tables))
    return str(path)


def test_in_nothing_that_is_written(hub_site: Site, world: World, weights, data, capfd, tmp_path):
    """With every command, and everything that libraries can be made to say by way of emoe."""
    world.data, world.metadata = data, version(data)
    hub_site.answer = hub({REPO: {"model.safetensors": data}})
    out = tmp_path / "out"
    out.mkdir()
    reading = ["--weights", toml(tmp_path, weights), "--size", "64", "--verbose"]
    drawn = [*reading, "--steps", "1", "--out"]
    said = []
    for arguments in (
        ["score", *PROMPTS[:2], *reading, "--out", str(out / "scores.jsonl")],
        ["calibrate", *PROMPTS[:2], *reading, "--out", str(out / "reference.json")],
        ["generate", PROMPTS[0], *drawn, str(out / "drawn")],
        ["study", *PROMPTS[:2], *drawn, str(out / "studied")],
        ["explain", PROMPTS[0], *reading, "--seeds", "2"],
        ["lock", *reading[:2], "--out", str(out / "locked.toml")],
        ["inspect", REPO],
    ):
        found = emoe(*arguments) if arguments[0] == "score" else (main(arguments), *capfd.readouterr())
        assert found[0] == 0, found
        said.append(found[1] + found[2])
    assert f"Bearer civitai{SECRET}" in {r.headers.get("authorization") for r in world.site.requests}
    assert f"Bearer hf_{SECRET}" in {r.headers.get("authorization") for r in hub_site.requests}
    assert not any(SECRET in text for text in said)
    files = [p for folder in (out, tmp_path / "cache", tmp_path / "hub") for p in folder.rglob("*") if p.is_file()]
    assert {p.suffix for p in files} >= {".jsonl", ".json", ".png", ".html", ".toml", ".safetensors"}
    assert [p for p in files if SECRET.encode() in p.read_bytes() or SECRET in p.name] == []


FAILURES = {str(status): lambda _, status=status: Answer.json({"error": SECRET}, status) for status in
            (400, 401, 403, 404, 410, 429, 451, 500, 503)}  # fmt: skip
FAILURES |= {
    "a web page": lambda _: Answer(200, b"<html>", {"Content-Type": "text/html"}),
    "no JSON": lambda _: Answer(200, b"{"),
    "a connection that is cut": lambda _: Answer(200, b"{" * 9999, cut=5),
    "a redirect to nowhere": lambda _: Answer(307, headers={"Location": f"http://127.0.0.1:9/x?sig={SECRET}"}),
    "a redirect in a circle": lambda r: Answer(307, headers={"Location": f"{r.path}?sig={SECRET}"}),
}


@pytest.fixture
def loud() -> Iterator[None]:
    """emoe leaves the loggers of libraries, which know tokens, as they are."""

    def settings() -> list:
        return [(logger.level, list(logger.handlers)) for logger in map(logging.getLogger, LOGGERS)]

    before = settings()
    yield
    assert settings() == before


@pytest.mark.parametrize("case", FAILURES)
def test_in_no_error_of_civitais(hub_site, world, loud, capfd, monkeypatch, tmp_path, case):
    """Of its metadata, and of its storage."""
    ask = world.site.answer
    for asked in ("/api/v1", "/api/download"):
        world.site.answer = lambda r, asked=asked: FAILURES[case](r) if r.path.startswith(asked) else ask(r)
        for arguments in commands(tmp_path, f"https://civitai.com/models/4384?modelVersionId=128713&token={SECRET}"):
            quiet(main([*arguments, *(["--verbose"] if arguments[0] == "score" else [])]), capfd)


@pytest.mark.parametrize("case", FAILURES)
def test_in_no_error_of_the_hubs(hub_site, loud, capfd, case):
    hub_site.answer = FAILURES[case]
    quiet(main(["inspect", REPO]), capfd)


def test_not_in_what_the_hubs_library_says(world, data):
    """Of a connection that breaks: the address of its storage is a signed one."""
    plain, drops = hub({REPO: {"model.safetensors": data}}), [1000]

    def answer(request: Request) -> Answer:
        found = plain(request)
        if "/resolve/" in request.path and "sig" not in request.query:
            found.status, found.body = 302, b""
            found.headers |= {"Location": f"{request.path}?sig={SECRET}", "X-Linked-Size": str(len(data))}
            found.headers["X-Linked-Etag"] = found.headers["ETag"]
        elif request.method == "GET" and "sig" in request.query and drops:
            found.cut = drops.pop()
        return found

    with serve(lambda request: absolute(answer(request), site)) as site:
        code, out, err = emoe("inspect", REPO, env={"HF_ENDPOINT": site.url, "HF_TOKEN": ""})
    assert (code, drops) == (0, [])
    assert "Error while downloading" in err
    assert "sig=***" in err
    assert SECRET not in out + err


def absolute(answer: Answer, site: Site) -> Answer:
    """With the host in its redirect: a relative one is followed, and not told."""
    if "Location" in answer.headers:
        answer.headers["Location"] = site.url + answer.headers["Location"]
    return answer


ADDRESSES = [
    "https://user:{}@civitai.com/api/download/models/x?token={}",
    "https://huggingface.co/a/b/resolve/main/c.ckpt?token={}",
    "https://user:{}@[::1/x",
    "https://user:{}@civit\u2100ai.com/models/1",
    "https://{}@example.com:99999/x#{}",
    "http://example.com/x?{}",
    "civitai:x?token={}",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_in_no_error_about_an_address(hub_site, loud, capfd, monkeypatch, tmp_path, address):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    source = address.replace("{}", SECRET)
    for arguments in commands(tmp_path, source):
        quiet(main(arguments), capfd)


ODD = [f"civitai{SECRET}…", f"civitai\x01{SECRET}", f"civitai{SECRET}\ninjected: yes", f" {SECRET}\x7f", f'"{SECRET}"']


@pytest.mark.parametrize("token", ODD)
def test_in_no_error_about_a_token(hub_site, world, loud, capfd, monkeypatch, tmp_path, token):
    """That no header can hold: libraries quote it."""
    monkeypatch.setenv("CIVITAI_TOKEN", token)
    monkeypatch.setenv("HF_TOKEN", token)
    world.site.answer = lambda _: Answer.json({}, 401)
    for source in (REPO, "civitai:128713"):
        quiet(main(["inspect", source]), capfd)


def quiet(code: int, capfd: pytest.CaptureFixture) -> None:
    """It failed, said so at length, and gave nothing away."""
    out, err = capfd.readouterr()
    assert code == 2, err
    assert "Traceback" in err
    assert SECRET not in out + err
