"""A finding as one HTML page that needs nothing else: no script, no other file, no network; light and dark."""

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from typing import Any

from dualdiff import __version__
from dualdiff.inspection.report_data import Report, ReportTable
from dualdiff.pages.charts import figures, number

OPEN_ROWS = 24
"""A table with more rows than this is folded."""

MOST_ROWS = 2000
"""Rows of a table that a page holds; `--json` has all."""

TILE_LETTERS = 14
"""A fact with at most so many letters is shown large."""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
"""What the page may load, enforced by the browser: its own style, pictures and audio, and nothing else."""

STYLE = """
:root { color-scheme: light dark; --page: #f7f6f3; --card: #fff; --ink: #1d2126; --soft: #646b75; --line: #e2e0da;
  --bar: #3470b8; --rest: #a9b4c2; --mark: #c2571a;
  --s0: #3470b8; --s1: #c2571a; --s2: #2e8259; --s3: #8552b3; --s4: #a37500; --s5: #b8386b; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --card: #1d2127; --ink: #e7e8ea; --soft: #9aa3af;
  --line: #32383f; --bar: #6aa3e6; --rest: #56606d; --mark: #ee9359;
  --s0: #6aa3e6; --s1: #ee9359; --s2: #5fc394; --s3: #bd95e8; --s4: #dcb348; --s5: #ef83ac; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 36px 24px 48px; }
header p { margin: 0; color: var(--soft); }
h1 { margin: 2px 0 6px; font-size: 28px; line-height: 1.2; font-weight: 650; overflow-wrap: anywhere; }
h2 { margin: 36px 0 12px; font-size: 17px; font-weight: 650; }
header .kind { text-transform: uppercase; letter-spacing: .08em; font-size: 12px; font-weight: 650;
  color: var(--bar); }
header .path { font-size: 13px; overflow-wrap: anywhere; }
.tiles { display: flex; flex-wrap: wrap; gap: 1px; margin: 24px 0 0; background: var(--line);
  border: 1px solid var(--line); border-radius: 10px; overflow: hidden; }
.tiles div { flex: 1 0 150px; background: var(--card); padding: 12px 16px;
  display: flex; flex-direction: column-reverse; justify-content: flex-end; }
.tiles dt { color: var(--soft); font-size: 12.5px; line-height: 1.3; }
.tiles dd { margin: 0; font-size: 21px; font-weight: 600; font-variant-numeric: tabular-nums; }
.notes { margin: 20px 0 0; padding: 14px 18px; background: var(--card); border: 1px solid var(--line);
  border-left: 4px solid var(--bar); border-radius: 6px; }
.notes p { margin: 0; } .notes p + p { margin-top: 8px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 18px;
  align-items: start; }
figure { margin: 0; padding: 14px 18px 12px; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; }
figure.wide { grid-column: 1 / -1; } figure.tall { grid-row: span 2; }
figcaption { font-weight: 600; margin-bottom: 8px; }
figcaption small { color: var(--soft); font-weight: 400; margin-left: 4px; }
svg { display: block; width: 100%; height: auto; }
svg text { font: 12px system-ui, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; fill: var(--soft);
  font-variant-numeric: tabular-nums; }
svg text.label { fill: var(--ink); font-size: 12.5px; }
.bar { fill: var(--bar); } .rest { fill: var(--rest); }
.grid { stroke: var(--line); } .axis { stroke: var(--soft); } .mark { stroke: var(--mark); stroke-width: 1.5; }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
audio { display: block; width: 100%; height: 40px; }
img { display: block; width: 100%; height: auto; border-radius: 6px; background: #fafaf8; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 6px 0 0; padding: 0; list-style: none;
  color: var(--soft); font-size: 13px; }
.legend b { color: var(--ink); font-weight: 600; font-variant-numeric: tabular-nums; }
.legend li::before { content: ""; display: inline-block; width: 14px; height: 3px; border-radius: 2px;
  margin-right: 7px; vertical-align: middle; background: currentColor; }
.s0 { stroke: var(--s0); } .s1 { stroke: var(--s1); } .s2 { stroke: var(--s2); } .s3 { stroke: var(--s3); }
.s4 { stroke: var(--s4); } .s5 { stroke: var(--s5); }
circle.s0 { fill: var(--s0); } circle.s1 { fill: var(--s1); } circle.s2 { fill: var(--s2); }
circle.s3 { fill: var(--s3); } circle.s4 { fill: var(--s4); } circle.s5 { fill: var(--s5); }
.legend .s0::before { background: var(--s0); } .legend .s1::before { background: var(--s1); }
.legend .s2::before { background: var(--s2); } .legend .s3::before { background: var(--s3); }
.legend .s4::before { background: var(--s4); } .legend .s5::before { background: var(--s5); }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { padding: 7px 16px; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
tr:last-child td { border-bottom: 0; }
th { font-size: 12.5px; font-weight: 600; color: var(--soft); white-space: nowrap; }
td { overflow-wrap: anywhere; min-width: 5em; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
summary { cursor: pointer; margin: 36px 0 12px; font-size: 17px; font-weight: 650; }
summary small, h2 small { color: var(--soft); font-weight: 400; font-size: 13px; margin-left: 6px; }
footer { margin-top: 40px; color: var(--soft); font-size: 13px; }
code { font: 13px ui-monospace, "DejaVu Sans Mono", monospace; }
@media print { details { display: block; } figure, .notes, .scroll { break-inside: avoid; } }
"""


def page(finding: Report) -> str:
    """The page of a finding, as HTML."""
    name = finding.path.resolve().name
    parts = [
        f"<header><p class=kind>{shown(finding.kind)}</p><h1>{shown(name)}</h1>"
        f"<p class=path>{shown(finding.path.resolve())}</p></header>",
        tiles(finding),
        notes_box(finding.notes),
        f'<h2>at a glance</h2><div class="charts">{figures(finding.charts)}</div>' if finding.charts else "",
        *map(table, (*_long_facts(finding), *finding.sheets)),
        f"<footer>dualdiff {__version__}{_next(finding.next)}</footer>",
    ]
    return document(f"{name} · {finding.kind}", "\n".join(filter(None, parts)))


def document(title: str, body: str, style: str = "", script: str = "") -> str:
    """A whole page around a body of HTML; of scripts, exactly the one given may run, and it may load nothing either."""
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    policy = f"{POLICY}; script-src 'sha256-{digest}'" if script else POLICY
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{shown(title)}</title>\n<style>{STYLE}{style}</style></head>\n<body><main>\n{body}\n</main>"
        + (f"<script>{script}</script>" if script else "")
        + "</body></html>\n"
    )


def shown(value: Any) -> str:
    """A value as escaped HTML: numbers grouped, lists and tables in a line; bytes of a name that are no text marked."""
    if isinstance(value, dict):
        return ", ".join(f"{shown(key)}: {shown(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return number(value)
    return escape(str(value).encode("utf-8", "replace").decode("utf-8"))


def _is_short(value: Any) -> bool:
    return not isinstance(value, dict | list | tuple) and len(shown(value)) <= TILE_LETTERS


def tiles(finding: Report) -> str:
    """The short facts, shown large."""
    short = [
        f"<div><dt>{shown(name)}</dt><dd>{shown(value)}</dd></div>"
        for name, value in finding.facts.items()
        if _is_short(value)
    ]
    return f'<dl class="tiles">{"".join(short)}</dl>' if short else ""


def notes_box(notes: Sequence[str]) -> str:
    """What the facts mean, in a box."""
    return f'<div class="notes">{"".join(f"<p>{shown(note)}</p>" for note in notes)}</div>' if notes else ""


def _long_facts(finding: Report) -> list[ReportTable]:
    rows = [(name, value) for name, value in finding.facts.items() if not _is_short(value)]
    return [ReportTable(title="more facts", columns=("fact", "value"), rows=rows)] if rows else []


def _next(command: str) -> str:
    return f" · next: <code>{shown(command)}</code>" if command else ""


def table(sheet: ReportTable) -> str:
    """A table under its title; a long one is folded, a very long one cut."""
    is_number = [
        all(isinstance(row[index], int | float | None) for row in sheet.rows) for index in range(len(sheet.columns))
    ]

    def cells(tag: str, row: Sequence[Any]) -> str:
        kinds = (' class="n"' if flush_right else "" for flush_right in is_number)
        return "".join(f"<{tag}{kind}>{shown(cell)}</{tag}>" for kind, cell in zip(kinds, row, strict=True))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in sheet.rows[:MOST_ROWS])
    grid = f'<div class="scroll"><table><thead><tr>{cells("th", sheet.columns)}</tr></thead>{body}</table></div>'
    count = len(sheet.rows)
    if count > MOST_ROWS:
        grid += f"<p>the first {MOST_ROWS:,} of {count:,}; <code>dualdiff inspect --json</code> has all</p>"
    if count <= OPEN_ROWS:
        return f"<section><h2>{shown(sheet.title)}</h2>{grid}</section>"
    return f"<details><summary>{shown(sheet.title)}<small>{count:,} rows</small></summary>{grid}</details>"
