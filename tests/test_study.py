"""emoe study: from a list of prompts to a report."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from conftest import score
from PIL import Image

from emoe.generating import denoising_steps
from emoe.generations import Recipe
from emoe.records import RecordFile
from emoe.scores import Reading
from emoe.scoring import mid_activations
from emoe.study.ablations import fewer
from emoe.study.alignment import load_clip
from emoe.study.cost import cost, counted
from emoe.study.report import Report
from emoe.study.statistics import Interval

pytestmark = pytest.mark.usefixtures("loaded_once")

PROMPTS = [("en", "a red bus"), ("en", "a cat and a dog at night"), ("en", "a house"),
           ("fi", "punainen bussi"), ("fi", "kissa"), ("fi", "<b>talo</b> | yö")]  # fmt: skip


# The report -----------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """The cells and the open elements of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.cells, self.open, self.links = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.links += [value for key, value in attributes if key in ("src", "href")]
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


def test_a_page_is_whole_and_alone(tmp_path):
    report = Report("<Title>")
    report.section("A & b", "said <i>so</i>")
    report.table([{"name": "<b>|</b>", "n": Interval(0.5, 0.25, 0.75)}, {"name": "x", "other": 1}], "caption")
    report.write_page(tmp_path / "page.html")
    report.write(tmp_path, "page")
    report.write_tables(tmp_path / "tables")
    page = Page((tmp_path / "page.html").read_text())
    assert page.open == []
    assert page.cells == ["name", "n", "other", "<b>|</b>", "0.500 (0.250 to 0.750)", "", "x", "", "1"]
    assert all(link.startswith("data:") for link in page.links)
    assert "| \\<b>\\|\\</b> | 0.500 (0.250 to 0.750) |  |" in (tmp_path / "page.md").read_text()
    with (tmp_path / "tables" / "01-a-b.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["name", "n", "n, low", "n, high", "other"], ["<b>|</b>", "0.5", "0.25", "0.75", ""],
                    ["x", "", "", "", "1"]]  # fmt: skip


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def listed(tmp_path):
    path = tmp_path / "list.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("group", "prompt"), *PROMPTS])
    return path


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_study_cut_short_ends_with_the_same_report(run, weights, listed, monkeypatch, tmp_path):
    arguments = ("study", "--prompts", str(listed), "--word", "bus", *score(weights=weights)[1:])
    assert run(*arguments, "--out", str(tmp_path / "whole"))[0] == 0
    write = RecordFile.write

    def cut_short(file, found):
        write(file, found)
        if len(file.path.read_text().splitlines()) == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RecordFile, "write", cut_short)
        assert run(*arguments, "--out", str(tmp_path / "cut"))[0] == 130
    assert not (tmp_path / "cut" / "report.html").exists()
    assert run(*arguments, "--out", str(tmp_path / "cut"))[0] == 0
    assert contents(tmp_path / "whole") == contents(tmp_path / "cut")

    records = [json.loads(line) for line in (tmp_path / "cut" / "scores.jsonl").read_text().splitlines()]
    assert [(record["group"], record["prompt"]) for record in records] == PROMPTS
    page = Page((tmp_path / "cut" / "report.html").read_text())
    assert page.open == []
    assert "<b>talo</b> | yö" in page.cells
    assert {"AUROC against en", "with 'bus'"} <= set(page.cells)


def test_one_prompt(run, weights, tmp_path):
    code, _, err = run("study", "a red bus", *score(weights=weights)[1:], "--out", str(tmp_path / "one"))
    assert code == 0, err
    assert "Groups" not in (tmp_path / "one" / "report.md").read_text()


@pytest.mark.parametrize("name", ["report.md", "report-final.png", "thesis.tex"])
def test_a_folder_of_other_things_is_left_alone(run, weights, tmp_path, name):
    (tmp_path / name).write_text("mine")
    code, _, err = run("study", "a red bus", *score(weights=weights)[1:], "--out", str(tmp_path))
    assert (code, f"holds other things ({name})" in err) == (2, True)
    assert contents(tmp_path) == {name: b"mine"}
    assert run("study", "a red bus", "--weights", "gone.toml", "--out", str(tmp_path / "new"))[0] == 2
    assert run("study", "a red bus", "--weights", weights, "--out", "")[0] == 2
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("others", [("--seed", "1"), ("--read-out", "pre")])
def test_another_study_is_refused(run, weights, tmp_path, others):
    arguments = ("study", "a red bus", *score(weights=weights)[1:], "--out", str(tmp_path / "one"))
    assert run(*arguments)[0] == 0
    before = contents(tmp_path / "one")
    code, _, err = run(*arguments, *others)
    assert (code, len(err.splitlines())) == (2, 1)
    assert contents(tmp_path / "one") == before


@pytest.mark.parametrize("out", ["/proc/study", "file", "taken"])
def test_mistakes_are_found_before_scoring(run, weights, monkeypatch, tmp_path, out):
    monkeypatch.setattr("emoe.pipeline.EMoE.from_toml", lambda *a, **k: pytest.fail("loaded"))
    (tmp_path / "file").write_text("")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "images").write_text("")
    arguments = ("study", "a", "--images", *score(weights=weights)[1:])
    new = ("--out", str(tmp_path / "new"))
    wrongs = [("--word", " "), ("--steps", "0"), ("--seeds", "0"), ("--batch-size", "0"), ("--clip", "")]
    wrongs += [("--baselines", "--negative", "x"), ("--clip", str(tmp_path / "taken"))]
    for wrong in (("--out", str(tmp_path / out)), *((*new, *wrong) for wrong in wrongs)):
        code, _, err = run(*arguments, *wrong)
        assert (code, len(err.splitlines())) == (2, 1)
    assert not (tmp_path / "new").exists()


EVERYTHING = ("--images", "--baselines", "--ablate", "read-out,estimator,split,gate,run,latent", "--steps", "2")


@pytest.fixture(scope="module")
def truths(tmp_path_factory):
    """A list with everything that a file may say of a prompt."""
    folder = tmp_path_factory.mktemp("list")
    rows = []
    for i, (group, prompt) in enumerate([*PROMPTS, ("de", "ein Haus"), ("de", "ein Hund")]):
        Image.new("RGB", (40, 30), (30 * i, 0, 0)).save(folder / f"{i}.png")
        own = {"prompt": prompt, "group": group, "size": 1 + len(group), "reference": "a house", "image": f"{i}.png"}
        rows.append(own | {"id": i})
    path = folder / "list.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_whole_study(run, weights, clip_folder, truths, monkeypatch, tmp_path):
    monkeypatch.setattr("emoe.commands.study.RESAMPLES", 20)
    arguments = ("study", "--prompts", str(truths), *EVERYTHING, "--clip", clip_folder, *score(weights=weights)[1:])
    folder = tmp_path / "out"
    code, _, err = run(*arguments, "--out", str(folder))
    assert code == 0, err
    page = Page((folder / "report.html").read_text())
    assert page.open == []
    said = (folder / "report.md").read_text()
    for title in ("Quarters", "Groups: uncertainty and fit", "simpler numbers", "limit saves", "other ways", "Cost"):
        assert title in said, title
    aligned = [json.loads(line) for line in (folder / "alignment.jsonl").read_text().splitlines()]
    assert all({"clip", "ssim", "clip_model", "reference_text"} <= set(record) for record in aligned)
    images = [
        json.loads(line)["images"][0] for line in (folder / "images" / "generations.jsonl").read_text().splitlines()
    ]
    with Image.open(folder / "images" / images[0]) as image:
        fit = load_clip(clip_folder).score([image.convert("RGB")], ["a house"]).item()
    assert aligned[0]["clip"] == pytest.approx(fit, abs=1e-3)
    ways = {path.stem for path in (folder / "ablations").iterdir()}
    assert {"read-out-pre", "split-attn1", "gate-uniform", "estimator-eu-over-answer", "run", "latent"} <= ways

    before = contents(folder)
    for path in (folder / "alignment.jsonl", folder / "baselines.jsonl", folder / "images" / "generations.jsonl"):
        path.write_bytes(path.read_bytes()[:-50])  # a kill
    code, _, err = run(*arguments, "--out", str(folder))
    assert code == 0, err
    assert contents(folder) == before


@pytest.mark.slow
def test_truths_are_what_they_hold_not_what_they_are_called(run, weights, clip_folder, tmp_path):
    """Two lists with equal words and names, and other pictures, from anywhere: no SSIM of the one is the other's."""
    found = []
    for folder, colour in (("one", "red"), ("other", "blue")):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (40, 30), colour).save(tmp_path / folder / "a.png")
        path = tmp_path / folder / "list.csv"
        path.write_text("prompt,image\na red bus,a.png\n")
        arguments = ("study", "--prompts", str(path), "--images", "--clip", clip_folder, "--steps", "2")
        out = tmp_path / "out"
        found.append(run(*arguments, *score(weights=weights)[1:], "--out", str(out))[::2])
        kept = (out / "alignment.jsonl").read_text()
    assert found[0][0] == 0, found[0][1]
    assert (found[1][0], "its truth is another" in found[1][1]) == (2, True)
    assert len(kept.splitlines()) == 1


def test_a_run_is_looked_at_from_its_first_step_on(model):
    """The first look is the score's own; the latents differ as the paths' noise does."""
    from emoe.study.ablations import along, looks

    recipe = model.at_own_size(Recipe("emoe", steps=3))
    prompts, negatives = ["a red bus", "a house"], ["", "blurry"]
    seen = along(model, prompts, negatives, recipe, "run")
    assert list(seen) == [f"run {t}" for t in looks(3)] == ["run 667", "run 334", "run 1"]
    first, second, _ = seen.values()
    assert torch.allclose(first, model.score(prompts, negatives, steps=3).uncertainty, rtol=1e-4)
    assert not torch.allclose(first, second, rtol=0.1)
    early = along(model, prompts, negatives, replace(recipe, read_out="pre"), "run")["run 667"]
    read = model.score(prompts, negatives, steps=3, read_out="pre").uncertainty
    assert torch.allclose(early, read, rtol=1e-4)
    after = along(model, prompts, negatives, recipe, "latent")["latent"]
    latents = next(denoising_steps(model, prompts, negatives, recipe)).latents
    assert torch.allclose(after, latents[0, 0].numel() ** 0.5 * latents.var(dim=0, correction=0).mean(dim=(1, 2, 3)))


def test_ways_are_all_others(model):
    from emoe.study.ablations import looks, ways

    small = [way.name for way in ways(model, Reading(size=64), ["size", "timestep"])]
    assert small == ["size 128", *(f"timestep {t}" for t in looks(25)[1:])]  # half of it would be nothing
    assert [way.reading.size for way in ways(model, Reading(size=256), ["size"])] == [128, 192, 384]


def test_baselines_are_of_the_same_forward(run, weights, tmp_path):
    prompts = [prompt for _, prompt in PROMPTS]
    arguments = ("study", *prompts, "--baselines", *score(weights=weights)[1:])
    assert run(*arguments, "--out", str(tmp_path / "out"))[0] == 0
    scores, seen = (
        [json.loads(line) for line in (tmp_path / "out" / name).read_text().splitlines()]
        for name in ("scores.jsonl", "baselines.jsonl")
    )
    for one, other in zip(scores, seen, strict=True):
        assert other["baselines"]["Var(m_post)"] == pytest.approx(one["eu"], rel=1e-3)


def test_fewer_paths_are_those_of_the_score(model):
    """From one forward: the variance over the paths that are left."""
    prompts, negatives, reading = ["a red bus", "a house"], ["", "blurry"], model.at_own_size(Reading(seeds=2))
    found = fewer(model, prompts, negatives, reading)
    assert list(found)[:2] == ["experts 1 2", "experts 1 3"]
    assert list(found)[-1] == "experts 2 3 4"
    assert len(found) == 6 + 4
    text = model.encode(prompts)
    m = mid_activations(model, text, model.route(text, model.encode(negatives)), reading)
    for name, u in found.items():
        chosen = [int(i) - 1 for i in name.split()[1:]]
        some = m[:, chosen].double()
        expected = some.var(dim=1, correction=0).mean(dim=(0, 2, 3, 4)) * m[0, 0, 0].numel() ** 0.5
        assert torch.allclose(u.double(), expected, rtol=1e-4), name
    empty = torch.randn_like(m[:, :, :1])
    for name, u in fewer(model, prompts, negatives, reading, empty).items():
        some = m[:, [int(i) - 1 for i in name.split()[1:]]].double()
        beside = empty[:, [int(i) - 1 for i in name.split()[1:]]].double()  # the same paths' of the empty prompt
        answer = (some.mean(dim=1) - beside.mean(dim=1)).square().mean(dim=(0, 2, 3, 4))
        assert torch.allclose(u.double(), some.var(dim=1, correction=0).mean(dim=(0, 2, 3, 4)) / answer, rtol=1e-4), (
            name
        )
    whole = model.score(prompts, negatives, seeds=2).uncertainty
    pairs = torch.stack([u for name, u in found.items() if len(name.split()) == 3])
    assert torch.allclose(
        pairs.mean(dim=0), whole * 2 / 3, rtol=1e-4
    )  # a mean over pairs has (M - 1)/M of half the spread


def test_a_template(run, weights, tmp_path):
    arguments = ("study", "--template", "a {red|blue} {bus|cat}", "--seeds", "7", *score(weights=weights)[1:])
    code, _, err = run(*arguments, "--out", str(tmp_path / "out"))
    assert code == 0, err
    assert {len(json.loads(line)["by_seed"]) for line in (tmp_path / "out" / "scores.jsonl").open()} == {7}
    page = Page((tmp_path / "out" / "report.html").read_text())
    assert {"instead of", "mean difference", "a blue cat"} <= set(page.cells)


@pytest.mark.parametrize(
    ("asked", "lines", "said"),
    [
        ("experts", 'gate = "uniform"', "leaves experts out, of which this mixture has two"),
        ("read-out,gate", 'gate = "uniform"', "beside the uniform gate, which this mixture has"),
    ],
)
def test_what_there_is_not_with_a_mixture(run, weights, tmp_path, asked, lines, said):
    """Said before anything is scored."""
    head, first, second, *_ = Path(weights).read_text().split("[[expert]]")
    head = "".join(line for line in head.splitlines(keepends=True) if not line.startswith(("top", "gate")))
    two = Path(weights).with_name("two.toml")
    two.write_text(f"{lines}\n{head}" + "".join(f"[[expert]]{table}" for table in (first, second)))
    arguments = ("study", "a", "b", "--ablate", asked, *score(weights=str(two))[1:])
    code, _, err = run(*arguments, "--out", str(tmp_path / "out"))
    assert (code, len(err.splitlines()), said in err) == (2, 1, True), err
    assert not (tmp_path / "out").exists()


def test_operations_are_counted():
    q, k = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8)
    assert counted(lambda: q @ k.mT) == 2 * 2 * 3 * 5 * 7 * 8
    assert counted(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, k)) == 2 * 2 * 2 * 3 * 5 * 7 * 8


def test_what_a_prompt_costs(model):
    """By its seeds, its steps and, after the first step, its paths; what the empty prompt costs is not the prompt's."""
    few = cost(model, "a cat", Reading(size=128), Recipe(steps=2, size=128), 1234.4)
    many = cost(model, "a cat", Reading(size=128, seeds=3, estimator="eu-over-answer"), Recipe(steps=5, size=128), 1)
    (one, two, paths), (ones, five, more) = ([row["GFLOP"] for row in rows[:3]] for rows in (few, many))
    assert ones == pytest.approx(3 * one)
    assert five == pytest.approx(2.5 * two)
    assert more - paths == pytest.approx(3 * 4 * two / 2)
    assert two / 2 < paths - 4 * two / 2 < 4 * two / 2  # the first step: dearer than a row, cheaper than four
    assert [row["times a score"] for row in few[:3]] == pytest.approx([1, two / one, paths / one])
    assert few[3]["bytes"] == 1234


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("a", "--ablate", "weather"), "--ablate 'weather'"),
        (("a", "--clip", "x"), "add --images"),
        (("a", "--estimator", "eu-over-answer", "--ablate", "gate,run"), "--ablate run is read as eu"),
        (("a", "--guidance", "3"), "add --images, --baselines"),
        (("a", "--guidance", "3", "--ablate", "gate,split"), "add --images, --baselines"),
        (("a", "--template", "{a|b}", "--seeds", "6"), "leave the others out"),
        (("--template", "a bus", "--seeds", "6"), "has no slots"),
        (("--template", "{a|b}"), "set --seeds"),
        (("--template", "{a|\udcff}", "--seeds", "6"), "not valid Unicode"),
        (("a", "--word", "\udcff"), "not valid Unicode"),
        (("a", "--images", "--clip", "gone/gone/gone"), "cannot load CLIP"),
    ],
)
def test_what_cannot_be_studied(run, weights, monkeypatch, tmp_path, wrong, said):
    monkeypatch.setattr("emoe.pipeline.EMoE.from_toml", lambda *a, **k: pytest.fail("loaded"))
    code, _, err = run("study", *wrong, *score(weights=weights)[1:], "--out", str(tmp_path / "out"))
    assert (code, len(err.splitlines())) == (2, 1), err
    assert said in err


def test_an_image_that_cannot_be_read_is_said_first(run, weights, monkeypatch, tmp_path):
    monkeypatch.setattr("emoe.pipeline.EMoE.from_toml", lambda *a, **k: pytest.fail("loaded"))
    (tmp_path / "list.csv").write_text("prompt,image\na bus,gone.png\n")
    arguments = ("study", "--prompts", str(tmp_path / "list.csv"), "--images", "--out", str(tmp_path / "out"))
    code, _, err = run(*arguments, "--weights", weights)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "gone.png" in err


def test_a_group_of_two_sizes_is_said_first(run, tmp_path):
    (tmp_path / "list.csv").write_text("prompt,group,size\na,x,1\nb,x,2\n")
    code, _, err = run("study", "--prompts", str(tmp_path / "list.csv"), "--out", str(tmp_path / "out"))
    assert (code, len(err.splitlines())) == (2, 1)
    assert "the group 'x' has the sizes 1 and 2" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stage", ["scores", "baselines"])
def test_out_of_memory_in_any_stage(run, weights, monkeypatch, tmp_path, stage):
    def fails(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB.")

    monkeypatch.setattr(f"emoe.study.stages.Stages.{stage}", fails)
    code, _, err = run("study", "a cat", "--baselines", *score(weights=weights)[1:], "--out", str(tmp_path / "out"))
    assert (code, err) == (2, "emoe: out of memory: use a smaller --size, or --batch-size where there is one\n")


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PROBE = """
<script>
addEventListener("error", event => document.title = "error: " + event.message);
addEventListener("load", () => {
  const head = document.querySelectorAll("th")[1], table = head.closest("table");
  head.click();
  const once = [...table.tBodies[0].rows].map(row => row.cells[1].textContent).join();
  head.click();
  const twice = [...table.tBodies[0].rows].map(row => row.cells[1].textContent).join();
  document.title = "sorted: " + once + "; " + twice + "; wide: " + (document.documentElement.scrollWidth > innerWidth);
});
</script>
"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here to open the page with")
def test_the_page_in_a_browser(tmp_path):
    report = Report("page")
    report.section("Numbers")
    report.table([{"name": name, "n": n} for name, n in (("b", 2.0), ("a", 10.0), ("c", 1.0))])
    report.table([{f"column {i}": "word " * 4 for i in range(12)}])
    report.plot("one", Image.new("RGB", (2000, 20)), "a wide picture")
    page = tmp_path / "page.html"
    report.write_page(page)
    page.write_text(page.read_text().replace("<head>", "<head>" + PROBE))
    own = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={tmp_path / 'user'}")
    quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic")
    dump = [BROWSER, *own, *quiet, "--window-size=600,800", "--virtual-time-budget=3000", "--dump-dom", page.as_uri()]
    found = subprocess.run(dump, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "<title>sorted: 1.000,2.000,10.000; 10.000,2.000,1.000; wide: false</title>" in found
