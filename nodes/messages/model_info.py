"""What runs, to be told from anything else that may run: for diagnostics and the log."""

from __future__ import annotations

import hashlib

from pipeline.inference.classifier import Classifier
from pipeline.inference.detector import Detector


def facts_of(**parts: Detector | Classifier | None) -> dict[str, str]:
    """The file, labels, hash, provider and threads of each model, under its name."""
    facts = {}
    for name, part in parts.items():
        if part is None:
            continue
        model = part.model
        facts[name] = f"{model.path.name} ({len(part.labels)} labels)"
        facts[f"{name} sha256"] = hashlib.sha256(model.path.read_bytes()).hexdigest()
        facts[f"{name} provider"] = ", ".join(model.session.get_providers())
        facts[f"{name} threads"] = str(model.threads)
    return facts
