"""The registry of published models, and the search for a model file by its name.

`registry.toml` is part of the package; a folder of the search path may hold another one, whose
entries win over later ones. A file is identified by its SHA-256, whatever its name.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec

from pipeline.errors import ModelError
from pipeline.inference.external import MODEL_LIMIT
from pipeline.inference.manifest import converted, manifest_spec, read_toml
from pipeline.paths import sha256_of, share_dirs
from pipeline.text.display import shown_url
from pipeline.text.files import open_regular, read_bytes

if TYPE_CHECKING:
    from pipeline.inference.spec import ModelSpec

FILE_NAME = "registry.toml"
SUFFIX = ".onnx"
LOOPBACK = ("127.0.0.1", "localhost", "::1")

Count = Annotated[int, msgspec.Meta(ge=1)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a file comes from: a `url`, or the `member` of a `wheel` of that `version`."""

    url: str = ""
    wheel: str = ""
    version: str = ""
    member: str = ""

    def __post_init__(self) -> None:
        if self.url:
            if self.wheel or self.version or self.member:
                raise ValueError("a source has a url, or a wheel, but not both")
            check_url(self.url)
        elif not (self.wheel and self.version and self.member):
            raise ValueError("a source needs a url, or wheel, version and member")
        elif not re.fullmatch(r"[A-Za-z0-9._-]+", self.wheel) or self.wheel.startswith("-"):
            raise ValueError(f"wheel must be a package's name, but is {self.wheel!r}")
        elif not re.fullmatch(r"[A-Za-z0-9.+!]+", self.version):
            raise ValueError(f"version must be a release, but is {self.version!r}")

    def __str__(self) -> str:
        return shown_url(self.url) if self.url else f"{self.wheel}=={self.version} ({self.member})"


class ModelFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of a model; the `sources` are tried in their order."""

    name: Name
    bytes: Count
    sha256: Sha256
    sources: tuple[Source, ...] = ()


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the registry says of one model.

    A model without sources is part of the package. One that is `made_by` an importer has the
    importer's input as its files; any other has one file, the model itself. `published` is in
    percent, such as `{"top1": 69.48}`; `expects` is a manifest, for files made by others.
    """

    task: Literal["detect", "classify"]
    family: str
    about: str
    licence: str
    files: tuple[ModelFile, ...]
    made_by: Literal["", "import-darknet"] = ""
    published: dict[str, float] = {}
    published_source: str = ""
    parameters: Count | None = None
    macs: Count | None = None
    note: str = ""
    expects: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError("files must name at least one file")
        if len({file.name for file in self.files}) != len(self.files):
            raise ValueError("files must have different names")
        if not self.made_by and len(self.files) != 1:
            raise ValueError("files must be one, the model, unless made_by says what makes it")

    @property
    def is_bundled(self) -> bool:
        """Whether the model is part of the package, so that `vision models pull` is not needed."""
        return not any(file.sources for file in self.files)

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(file.bytes for file in self.files)


class _Registry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: Literal[1]
    models: dict[Name, Entry]


class Registered(NamedTuple):
    """An entry with its name and the folder of its registry."""

    name: str
    entry: Entry
    folder: Path

    def spec(self) -> ModelSpec | None:
        """What the model's file expects; None if the file itself says it.

        Raises `ModelError` if the registry's description is not valid.
        """
        if self.entry.expects is None:
            return None
        subject = f"{self.folder / FILE_NAME}: models.{self.name}.expects"
        labels = self.entry.expects.get("labels")
        if isinstance(labels, str) and Path(labels).name != labels:
            raise ModelError(f"{subject}: labels must be a file beside the registry, not {labels}")
        known = {"task": self.entry.task, "licence": self.entry.licence}
        spec = {**known, **self.entry.expects}
        return manifest_spec(spec, self.name, self.folder, subject)


def check_url(url: str) -> None:
    """Raise `ValueError` unless the address is encrypted or on this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and parts.hostname in LOOPBACK:
        return
    raise ValueError(f"an address must begin with https://, but is {shown_url(url)}")


def read_registry(path: Path) -> dict[str, Registered]:
    """The models of one registry file, by name.

    Raises `ModelError` if the file is no valid registry: a name that is more than a file name, a
    malformed hash, an address that is not encrypted.
    """
    registry = converted(read_toml(path), _Registry, str(path))
    return {name: Registered(name, entry, path.parent) for name, entry in registry.models.items()}


def registered_models() -> dict[str, Registered]:
    """Every model of every registry on the search path; of one name, that of the first registry.

    Raises `ModelError` if one of them is not valid.
    """
    found: dict[str, Registered] = {}
    for folder in share_dirs():
        path = folder / FILE_NAME
        if os.path.isfile(path):
            found = {**_read_once(path, path.stat().st_mtime_ns), **found}
    return found


@functools.lru_cache(maxsize=8)
def _read_once(path: Path, _mtime_ns: int) -> dict[str, Registered]:
    return read_registry(path)


def known_spec(path: Path) -> ModelSpec | None:
    """What the registry says of the file with these contents; None if it is not registered."""
    model = registered_as(path)
    return None if model is None else model.spec()


def registered_as(path: Path) -> Registered | None:
    """The entry of the file with these contents, whatever its name; None if there is none."""
    digest = file_sha256(path)
    for model in registered_models().values():
        if not model.entry.made_by and model.entry.files[0].sha256 == digest:
            return model
    return None


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's contents.

    Raises `ModelError` if it cannot be read, or is larger than a model may be.
    """
    return sha256_of(read_bytes(path, MODEL_LIMIT, ModelError))


def find_spec(path: Path) -> ModelSpec:
    """What the registry says of a file without our metadata.

    Raises `ModelError` if these contents are not registered.
    """
    spec = known_spec(path)
    if spec is not None:
        return spec
    digest = file_sha256(path)
    model = registered_models().get(path.stem)
    if model is not None and not model.entry.made_by:
        raise ModelError(
            f"{path}: expected the registered {path.stem} of SHA-256 "
            f"{model.entry.files[0].sha256}, but this file has {digest}; delete it and run "
            f"'vision models pull {path.stem}'"
        )
    raise ModelError(
        f"{path}: what this model expects is not known: it has no 'vision' metadata, and "
        f"no registry has its SHA-256, {digest}; describe it with --manifest FILE.toml"
    )


def installed_models() -> dict[str, Path]:
    """Every model that can be named, by name; of one name, that of the first folder searched."""
    found: dict[str, Path] = {}
    for folder in share_dirs():
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            if os.path.isfile(path):  # not a folder or a broken link
                found.setdefault(path.stem, path)
    return found


def is_name(model: str | Path) -> bool:
    """Whether a model is given by its name, not by the path of its file."""
    path = Path(os.path.expanduser(model))
    return path.suffix != SUFFIX and path.parent == Path()


def find_model(model: str | Path) -> Path:
    """The file of a model given by name (`yolov4-tiny-int8`) or by path (`./mine.onnx`).

    Raises `ModelError` with the nearest known name if there is no such file, and if it is not a
    regular file that can be read.
    """
    if not isinstance(model, (str, os.PathLike)):
        raise ModelError(f"model: expected a name or the path of a file, but got {model!r}")
    path = Path(os.path.expanduser(model))
    if not is_name(model):
        if not os.path.exists(path):
            raise ModelError(f"model {path}: no such file")
        open_regular(path, ModelError, f"model {path}").close()
        return path
    models = installed_models()
    if path.name in models:
        return models[path.name]
    registered = registered_models()
    if path.name in registered and not registered[path.name].entry.is_bundled:
        raise ModelError(
            f"model {model}: not on this machine yet; 'vision models pull {model}' fetches it "
            f"({registered[path.name].entry.size / 1e6:.1f} MB)"
        )
    names = [*models, *registered]
    near = difflib.get_close_matches(path.name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are: {', '.join(models) or 'none'}"
    raise ModelError(f"model {model}: no model of that name and no .onnx file; {hint}")
