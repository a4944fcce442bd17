"""The loaders of Google's TensorFlow checkpoints that transformers once shipped, run as they are."""

from __future__ import annotations

import ast
import logging
import os
import sys
import zipfile
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch
from torch import Tensor, nn

from truth.convert_scripts import fetch_wheel


def load_into(model: nn.Module, family: str, variables: Mapping[str, Tensor]) -> None:
    """Have the published loader put variables, named as in TensorFlow, into a model of transformers.

    Args:
        model: The model; changed in place.
        family: Whose loader, such as "bert".
        variables: What the checkpoint is made out to hold.
    """
    train = SimpleNamespace(
        list_variables=lambda path: [(name, tuple(tensor.shape)) for name, tensor in variables.items()],
        load_variable=lambda path, name: variables[name].numpy(),
    )
    function = _function(fetch_wheel(), family)
    with patch.dict(sys.modules, tensorflow=SimpleNamespace(train=train)), redirect_stdout(StringIO()):
        function(model, None, "checkpoint")


def _function(wheel: Path, family: str):
    with zipfile.ZipFile(wheel) as archive:
        source = archive.read(f"transformers/models/{family}/modeling_{family}.py").decode()
    name = f"load_tf_weights_in_{family}"
    node = next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name)
    names = {"os": os, "torch": torch, "logger": logging.getLogger(name)}
    exec(compile(ast.Module([node], []), f"modeling_{family}.py", "exec"), names)
    return names[name]
