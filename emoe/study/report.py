"""Answers on paper: sections, tables and pictures; as Markdown with its files, or as one page that holds everything."""

from __future__ import annotations

import base64
import csv
import html
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image

from emoe.atomic import atomic
from emoe.study.statistics import Interval

matplotlib.use("Agg")
FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Arial Unicode MS")  # together, most alphabets
matplotlib.rcParams["font.family"] = [name for name in FONTS if name in font_manager.get_font_names()]

# What Markdown would read as something else; an underscore inside of a word is one.
MARKUP = re.compile(r"[\\|*<&`\[\]~$]|(?<!\w)_|_(?!\w)")

Row = Mapping[str, Any]


class Section(NamedTuple):
    title: str
    paragraphs: Sequence[str]


class Table(NamedTuple):
    rows: Sequence[Row]
    caption: str

    @property
    def keys(self) -> list[str]:
        return list(dict.fromkeys(key for row in self.rows for key in row))

    @property
    def cells(self) -> list[list[Any]]:
        """A key that a row lacks is an empty cell."""
        return [[row.get(key, "") for key in self.keys] for row in self.rows]


class Plot(NamedTuple):
    name: str
    picture: Figure | Image.Image
    told: str


@dataclass
class Report:
    title: str
    blocks: list[Section | Table | Plot] = field(default_factory=list)

    def section(self, title: str, *paragraphs: str) -> None:
        self.blocks.append(Section(title, paragraphs))

    def table(self, rows: Sequence[Row], caption: str = "") -> None:
        self.blocks.append(Table(rows, caption))

    def plot(self, name: str, picture: Figure | Image.Image, told: str) -> None:
        self.blocks.append(Plot(name, picture, told))

    def write(self, folder: Path, stem: str) -> Path:
        """As Markdown: `stem`.md and `stem`-NAME.png."""
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f"# {self.title}", ""]
        for block in self.blocks:
            match block:
                case Section(title, paragraphs):
                    lines += [f"## {_in_a_line(title)}", "", *(line for text in paragraphs for line in (text, ""))]
                case Table(_, caption):
                    lines += [f"{caption}", ""] if caption else []
                    lines += [_line(block.keys), _line(["---"] * len(block.keys))]
                    lines += [_line([_in_a_line(value) for value in row]) for row in block.cells]
                    lines.append("")
                case Plot(name, picture, told):
                    with atomic(folder / f"{stem}-{name}.png") as new:
                        new.write_bytes(_png(picture))
                    lines += [f"![{told}]({stem}-{name}.png)", ""]
        path = folder / f"{stem}.md"
        with atomic(path) as new:
            new.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
        return path

    def write_tables(self, folder: Path) -> None:
        """Each as `NUMBER-title-of-its-section.csv`."""
        folder.mkdir(parents=True, exist_ok=True)
        title, number = "", 0
        for block in self.blocks:
            if isinstance(block, Section):
                title = block.title
            if isinstance(block, Table):
                number += 1
                name = "-".join("".join(c if c.isalnum() else " " for c in title.lower()).split())
                write_rows(block.rows, folder / f"{number:02}-{name}.csv")

    def write_page(self, path: Path) -> None:
        """As one HTML file that needs no other: pictures inline, tables sorted by a click on a column's head."""
        parts = [f"<h1>{html.escape(self.title)}</h1>"]
        for block in self.blocks:
            match block:
                case Section(title, paragraphs):
                    parts += [f"<h2>{html.escape(title)}</h2>", *(f"<p>{html.escape(text)}</p>" for text in paragraphs)]
                case Table(_, caption):
                    parts.append(_html_table(block, caption))
                case Plot(_, picture, told):
                    data = base64.b64encode(_png(picture)).decode()
                    parts.append(f'<img alt="{html.escape(told)}" src="data:image/png;base64,{data}">')
        page = PAGE.replace("{title}", html.escape(self.title)).replace("{body}", "\n".join(parts))
        with atomic(path) as new:
            new.write_text(page, encoding="utf-8")


PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
.table { overflow-x: auto; margin-bottom: 1.5rem; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 0.3rem 0; }
th, td { padding: 0.25rem 0.7rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
.number { text-align: right; }
td.number { white-space: nowrap; }
th { cursor: pointer; border-bottom: 2px solid #888; }
img { max-width: 100%; height: auto; }
@media print { body { margin: 0; max-width: none; } h2, table, img { break-inside: avoid; }
  h2, h2 + p { break-after: avoid; }
  .table { overflow: visible; } }
</style>
</head>
<body>
{body}
<script>
for (const head of document.querySelectorAll("th")) {
  head.addEventListener("click", () => {
    const body = head.closest("table").tBodies[0], column = head.cellIndex, up = head.dataset.up !== "1";
    head.dataset.up = up ? "1" : "";
    const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const order = (a, b) => isNaN(key(a)) || isNaN(key(b)) ? key(a).localeCompare(key(b)) : key(a) - key(b);
    body.append(...[...body.rows].sort((a, b) => up ? order(a, b) : order(b, a)));
  });
}
</script>
</body>
</html>
"""


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """As CSV; an interval takes three columns."""
    flat = [_flat(row) for row in rows]
    keys = list(dict.fromkeys(key for row in flat for key in row))
    with atomic(path) as new, new.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, keys, restval="")
        writer.writeheader()
        writer.writerows(flat)


def _html_table(table: Table, caption: str) -> str:
    numbers = [any(isinstance(row[i], float | int | Interval) for row in table.cells) for i in range(len(table.keys))]
    kinds = [' class="number"' if number else "" for number in numbers]
    heads = "".join(f"<th{kind}>{html.escape(key)}</th>" for key, kind in zip(table.keys, kinds, strict=True))
    rows = "\n".join("<tr>" + "".join(map(_html_cell, row)) + "</tr>" for row in table.cells)
    told = f"<caption>{html.escape(caption.strip('*'))}</caption>" if caption else ""
    return f'<div class="table"><table>{told}<thead><tr>{heads}</tr></thead><tbody>\n{rows}\n</tbody></table></div>'


def _html_cell(value: Any) -> str:
    if not isinstance(value, float | int | Interval):
        return f"<td>{html.escape(str(value))}</td>"
    number = value.value if isinstance(value, Interval) else value
    return f'<td class="number" data-value="{number}">{html.escape(_cell(value))}</td>'


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(value: Any) -> str:
    if isinstance(value, float | Interval) and _gap(value):
        return "–"
    if isinstance(value, Interval):
        known = not _gap(value.low) and not _gap(value.high)
        return _number(value.value) + (f" ({_number(value.low)} to {_number(value.high)})" if known else "")
    return _number(value) if isinstance(value, float) else str(value)


def _gap(value: float | Interval) -> bool:
    """What the data cannot answer."""
    number = value.value if isinstance(value, Interval) else value
    return number != number


def _number(value: float) -> str:
    return f"{value:.3f}" if value == 0 or 0.1 <= abs(value) < 100 else f"{value:.3g}"


def _in_a_line(value: Any) -> str:
    """A cell of a Markdown table, as it stands, whatever a prompt holds."""
    return MARKUP.sub(r"\\\g<0>", " ".join(_cell(value).split()))


def _flat(row: Row) -> dict[str, Any]:
    flat = {}
    for key, value in row.items():
        if isinstance(value, Interval):
            flat |= {key: value.value, f"{key}, low": value.low, f"{key}, high": value.high}
        else:
            flat[key] = value
    return flat


@contextmanager
def any_letters() -> Iterator[None]:
    """Those that no font here has are boxes in a figure, and no warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def _png(picture: Figure | Image.Image) -> bytes:
    buffer = io.BytesIO()
    if isinstance(picture, Figure):
        with any_letters():
            picture.savefig(buffer, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    else:
        picture.save(buffer, format="png")
    return buffer.getvalue()
