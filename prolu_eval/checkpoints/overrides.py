"""Settings in SAELens's table of releases that replace those of a checkpoint's own files."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from prolu_eval import hub, releases
from prolu_eval.checkpoints.base import SCALE_PROBLEM
from prolu_eval.checkpoints.hook_names import hook_of
from prolu_eval.checkpoints.reading import validate
from prolu_eval.checkpoints.saelens_config import Metadata, weight_processing
from prolu_eval.checkpoints.saelens_units import RUN_TIME, normalisation
from prolu_eval.releases import Entry
from prolu_eval.runs import Broken, Run


class _Units(BaseModel):
    normalize_activations: str | bool | None = None


def overridden(item: Run | Broken, entry: Entry) -> Run | Broken:
    """A checkpoint with the name and the overrides of an entry of the table.

    Raises:
        CheckpointError: if an override has a value that its type does not allow.
    """
    name = entry.name.removeprefix(releases.SAELENS)
    if isinstance(item, Broken):
        return replace(item, name=name)
    provenance = {
        "release": entry.release,
        "sae_id": entry.sae_id,
        "repository": entry.repository,
        "overrides": dict(entry.overrides),
    }
    changes = _changes(item, entry)
    if "activation_scale" in changes:
        changes["problems"] = tuple(p for p in item.problems if p != SCALE_PROBLEM)
    part = "" if item.part is None else f":{item.part}"
    return replace(item, name=name + part, provenance=item.provenance | provenance, **changes)


def doubted(found: Sequence[Run | Broken], path: str | Path, root: Path) -> list[Run | Broken]:
    """Checkpoints of a hub name, stored in ``root``, with differences from the table as doubts."""
    repository, subfolder, _ = hub.Name.parse(str(path))
    by_path = {entry.path: entry for entry in releases.entries_in(repository)}
    told = []
    for item in found:
        place = Path(subfolder, item.path.relative_to(root)).as_posix()
        entry = by_path.get(place)
        differs = [] if entry is None or isinstance(item, Broken) else _differences(item, entry)
        if entry is None or isinstance(item, Broken) or not differs:
            told.append(item)
            continue
        doubt = (
            f"SAELens's table says {' and '.join(differs)} for it, unlike its files: "
            f"name it {entry.name}"
        )
        logging.getLogger(__name__).warning("%s: %s.", item.name, doubt)
        told.append(replace(item, problems=(*item.problems, doubt)))
    return told


def _changes(run: Run, entry: Entry) -> dict[str, Any]:
    """The fields of a run that an entry of the table changes."""
    path = Path(entry.name)
    metadata = validate(Metadata, {"hook_name": run.hook} | dict(entry.overrides), path)
    changes: dict[str, Any] = {
        "model": metadata.model_name or run.model or entry.model,
        "hook": hook_of(metadata.hook_name),
        "dataset": metadata.dataset_path or run.dataset,
        "context_length": metadata.context_size or run.context_length,
    }
    if metadata.prepend_bos is not None:
        changes["prepend_bos"] = metadata.prepend_bos
    if metadata.model_from_pretrained_kwargs is not None:
        changes["weight_processing"] = weight_processing(metadata)
    kind = validate(_Units, entry.overrides, path).normalize_activations
    if kind is not None and (named := RUN_TIME.get(normalisation(kind))) is not None:
        changes |= {"normalisation": named, "needs_scale": False, "besides": f"normalised {named}"}
    elif run.needs_scale and entry.scale is not None:
        changes |= {"activation_scale": (entry.scale,), "besides": f"scale {entry.scale!r}"}
    return changes


def _differences(run: Run, entry: Entry) -> list[str]:
    """The changes by an entry of the table that affect measurements, in words."""
    changes = _changes(run, entry)
    found = []
    if changes.get("weight_processing", run.weight_processing) != run.weight_processing:
        kwargs = entry.overrides["model_from_pretrained_kwargs"]
        found += [f"{name}={on}" for name, on in kwargs.items()]
    own = run.provenance.get("config", {}).get("normalize_activations")
    if changes.get("normalisation") not in (None, RUN_TIME.get(normalisation(own))):
        found.append(f"normalize_activations={entry.overrides['normalize_activations']}")
    if "activation_scale" in changes:
        found.append(f"norm_scaling_factor={entry.scale:g}")
    return found
