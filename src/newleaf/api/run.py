"""A training run's folder, opened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from newleaf.format_amounts import counted
from newleaf.train.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from newleaf.api.model import Model


class Run:
    """A run's folder, opened: `summary`, `metrics`, `model` (the best by validation), `samples`."""

    def __init__(self, path: str | Path) -> None:
        self.folder = RunFolder(path)
        self.path = self.folder.path
        self.config = self.folder.read_config()

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json; empty while the run has not ended."""
        return self.folder.read_summary() or {}

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return list(self.folder.lines())

    @property
    def samples(self) -> list[dict[str, Any]]:
        """What the model wrote on the way: step, prompt, sample."""
        return [line for line in self.folder.lines() if "sample" in line]

    @property
    def model(self) -> Model:
        """The model of this run: the best checkpoint by validation."""
        from newleaf.api.opening import load

        return load(self.path)

    def plot(self) -> Any:
        """The run's curve as a matplotlib figure."""
        from newleaf.train.runs.loss_plot import loss_figure

        return loss_figure(self.metrics, self.path.name)

    def __repr__(self) -> str:
        found = self.summary
        state = f"{_figure(found)} after {counted(found['steps'], 'step')}" if found else "not ended"
        return f"<newleaf.Run {self.path}: {state}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the figures, the curve and the last samples."""
        import base64
        import html
        import io

        image = io.BytesIO()
        self.plot().savefig(image, format="png", dpi=90)
        encoded = base64.b64encode(image.getvalue()).decode()
        last = [line for line in self.samples if line["step"] == self.samples[-1]["step"]]
        texts = "".join(
            f"<pre><b>{html.escape(line['prompt'])}</b>{html.escape(line['sample'])}</pre>" for line in last
        )
        return (
            f"<p>{html.escape(repr(self))}</p><img src='data:image/png;base64,{encoded}' "
            f"style='max-width:720px'/>{texts}"
        )


def _figure(summary: dict[str, Any]) -> str:
    """The figure that chose the best checkpoint, which stands first."""
    if "val_bits_per_byte" in summary:
        return f"{summary['val_bits_per_byte']:.3f} bits per byte"
    name = next((name for name in summary if name.startswith("val_")), None)
    return f"{summary[name]:.3f} {name.removeprefix('val_')}" if name else "done"
