"""Pieces that every page is put together from."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from importlib.resources import files

from vjepa_ac_planner.report.images import data_uri
from vjepa_ac_planner.report.records import Image


def document(title: str, sections: Iterable[str]) -> str:
    """A whole page with its style and script; write it as UTF-8."""
    here = files("vjepa_ac_planner.report")
    css = here.joinpath("page.css").read_text(encoding="utf-8")
    script = here.joinpath("page.js").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{css}</style></head>\n"
        f"<body><main>{''.join(sections)}</main>\n<script>{script}</script></body></html>\n"
    )


def picture(image: Image, marks: str = "", inset: Image | None = None, alt: str = "") -> str:
    """An image with marks over it, and a small one in its corner."""
    extra = (
        f'<img class="inset" alt="as the model sees it" src="{data_uri(inset, "png")}">'
        if inset is not None
        else ""
    )
    return f'<div class="view"><img alt="{escape(alt)}" src="{data_uri(image)}">{extra}{marks}</div>'


def numbers(rows: Iterable[tuple[str, str]]) -> str:
    """Names and their values."""
    return '<dl class="numbers">' + "".join(f"<dt>{k}</dt><dd>{v}</dd>" for k, v in rows) + "</dl>"


def key(color: str, text: str, dashed: bool = False) -> str:
    """One entry of a chart's key."""
    return f'<span><i class="{color}{" dashed" if dashed else ""}"></i>{text}</span>'


def tiles(cells: Iterable[tuple[str, str, str]]) -> str:
    """Large figures: value, unit, what it is."""
    body = "".join(f"<div><b>{v} <small>{u}</small></b><span>{label}</span></div>" for v, u, label in cells)
    return f'<div class="tiles">{body}</div>'


def table(header: list[str], rows: list[list[str]], numeric: int = 1) -> str:
    """A table whose columns from ``numeric`` on are aligned right."""

    def cells(tag: str, row: list[str]) -> str:
        return "".join(
            f"<{tag}{' class=n' if i >= numeric else ''}>{cell}</{tag}>" for i, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><thead><tr>{cells('th', header)}</tr></thead><tbody>{body}</tbody></table>"


def chart_figure(name: str, text: str, keys: str, chart: str) -> str:
    """A chart under its name."""
    return (
        f"<figure><h3>{name}</h3><figcaption>{text}</figcaption>"
        f'<div class="keys">{keys}</div>{chart}</figure>'
    )
