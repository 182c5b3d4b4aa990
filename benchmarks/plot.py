"""Horizontal bars as SVG, without a plotting library: one bar a row, rows in groups."""

from collections.abc import Mapping
from html import escape

WIDTH, ROW, LABEL, VALUE = 760, 22, 190, 60
COLOURS = ("#5865f2", "#9aa3b2")


def bars(groups: Mapping[str, Mapping[str, float]], unit: str, ours: str) -> str:
    """An SVG picture of ``groups`` of named values; rows whose name starts with ``ours`` are coloured."""
    largest = max(value for group in groups.values() for value in group.values())
    scale = (WIDTH - LABEL - VALUE) / largest
    rows, y = [], 10
    for title, group in groups.items():
        rows.append(f'<text x="8" y="{y + 15}" style="font-weight: bold">{escape(title)}</text>')
        y += ROW
        for name, value in sorted(group.items(), key=lambda item: item[1]):
            colour = COLOURS[not name.startswith(ours)]
            width = max(value * scale, 1)
            rows += [
                f'<text x="{LABEL - 8}" y="{y + 15}" text-anchor="end">{escape(name)}</text>',
                f'<rect x="{LABEL}" y="{y + 3}" width="{width:.1f}" height="{ROW - 6}" rx="2" fill="{colour}"/>',
                f'<text x="{LABEL + width + 6:.1f}" y="{y + 15}">{value:.1f}</text>',
            ]
            y += ROW
        y += 10
    rows.append(f'<text x="{LABEL}" y="{y + 10}" fill="#666">{escape(unit)}; shorter is better</text>')
    style = "font: 12px sans-serif; fill: #222"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 24}" width="{WIDTH}">'
    background = f'<rect width="{WIDTH}" height="{y + 24}" fill="white"/>'
    return "\n".join([head, f"<style>text {{ {style} }}</style>", background, *rows, "</svg>", ""])
