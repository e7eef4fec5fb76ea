"""Reports as pictures. It knows matplotlib, and nothing else does."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.report import Bars, Lines

_PANEL_INCHES = (8.0, 3.2)


def draw(path: Path, title: str, plots: Sequence[Bars | Lines]) -> None:
    """Draw the plots above each other into a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_PANEL_INCHES[0], _PANEL_INCHES[1] * len(plots)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for axes, plot in zip(figure.subplots(len(plots), squeeze=False)[:, 0], plots, strict=True):
        axes.set_title(plot.title, fontsize="medium")
        if isinstance(plot, Bars):
            _draw_bars(axes, plot)
        else:
            _draw_lines(axes, plot)
    figure.savefig(path, dpi=120)


def _draw_bars(axes: Any, plot: Bars) -> None:
    bars = axes.barh(list(plot.values), list(plot.values.values()), color=["C1", *["C0"] * (len(plot.values) - 1)])
    axes.invert_yaxis()
    axes.bar_label(bars, fmt="{:,.4g}", padding=3)
    axes.margins(x=0.15)


def _draw_lines(axes: Any, plot: Lines) -> None:
    for name, values in plot.values.items():
        axes.plot(range(len(values)), values, label=name, linewidth=1)
    axes.axhline(plot.level, color="grey", linestyle="dashed", linewidth=1)
    axes.set_xlabel("seconds since the first request")
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower right", fontsize="small")
