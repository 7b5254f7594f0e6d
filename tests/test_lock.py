"""A weights.toml for good: sources that do not move, and the hash of every file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import forms
import pytest
import torch
from civitai_world import version
from server import hub, serve

from emoe import EMoE, EmoeError
from emoe.checkpoint import hub as our_hub
from emoe.config import Expert, Weights, read_weights
from emoe.lock import lock, to_toml
from emoe.tokenizer import clip_tokenizer

REPO = "some-one/a_model.v1"


def toml(folder: Path, base: str, *experts: str, extra: str = "") -> Path:
    tables = "".join(
        f'[[expert]]\nsource = "{source}"\npositive = "a {i}"\nnegative = ""\n' for i, source in enumerate(experts)
    )
    path = folder / "weights.toml"
    path.write_text(f'base = "{base}"\n{extra}\n{tables}', encoding="utf-8")
    return path


def locked(path: Path, to: Path) -> Weights:
    to.parent.mkdir(exist_ok=True)
    to.write_text(to_toml(lock(read_weights(path), to)), encoding="utf-8")
    return read_weights(to)


def fails(path: Path) -> str:
    with pytest.raises(EmoeError) as caught:
        _ = EMoE.from_toml(path).vae
    return str(caught.value)


def test_files_here(states, tmp_path):
    for name, state in zip("ab", states, strict=False):
        forms.safetensors(tmp_path / f"{name}.safetensors", state)
    to = tmp_path / "elsewhere" / "for good.toml"
    weights = locked(toml(tmp_path, "a.safetensors", "a.safetensors", "b.safetensors"), to)
    assert weights.sha256 == {
        f"../{name}.safetensors": hashlib.sha256((tmp_path / f"{name}.safetensors").read_bytes()).hexdigest()
        for name in "ab"
    }
    _ = EMoE.from_toml(to).vae

    absolute = locked(toml(tmp_path, str(tmp_path / "a.safetensors"), "a.safetensors", "b.safetensors"), to)
    assert (absolute.base, absolute.experts[0].source) == (str(tmp_path / "a.safetensors"), "../a.safetensors")
    _ = EMoE.from_toml(to).vae
    locked(toml(tmp_path, "a.safetensors", "a.safetensors", "b.safetensors"), to)

    path = tmp_path / "b.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert "expert 2: ../b.safetensors is another file: its hash is " in fails(to)
    to.write_text("".join(line for line in to.open() if not line.startswith('"../a')))
    assert "base: [sha256] does not list ../a.safetensors" in fails(to)


@pytest.mark.slow
def test_folders_shard_by_shard(states, tmp_path):
    a = forms.hub_sharded(tmp_path, states[0]).name
    vae = forms.safetensors(tmp_path / "vae.safetensors", forms.vae(states[0]))
    to = tmp_path / "locked.toml"
    weights = locked(toml(tmp_path, a, a, a, extra='vae = "vae.safetensors"\ntop = 2\ngate = "uniform"'), to)
    assert {Path(name).parent.name for name in weights.sha256} == {"unet", "text_encoder", ""}
    assert sum(name.startswith(f"{a}/unet/") for name in weights.sha256) > 1
    _ = EMoE.from_toml(to).vae
    vae.write_bytes(vae.read_bytes()[:-8] + b"\0" * 8)
    assert "vae: vae.safetensors is another file" in fails(to)


def test_the_hub_at_its_commit(states, tmp_path, at):
    folder = forms.hub(tmp_path / "made", forms.unet(states[0]), forms.text(states[0]), forms.vae(states[0]))
    held = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    to = tmp_path / "locked.toml"
    with serve(hub({REPO: held})) as site:
        at(site.url)
        weights = locked(toml(tmp_path, REPO, REPO, f"{REPO}/unet", extra='revision = "main"\ngate = "uniform"'), to)
        _ = EMoE.from_toml(to).vae
    assert weights.base == f"{REPO}@{'c' * 40}"
    assert [expert.source for expert in weights.experts] == [weights.base, f"{weights.base}/unet"]
    assert weights.revision is None
    our_hub.repository.cache_clear()
    _ = EMoE.from_toml(to).vae  # the network is gone


@pytest.mark.parametrize("key", [True, False])
def test_a_tokenizer_on_the_hub_is_here_when_the_network_is_gone(states, tmp_path, at, key):
    """By its own key, and beside the base's text encoder."""
    folder = forms.hub(tmp_path / "made", forms.unet(states[0]), forms.text(states[0]), forms.vae(states[0]))
    clip_tokenizer().save_pretrained(folder / "tokenizer")
    held = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    forms.safetensors(tmp_path / "a.safetensors", states[0])
    base, extra = ("a.safetensors", f'tokenizer = "{REPO}"') if key else (REPO, "")
    to = tmp_path / "locked.toml"
    with serve(hub({REPO: held})) as site:
        at(site.url)
        locked(toml(tmp_path, base, base, base, extra=extra + '\ngate = "uniform"'), to)
    our_hub.repository.cache_clear()
    assert EMoE.from_toml(to).text(["a red bus"]).truncated == [False]


def test_what_no_run_could_use_is_not_locked(states, tmp_path):
    forms.safetensors(tmp_path / "a.safetensors", forms.below(states[0], forms.UNET))
    path = toml(tmp_path, *["a.safetensors"] * 3, extra='gate = "uniform"')
    with pytest.raises(EmoeError, match=r"base: .* has no text encoder; name one that is 64 wide"):
        lock(read_weights(path), tmp_path / "locked.toml")


def test_civitai_by_the_files_number(states, tmp_path, world):
    world.data = forms.safetensors(tmp_path / "made.safetensors", states[0]).read_bytes()
    world.metadata = version(world.data)
    path = toml(
        tmp_path, "civitai:128713", "civitai:128713", "https://civitai.com/models/4384", extra='gate = "uniform"'
    )
    to = tmp_path / "locked.toml"
    weights = locked(path, to)
    assert weights.base == "https://civitai.com/api/download/models/128713?fileId=7"
    assert {expert.source for expert in weights.experts} == {weights.base}
    assert list(weights.sha256.values()) == [hashlib.sha256(world.data).hexdigest()]
    _ = EMoE.from_toml(to).vae


def test_what_is_written_is_what_is_read(tmp_path):
    odd = 'quotes " and \\ and \x7f, ünd 🚌\n\t'
    experts = (Expert("a", odd, "", None, "A" * 64), Expert("b", "x", odd, odd))
    path = tmp_path / "x.toml"
    weights = Weights(path, "base", experts, None, odd, temperature=0.5, top=1, gate="prompt", sha256={odd: "0" * 64})
    path.write_text(to_toml(weights), encoding="utf-8")
    assert read_weights(path) == weights
    path.write_text(to_toml(Weights(path, segmoe="there")), encoding="utf-8")
    assert read_weights(path) == Weights(path, segmoe="there")


def test_a_tokenizer_is_found_from_the_copy_too(states, tmp_path):
    forms.safetensors(tmp_path / "a.safetensors", states[0])
    clip_tokenizer().save_pretrained(tmp_path / "words")
    path = toml(tmp_path, *["a.safetensors"] * 3, extra='tokenizer = "words"\ngate = "uniform"')
    weights = locked(path, tmp_path / "elsewhere" / "for good.toml")
    assert weights.tokenizer == "../words"
    assert EMoE.from_weights(weights).text(["a red bus"]).truncated == [False]


@pytest.mark.slow
def test_the_command(run, tmp_path):
    to = tmp_path / "locked.toml"
    code, _, err = run("lock", "--weights", "miniature", "--out", str(to))
    assert (code, err) == (0, f"emoe: {to} holds {len(read_weights(to).sha256)} files to their hashes\n")
    scored = [run("score", "--weights", name, "a red circle", "--json")[1] for name in ("miniature", str(to))]
    assert scored[0] == scored[1]

    assert "is there already" in run("lock", "--weights", "miniature", "--out", str(to))[2]
    code, _, err = run("lock", "--weights", str(tmp_path / "none.toml"), "--out", str(tmp_path / "new.toml"))
    assert (code, err.count("\n")) == (2, 1)
    assert not (tmp_path / "new.toml").exists()


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ('sha256 = "x"\n', "must be a table of files"),
        ("sha256 = {a = 1}\n", "sha256 of 'a' is 1; it must be 64 hexadecimal digits"),
        ('sha256 = {a = "zz"}\n', "must be 64 hexadecimal digits"),
    ],
)
def test_tables_that_are_none(tmp_path, table, told):
    with pytest.raises(EmoeError, match=told):
        read_weights(toml(tmp_path, "x/y", "x/y", "x/y", extra=table))


def test_weights_stay_what_they_are(states, tmp_path):
    """The lock adds nothing to a mixture: the same fingerprint."""
    forms.safetensors(tmp_path / "a.safetensors", states[0])
    path = toml(tmp_path, "a.safetensors", "a.safetensors", "a.safetensors", extra="top = 1\nlayers = 'attn'")
    locked(path, tmp_path / "locked.toml")
    models = [EMoE.from_toml(tmp_path / name, dtype=torch.float32) for name in ("weights.toml", "locked.toml")]
    assert models[0].mixture == models[1].mixture


def test_links_on_the_way(states, tmp_path):
    """A toml's `..` goes up from where it lies, not from the link that led to it."""
    inner = tmp_path / "real" / "in"
    inner.mkdir(parents=True)
    for name, state in zip(("real/a", "a"), states, strict=False):
        forms.safetensors(tmp_path / f"{name}.safetensors", state)
    toml(inner, "../a.safetensors", "../a.safetensors", "../a.safetensors", extra='top = 2\ngate = "uniform"')
    (tmp_path / "link").symlink_to(inner)
    weights = locked(tmp_path / "link" / "weights.toml", tmp_path / "locked.toml")
    assert weights.base == "real/a.safetensors"
    _ = EMoE.from_toml(tmp_path / "locked.toml").vae


def test_what_cannot_be_used_is_not_locked(states, tmp_path):
    """Nor what is not the file that weights.toml names by its hash."""
    a = forms.safetensors(tmp_path / "a.safetensors", states[0]).name
    forms.safetensors(tmp_path / "lora.safetensors", {"lora_unet_down.lora_up.weight": torch.zeros(2, 2)})
    with pytest.raises(EmoeError, match=r"expert 2: .*lora.safetensors is a LoRA"):
        lock(read_weights(toml(tmp_path, a, a, "lora.safetensors")), tmp_path / "x.toml")
    text = toml(tmp_path, a, a, a, extra='top = 2\ngate = "uniform"').read_text()
    (tmp_path / "weights.toml").write_text(f'{text}sha256 = "{"0" * 64}"\n')
    with pytest.raises(EmoeError, match=r"expert 2: .* is another file: its hash is"):
        lock(read_weights(tmp_path / "weights.toml"), tmp_path / "x.toml")
    (tmp_path / "weights.toml").write_text(f'{text}[sha256]\n"{a}" = "{"0" * 64}"\n')
    with pytest.raises(EmoeError, match=r"base: a.safetensors is another file"):
        lock(read_weights(tmp_path / "weights.toml"), tmp_path / "x.toml")
