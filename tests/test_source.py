"""What a source string means."""

from pathlib import Path

import pytest
from conftest import commands

from emoe.checkpoint.source import Civitai, Hub, Local, parse, plain
from emoe.errors import EmoeError

REPO = "SG161222/Realistic_Vision_V6.0_B1_noVAE"
FORMS = {
    REPO: Hub(REPO),
    f"{REPO}@main": Hub(REPO, "main"),
    f"{REPO}@fp16/unet/model.safetensors": Hub(REPO, "fp16", "unet/model.safetensors"),
    f"{REPO}@refs/pr/4/a.safetensors": Hub(REPO, "refs/pr/4", "a.safetensors"),
    f"{REPO}/a.safetensors": Hub(REPO, None, "a.safetensors"),
    f"{REPO}/unet": Hub(REPO, None, "unet"),
    f"https://huggingface.co/{REPO}": Hub(REPO),
    f"https://huggingface.co/{REPO}/": Hub(REPO),
    f"https://huggingface.co/{REPO}/tree/fp16": Hub(REPO, "fp16"),
    f"https://huggingface.co/{REPO}/blob/main/a%20b.ckpt": Hub(REPO, "main", "a b.ckpt"),
    f"https://huggingface.co/{REPO}/resolve/main/unet/m.bin?download=true": Hub(REPO, "main", "unet/m.bin"),
    f"https://huggingface.co/{REPO}/tree/refs%2Fpr%2F1": Hub(REPO, "refs/pr/1"),
    f"https://huggingface.co/{REPO}/tree/feature%2Fx/unet": Hub(REPO, "feature/x", "unet"),
    f"huggingface.co/{REPO}": Hub(REPO),
    "civitai.com/api/download/models/1?token=SECRET": Civitai(1),
    "civitai:128713": Civitai(128713),
    "urn:air:sd1:checkpoint:civitai:4384@128713": Civitai(128713, 4384),
    "https://civitai.com/models/4384": Civitai(None, 4384),
    "https://civitai.com/models/4384/dreamshaper?modelVersionId=128713": Civitai(128713, 4384),
    "https://www.civitai.red/models/4384?modelVersionId=128713": Civitai(128713, 4384),
    "https://civitai.com/api/download/models/128713": Civitai(128713),
    "https://civitai.com/api/download/models/128713?type=Model&fp=fp16&token=SECRET": Civitai(
        128713, None, (("fp", "fp16"), ("type", "Model"))
    ),
    "HTTPS://Civitai.com/api/download/models/128713?api_key=SECRET": Civitai(128713),
}


@pytest.mark.parametrize("text", FORMS)
def test_forms(text):
    assert parse(text) == FORMS[text]


def test_the_default_revision_is_for_sources_that_name_none():
    assert parse(REPO, revision="fp16") == Hub(REPO, "fp16")
    assert parse(f"{REPO}@main", revision="fp16") == Hub(REPO, "main")


def test_paths_are_relative_to_the_folder_and_win(tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "a.ckpt").touch()
    assert parse("a.ckpt", tmp_path) == Local(tmp_path / "a.ckpt")
    assert parse("./a.ckpt", tmp_path) == Local(tmp_path / "a.ckpt")
    assert parse("owner/name", tmp_path) == Local(tmp_path / "owner" / "name")
    assert parse(str(tmp_path / "a.ckpt")) == Local(tmp_path / "a.ckpt")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse("~/a.ckpt", Path("/elsewhere")) == Local(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    "text",
    [
        *("missing.safetensors", "models/missing.safetensors", "./x/y", "/x/y", "name", "a b/c"),
        *("civitai:abc", "civitai:", "urn:air:sdxl:checkpoint:civitai:1@2", "urn:air:sd1:embedding:civitai:1@2"),
        *("https://example.org/model.safetensors", "https://civitai.com/user/x", "ftp://x/y", "; rm -rf x"),
    ],
)
def test_what_is_no_source(text, tmp_path):
    with pytest.raises(EmoeError):
        parse(text, tmp_path)


PLAIN = {
    "models/a#1?.safetensors": "models/a#1?.safetensors",  # a path may hold anything
    "C:/models/a.ckpt": "C:/models/a.ckpt",
    f"{REPO}@main/a.ckpt": f"{REPO}@main/a.ckpt",
    "civitai:128713": "civitai:128713",
    "urn:air:sd1:checkpoint:civitai:4384@128713": "urn:air:sd1:checkpoint:civitai:4384@128713",
    f"https://huggingface.co/{REPO}/tree/fp16": f"https://huggingface.co/{REPO}/tree/fp16",
    "civitai.com/api/download/models/1?token=SECRET": "civitai.com/api/download/models/1",
    "https://user:p@SECRET@example.org/a@b.ckpt?x=SECRET#SECRET": "https://example.org/a@b.ckpt",
}


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_shown_of_a_source(text):
    assert plain(text) == PLAIN[text]


SECRETS = [
    "https://example.org/x.safetensors?token=SECRET",
    "https://example.org/x.safetensors#token=SECRET",
    "https://user:SECRET@example.org/x.safetensors",
    "HTTPS://user:SECRET@example.org/x?token=SECRET",
    "https:/user:SECRET@example.org/x",
    "https://user:SECRET@exa℀mple.org/x",
    "https://user:SECRET@[x/y",
    "ftp://user:SECRET@example.org/x?token=SECRET",
    "https://civitai.com/user/x?token=SECRET",
    "civitai:128713?token=SECRET",
    "urn:air:sd1:checkpoint:civitai:1@2?token=SECRET",
]


@pytest.mark.parametrize("source", SECRETS)
def test_secrets_do_not_show(run, tmp_path, source):
    for arguments in commands(tmp_path, source):
        code, out, err = run(*arguments)
        assert code == 2
        assert "SECRET" not in out + err
        assert err.count("\n") == 1
