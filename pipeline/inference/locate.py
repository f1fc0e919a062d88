"""Finding a model file by its name."""

from __future__ import annotations

import difflib
from pathlib import Path

from pipeline.errors import ModelError
from pipeline.inference.registry import registered_models
from pipeline.paths import share_dirs

SUFFIX = ".onnx"


def installed_models() -> dict[str, Path]:
    """Every model that can be named, by name; the first folder of the search path wins."""
    found: dict[str, Path] = {}
    for folder in share_dirs():
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            if path.is_file():  # no folder, and no link to what has gone
                found.setdefault(path.stem, path)
    return found


def is_name(model: str | Path) -> bool:
    """Whether a model is given by its name rather than by the path of its file."""
    path = Path(model).expanduser()
    return path.suffix != SUFFIX and path.parent == Path()


def find_model(model: str | Path) -> Path:
    """The file of a model given by name (`yolov4-tiny-int8`) or by path (`./mine.onnx`).

    Raises `ModelError` where there is no such file, with the nearest known name.
    """
    path = Path(model).expanduser()
    if not is_name(model):
        if path.is_file():
            return path
        raise ModelError(f"model {path}: no such file")
    models = installed_models()
    if path.name in models:
        return models[path.name]
    registered = registered_models()
    if path.name in registered and not registered[path.name].entry.travels:
        raise ModelError(
            f"model {model}: not on this machine yet; 'vision models pull {model}' fetches it "
            f"({registered[path.name].entry.size / 1e6:.1f} MB)"
        )
    names = [*models, *registered]
    near = difflib.get_close_matches(path.name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are: {', '.join(models) or 'none'}"
    raise ModelError(f"model {model}: no model of that name and no .onnx file; {hint}")
