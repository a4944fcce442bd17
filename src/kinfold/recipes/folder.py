"""The folder of a run: what it was asked to do, how far it has come, and what came out.

recipe.yaml     the config, from which the run can be repeated
data.json       what tells the sequences from any others
metrics.jsonl   losses and the like, a line each time
checkpoints/    what it takes to go on
model/          the outcome, once the run has come to its end
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kinfold.checkpoint.write import write_synced
from kinfold.durable import sync
from kinfold.errors import ConfigError, KinfoldError, TrainingError
from kinfold.recipes.config import RecipeConfig
from kinfold.recipes.settings import assemble, differences, dump_config


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The places in the folder of a run."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The config."""
        return self.path / "recipe.yaml"

    @property
    def data(self) -> Path:
        """What tells the sequences from any others."""
        return self.path / "data.json"

    @property
    def metrics(self) -> Path:
        """One JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """The folder that TensorBoard reads."""
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """The folder of the trainer."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The outcome."""
        return self.path / "model"

    def check(self, config: RecipeConfig) -> None:
        """Make sure that the folder is free, or that of a run of the same config.

        Raises:
            ConfigError: It is that of another one; every difference is listed. Or it is no folder of a run.
        """
        if not self.recipe.exists():
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise ConfigError(f"{self.path} is in the way: it is no folder of a run.", hint=_ANOTHER)
            return
        try:
            before = assemble(type(config), {}, self.recipe)
        except KinfoldError as error:
            raise ConfigError(
                f"{self.path} has another run: {error.summary}", faults=error.faults, hint=_ANOTHER
            ) from error
        if faults := differences(before, config):
            raise ConfigError(f"{self.path} has a run that was begun otherwise:", faults=faults, hint=_ANOTHER)

    def begin(self, config: RecipeConfig, digests: Mapping[str, str], *, command: str) -> None:
        """Write down what is to be done, or make sure that the data of a run that goes on are what they were.

        Raises:
            TrainingError: They are not.
            ConfigError: The folder cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be made: {error.strerror}.", hint=_ANOTHER) from error
        if self.data.exists():
            before = json.loads(self.data.read_bytes())
            faults = [name for name in {**before, **digests} if before.get(name) != digests.get(name)]
            if faults:
                raise TrainingError(
                    f"{self.path} has a run on data that were otherwise: a file or the tokenizer has changed.",
                    faults=[f"the sequences for {name} are not what they were" for name in faults],
                    hint=_ANOTHER,
                )
        head = f"# Once more, into another folder: {command} --config {self.recipe} --output FOLDER --name NAME\n\n"
        write_synced(self.recipe, (head + dump_config(config)).encode())
        write_synced(self.data, f"{json.dumps(digests, indent=2)}\n".encode())
        sync(self.path)


_ANOTHER = "Name another folder (`output`), or remove this one to begin anew."
