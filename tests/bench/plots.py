"""Two plots as SVG, drawn by hand: a plotting library is much for so little."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from html import escape

from tests.bench.bench import Curve

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 190, 44, 40
COLOURS = ("#8a8a8a", "#0b6e4f", "#c1440e", "#2f5d9b", "#7b4fa3")
BAR = 22


def curves(title: str, series: Mapping[str, Curve]) -> str:
    """Return lines over a logarithmic axis, one for each name."""
    points = [point for curve in series.values() for point in curve]
    xs = sorted({x for x, _ in points} or {1})
    top = nice(max((y for _, y in points), default=1))
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    span = math.log(xs[-1] / xs[0]) or 1

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + width * math.log(x / xs[0]) / span,
            TOP + height * (1 - y / top),
        )

    def parts() -> Iterator[str]:
        for step in range(5):
            y = top * step / 4
            _, down = place(xs[0], y)
            yield _line(LEFT, down, LEFT + width, down, "#dddddd")
            yield _text(LEFT - 8, down + 4, f"{y:,.0f}", "end")
        for x in xs:
            yield _text(place(x, 0)[0], HEIGHT - BOTTOM + 20, f"{x:g}", "middle")
        for index, (name, curve) in enumerate(series.items()):
            colour = COLOURS[index % len(COLOURS)]
            way = " ".join(f"{a:.1f},{b:.1f}" for a, b in (place(*point) for point in curve))
            yield f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"/>'
            for point in curve:
                across, down = place(*point)
                yield f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3" fill="{colour}"/>'
            row = TOP + 14 + 20 * index
            yield _line(LEFT + width + 12, row - 4, LEFT + width + 28, row - 4, colour)
            yield _text(LEFT + width + 34, row, name)

    return _svg(title, HEIGHT, parts())


def bars(title: str, values: Mapping[str, float], limit: float) -> str:
    """Return one bar for each name, and a line at the limit."""
    greatest = max([*values.values(), limit]) * 1.05
    width = WIDTH - 2 * RIGHT
    height = TOP + BAR * len(values) + 24

    def parts() -> Iterator[str]:
        for index, (name, value) in enumerate(values.items()):
            top = TOP + BAR * index
            colour = COLOURS[1] if value <= limit else COLOURS[2]
            yield _text(RIGHT - 8, top + 14, name, "end")
            long = width * value / greatest
            yield f'<rect x="{RIGHT}" y="{top}" width="{long:.1f}" height="16" fill="{colour}"/>'
            yield _text(RIGHT + long + 6, top + 13, f"{value:.2f}")
        for mark in (1, limit):
            across = RIGHT + width * mark / greatest
            yield _line(across, TOP - 6, across, height - 18, "#444444")
            yield _text(across, height - 4, f"{mark:g}", "middle")

    return _svg(title, height, parts())


def nice(value: float) -> float:
    """Return the round number at or above the value."""
    size = 10.0 ** math.floor(math.log10(max(value, 1)))
    return next(step * size for step in (1, 2, 4, 6, 8, 10) if step * size >= value)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(title: str, height: float, parts: Iterator[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}"'
        ' font-family="sans-serif" font-size="12" fill="#222222">'
    )
    paper = '<rect width="100%" height="100%" fill="#ffffff"/>'
    name = f'<text x="{LEFT}" y="22" font-size="14">{escape(title)}</text>'
    return "\n".join([head, paper, name, *parts, "</svg>\n"])
