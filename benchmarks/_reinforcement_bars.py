"""The picture of the README that shows the gain of reinforcement on the demo's data."""

from __future__ import annotations

from typing import Any

BARS = {
    "plain": ("plain CLIP", "p"),
    "pretrained_captions": ("captioner not fine-tuned", "c"),
    "reinforced": ("reinforced", "r"),
    "plain_corpus": ("plain CLIP, also on the clean pairs", "p"),
}
"""Kind -> label and color of a bar."""

LEFT, ROW, POINT = 240, 40, 17
"""Start of the bars, height of a row, and length of a percentage point, in pixels."""

STYLE = """
    text { fill: #1f2328; } .s { fill: #57606a; font-size: 12px; }
    .p { fill: #b5bdc8; } .c { fill: #7fb8de; } .r { fill: #0072b2; } .e { stroke: #d55e00; stroke-width: 3; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3; } .s { fill: #9aa4b0; }
      .p { fill: #5b6470; } .c { fill: #2f77a8; } .r { fill: #56b4e9; } .e { stroke: #e69f00; }
    }
"""


def bars(numbers: dict[str, Any]) -> str:
    """Return an SVG picture with a bar for each kind of student, and the range over its seeds."""
    rows, said = [], []
    for row, (kind, (label, color)) in enumerate(BARS.items()):
        values = numbers["top1"][kind]
        mean, top = 100 * numbers["mean"][kind], 15 + ROW * row
        low, high = (round(LEFT + 100 * POINT * value) for value in (min(values), max(values)))
        said.append(f"{label} {mean:.1f} %")
        rows.append(
            f'  <text x="0" y="{top + 18}">{label}</text>'
            f'<rect class="{color}" x="{LEFT}" y="{top}" width="{round(POINT * mean)}" height="26"/>'
            f'<path class="e" d="M{low} {top + 13}H{high}"/>'
            f'<text x="{high + 12}" y="{top + 18}">{mean:.1f} %</text>'
        )
    height = 35 + ROW * len(rows)
    attributes = f'viewBox="0 0 640 {height}" role="img" aria-labelledby="t d" font-family="system-ui, sans-serif" font-size="13"'
    said_of_all = (
        f"Zero-shot top-1 accuracy on {numbers['set']}: {', '.join(said)}. Lines show the range over the seeds."
    )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" {attributes}>
  <title id="t">What reinforcement gives on the demo's data</title>
  <desc id="d">{said_of_all}</desc>
  <style>{STYLE}  </style>
{chr(10).join(rows)}
  <text class="s" x="{LEFT}" y="{height - 8}">zero-shot top-1 on {numbers["set"]}, mean and range of {len(values)} seeds</text>
</svg>
"""
