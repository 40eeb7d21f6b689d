"""The learning curve of a run, drawn from its spool."""

from pathlib import Path

from pipeline.tracking.spool import read_records

Curve = list[tuple[int, float]]

#: Panel title -> curve label -> metric.
_PANELS = {
    "loss (nats per token)": {"train": "train/loss", "validation": "val/loss"},
    "bits per byte": {"train": "train/bits_per_byte", "validation": "val/bits_per_byte"},
}
_COLOURS = {"train": "tab:blue", "validation": "tab:orange"}
_FEW_POINTS = 30
_TOKENS = ("tokens_seen", "train/tokens_seen")


def draw_learning_curve(points: Path, picture: Path) -> bool:
    """Draw loss and bits per byte over tokens; False where there is nothing to draw."""
    curves = read_curves(points)
    panels = {
        title: kept
        for title, wanted in _PANELS.items()
        if (kept := {label: curves[key] for label, key in wanted.items() if key in curves})
    }
    if not panels:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tokens = next((curves[key] for key in _TOKENS if key in curves), None)
    figure = Figure(figsize=(6 * len(panels), 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, panel) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for label, curve in panel.items():
            x = [_tokens_at(tokens, step) for step, _ in curve]
            y = [value for _, value in curve]
            axes.plot(
                x, y, label=label, color=_COLOURS[label], marker="." if len(curve) < _FEW_POINTS else None
            )
        axes.set(title=title, xlabel="tokens" if tokens else "optimizer step")
        axes.grid(alpha=0.3)
        axes.legend()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)
    return True


def read_curves(points: Path) -> dict[str, Curve]:
    """Every metric as (step, value) in order of steps; of a step told twice (a resumed run), the later."""
    found: dict[str, dict[int, float]] = {}
    for record, _ in read_records(points, 0):
        if record is not None and record["kind"] == "metrics":
            for key, value in record["values"].items():
                found.setdefault(key, {})[record["step"]] = value
    return {key: sorted(values.items()) for key, values in found.items()}


def _tokens_at(tokens: Curve | None, step: int) -> float:
    """Tokens seen by a step, on a straight line through the steps that told it."""
    if not tokens:
        return step
    before = max((point for point in tokens if point[0] <= step), default=(0, 0.0))
    after = min((point for point in tokens if point[0] >= step), default=before)
    if after[0] == before[0]:
        return before[1] if after[0] == step or before[0] == 0 else before[1] / before[0] * step
    return before[1] + (after[1] - before[1]) * (step - before[0]) / (after[0] - before[0])
