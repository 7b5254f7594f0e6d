"""emoe inspect, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import forms
import pytest
from folders import segmoe, write
from folders import weights as toml

from emoe import EMoE


def test_inspect(run, weights):
    folder = Path(weights).parent
    code, out, err = run("inspect", str(folder / "expert_1.safetensors"))
    assert (code, err) == (0, "")
    assert "is an SD1.x checkpoint" in out
    assert "8.6 M parameters in 686 tensors, float16" in out
    code, out, _ = run("inspect", str(folder / "expert_2.safetensors"), "--json")
    found = json.loads(out)
    assert found["kind"] == "an SD1.x checkpoint"
    assert found["unet_names"] == "LDM"
    assert found["parts"]["vae"] is None
    assert found["parts"]["unet"]["problem"] is None
    assert len(found["files"][0]["sha256"]) == 64


def test_weights_that_are_not_finite(run, tmp_path):
    state, name = forms.state(1), forms.UNET + "middle_block.1.norm.weight"
    state[name][3] = float("nan")
    path = forms.safetensors(tmp_path / "a.safetensors", state)
    for more in ([], ["--json"]):
        code, out, err = run("inspect", str(path), *more)
        assert code == 2
        assert err == f"emoe: {path}: {name} holds weights that are not finite; the file is broken, use another\n"
        assert f"{name} holds weights that are not finite" in out


UNREADABLE = {"nothing": b"", "garbage": b"garbage", "half a header": b"\x40\0\0\0\0\0\0\0{", "missing": None}


@pytest.mark.parametrize("case", UNREADABLE)
def test_json_of_what_cannot_be_read(run, tmp_path, case):
    path = tmp_path / "a.safetensors"
    if (content := UNREADABLE[case]) is not None:
        path.write_bytes(content)
    code, out, err = run("inspect", str(path), "--json")
    assert (code, out.count("\n"), err.count("\n")) == (2, 1, 1)
    found = json.loads(out)
    assert (found["source"], found["kind"]) == (str(path), None)
    assert err == f"emoe: {found['refused']}\n"


@pytest.mark.slow
def test_a_segmoe_mixture(run, tmp_path):
    folder = segmoe(tmp_path / "mixture", [forms.state(seed) for seed in (1, 2, 3)])
    code, out, err = run("inspect", str(folder))
    assert (code, err) == (0, "")
    assert "3 experts, layers all, top 2, with gates" in out
    assert "under segmoe" in out
    assert [line for line in out.splitlines() if "expert 3" in line and "p2" in line]


def test_a_mixture(run, states, tmp_path):
    paths = write(tmp_path, *states)
    path = toml(tmp_path, paths[0], paths[0], paths[1], paths[0], extra="top = 2")
    code, out, err = run("inspect", str(path), "--json")
    assert (code, err.count("almost the same")) == (0, 1)
    found = json.loads(out)
    assert (found["kind"], found["refused"], found["base"]) == ("a mixture", None, str(paths[0]))
    assert (found["layers"], found["split"], found["gate"], found["top"]) == ("all", "attn2", "prompt", 2)
    model = EMoE.from_toml(path)
    assert found["mixture"] == model.mixture
    assert found["of_experts"] < found["parameters"]

    first, second, third = found["experts"]
    assert (first["apart"][2], third["apart"][0]) == (0, 0)  # one checkpoint twice
    assert first["apart"][1] == second["apart"][0] == third["apart"][1] > 0.1
    routes = model.score(*([e[key] for e in found["experts"]] for key in ("positive", "negative")), size=64).weights
    for number, expert in enumerate(found["experts"]):
        assert expert["own_route"] == pytest.approx(routes[number].tolist(), abs=1e-4)
        assert expert["own_route"][number] == max(expert["own_route"])
        assert sum(weight > 0 for weight in expert["own_route"]) == 2
        assert sum(expert["own_route"]) == pytest.approx(1, abs=1e-3)

    out = run("inspect", str(path))[1]
    assert f"{path} is a mixture" in out
    assert (
        f"expert 2      {paths[1]}\n    apart from  1: {second['apart'][0]:.2g}, 3: {second['apart'][2]:.2g}\n" in out
    )


@pytest.mark.slow
def test_a_mixture_of_segmoe_has_no_own_routes(run, tmp_path):
    segmoe(tmp_path / "mixture", [forms.state(seed) for seed in (1, 2, 3)])
    path = tmp_path / "weights.toml"
    path.write_text('segmoe = "mixture"')
    found = json.loads(run("inspect", str(path), "--json")[1])
    assert (found["gate"], found["top"], len(found["experts"])) == ("hidden", 2, 3)
    assert all("own_route" not in expert and max(expert["apart"]) > 0 for expert in found["experts"])
    code, out, _ = run("inspect", str(path))
    assert (code, "own route" in out) == (0, False)


def test_a_mixture_that_cannot_be(run, tmp_path):
    path = tmp_path / "weights.toml"
    path.write_text('base = "nowhere.safetensors"')
    code, out, err = run("inspect", str(path), "--json")
    assert (code, err.count("\n")) == (2, 1)
    found = json.loads(out)
    assert (found["source"], found["kind"]) == (str(path), None)
    assert err == f"emoe: {found['refused']}\n"
    assert run("inspect", str(path))[1] == ""
