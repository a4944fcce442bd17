"""One checkpoint tried in this process, without a project: read, settled, compared and exported in memory.

It is what `scaffold new-family` and `scaffold verify` do but for files and formatting, in a tenth of their time; and a
model is spread over 2 ranks.
"""

from __future__ import annotations

from pathlib import Path
from time import monotonic

import torch
import yaml

from kinfold.checkpoint import Checkpoint, open_checkpoint
from kinfold.errors import KinfoldError
from kinfold.scaffold.prove.parity import relative_gap
from kinfold.scaffold.prove.reference import read_reference
from kinfold.scaffold.prove.roundtrip import same_bits
from kinfold.scaffold.reading.read import read_checkpoint
from kinfold.scaffold.reading.settle import settle
from kinfold.scaffold.render.memory import load_family
from kinfold.scaffold.spec.schema import dump_spec
from zoo.sharding import shard_family
from zoo.trial import WRONG_SHARDS, Trial, spec_in_words

TOLERANCE = 1e-4
RANKS = (2,)


def try_quickly(folder: Path) -> Trial:
    """Try a checkpoint; see `try_checkpoint`, whose trial this is."""
    torch.set_num_threads(1)
    trial, start = Trial(folder.name), monotonic()
    try:
        with open_checkpoint(folder) as checkpoint:
            _try(trial, folder, checkpoint)
    except KinfoldError as error:
        trial.reason, trial.faults = str(error).splitlines()[0].replace(str(folder), folder.name), list(error.faults)
    trial.seconds["in memory"] = round(monotonic() - start, 1)
    return trial


def _try(trial: Trial, folder: Path, checkpoint: Checkpoint) -> None:
    settled = settle(read_checkpoint(checkpoint), checkpoint, read_reference(folder / "reference.safetensors"))
    if not settled.agrees:
        trial.reason = settled.lines[0]
        return
    reading = settled.reading
    trial.spec = spec_in_words(yaml.safe_load(dump_spec(reading.spec)))
    trial.open = [f"{fact.name} = {fact.value}" for fact in reading.facts.values() if fact.assumed]
    family = load_family("quick", reading.spec)
    config = family.archs.get()
    stored = {name: checkpoint.tensor(name) for name in checkpoint.manifest}
    native = family.converter.load(stored, config, layout=reading.layout)
    model = family.create(config, device="meta")
    model.load_state_dict({name: tensor.double() for name, tensor in native.items()}, assign=True)
    unseen = read_reference(folder / "unseen" / "reference.safetensors")
    with torch.inference_mode():
        trial.parity = relative_gap(model.eval()(*unseen.inputs), unseen.logits)
    exported = family.converter.export(native, config, layout=reading.layout)
    different = [name for name in stored if name not in exported or not same_bits(exported[name], stored[name])]
    trial.round_trip = f"{len(stored)} tensors come back bit for bit"
    sharding = shard_family(family.create, config, family.sharder, RANKS)
    trial.indivisible = sharding.indivisible
    if different:
        trial.reason, trial.faults = "tensors do not come back bit for bit:", different
    elif trial.parity > TOLERANCE:
        trial.reason = f"logits of other tokens differ by {trial.parity:.1e} of the largest"
    elif sharding.wrong:
        trial.reason, trial.faults = WRONG_SHARDS, sharding.wrong
    trial.holds = not trial.reason
