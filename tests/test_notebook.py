"""The same calls in Jupyter: live progress, and a run that shows its curve and samples."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient


def test_a_notebook_trains_and_shows_the_run(book: Path, tmp_path: Path) -> None:
    cells = [
        "import newleaf",
        f"""run = newleaf.pretrain({str(book)!r}, out={str(tmp_path / "r")!r}, steps=20,
          tokenizer={{"vocab_size": 300}},
            model={{"n_layer": 1, "n_embd": 64, "n_head": 2, "head_dim": 32, "n_inner": 64,
              "context_length": 64}})""",
        "run",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=200, kernel_name="python3").execute()
    shown = "".join(str(output) for output in notebook.cells[1].outputs)
    assert "parameters" in shown
    assert "ipywidgets" not in shown
    displays = [output for output in notebook.cells[1].outputs if output.output_type == "display_data"]
    assert len(displays) == 1  # one, drawn in place
    live = displays[0]["data"]["text/html"]
    assert "100 %" in live
    assert "<svg" in live
    assert not [output for output in notebook.cells[1].outputs if output.get("name") == "stderr"]
    html = notebook.cells[2].outputs[0]["data"]["text/html"]
    assert "data:image/png;base64," in html
    assert "bits per byte" in html
    assert "<pre>" in html
