"""What all figures share: a page with a head that says what is shown, colours, and saving. No global state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kdexp.records import written_whole

# Okabe and Ito's colours, told apart with every common colour vision.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#222222",
)  # fmt: skip
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
GREY = "#6b6b6b"
MODEL_COLOURS = {"teacher": GREY, "student": BLUE, "no-KD": ORANGE}
_POINTS_PER_INCH = 72


def page(width: float, height: float, title: str, facts: Sequence[str], *, synthetic: bool) -> Figure:
    """An empty figure, width × height inches, with its head: the title, and what the numbers were measured on.

    Axes lie below the head, laid out without overlap.
    """
    lines = _filled(facts, max(20, int(width * 14.5)))
    # The title takes its own row; SYNTHETIC shares it, or gets a row above on a narrow page.
    shares_row = (len(title) * 8.2 + 205) / _POINTS_PER_INCH < width
    extra = 0.34 if synthetic and not shares_row else 0.0
    head = 0.44 + extra + 0.18 * len(lines)
    figure = Figure(figsize=(width, height + head), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    full = height + head
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0, 0, 1, height / full), w_pad=0.08, h_pad=0.08)  # type: ignore[call-arg]
    left, top = 0.14 / width, 1 - 0.12 / full
    if synthetic:
        badge = {"facecolor": RED, "edgecolor": "none", "boxstyle": "round,pad=0.25"}
        figure.text(
            1 - 0.2 / width, top - 0.03 / full, "SYNTHETIC DATA", ha="right", va="top", size=15, weight="bold",
            color="white", bbox=badge,
        )  # fmt: skip
    figure.text(left, top - extra / full, plain(title), ha="left", va="top", size=14, weight="bold", color=BLACK)
    figure.text(
        left,
        top - (0.3 + extra) / full,
        plain("\n".join(lines)),
        ha="left",
        va="top",
        size=9,
        color=GREY,
        linespacing=1.35,
    )
    return figure


def tidy(axes: Axes) -> None:
    """A quiet frame and a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)


def _filled(facts: Sequence[str], width: int) -> list[str]:
    """Lines of facts with dots between them; a line ends between two facts."""
    lines = [facts[0]]
    for fact in facts[1:]:
        if len(lines[-1]) + len(fact) + 3 <= width:
            lines[-1] += f" · {fact}"
        else:
            lines.append(fact)
    return lines


def plain(text: str) -> str:
    """The text as it is: a dollar sign starts no formula."""
    return text.replace("$", r"\$")


def save(figure: Figure, path: Path) -> Path:
    """Writes a PNG whole or not at all."""
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    return path
