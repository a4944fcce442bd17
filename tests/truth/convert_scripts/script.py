"""One convert script, read from its syntax tree and run on stand-ins."""

from __future__ import annotations

import ast
import builtins
import importlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from truth.convert_scripts import models
from truth.convert_scripts.symbols import Lenient, Source, Target, Torch

_PURE = frozenset((
    "re", "math", "collections", "itertools", "functools", "typing", "dataclasses", "string", "copy", "enum",
    "__future__",
))  # fmt: skip
_TENSORS = frozenset(["torch", "numpy", "np", "nn", "jnp", "jax", "tf", "tensorflow", "flax", "safetensors"])
_CLOSED = frozenset(["open", "input", "exec", "eval", "compile", "__import__", "breakpoint"])


@dataclass
class Outcome:
    """What a run has written: names of ours by model class ("" if it was a dict saved to a file)."""

    written: dict[str, dict[str, Any]] = field(default_factory=dict)
    error: str = ""


class Script:
    """A script's functions and constants, without what it imports.

    Attributes:
        family: The model folder's name.
        name: `family/file.py`.
        classes: The transformers model classes it names.
        configs: The transformers config classes it names.
    """

    def __init__(self, name: str, text: str):
        self.name = name
        self.family = name.split("/")[0]
        self.tree = ast.parse(text)
        names = {node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name)}
        names |= {node.attr for node in ast.walk(self.tree) if isinstance(node, ast.Attribute)}
        self.classes = [name for name in sorted(names) if models.is_model(name)]
        self.configs = [name for name in sorted(names) if models.is_config(name)]
        self.code = compile(_prepared(self.tree), name, "exec")

    def functions(self) -> dict[str, ast.FunctionDef]:
        return {node.name: node for node in self.tree.body if isinstance(node, ast.FunctionDef)}

    def namespace(self) -> tuple[dict[str, Any], list[Target], list[Any]]:
        """A fresh namespace, the models built in it so far, and the dicts saved so far."""
        targets: list[Target] = []
        saved: list[Any] = []
        space: dict[str, Any] = {"__builtins__": _builtins(targets, saved), "__name__": "script"}
        space["__unpack"] = _unpack
        loaded = {node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name)}
        for name in loaded - set(dir(builtins)):
            space[name] = _stand_in(name, targets, saved)
        exec(self.code, space)
        return space, targets, saved

    def loaded_into(self) -> str:
        """The prefix of the submodule that its state dict is loaded into, such as "model."."""
        for node in ast.walk(self.tree):
            if not isinstance(node, ast.Attribute) or node.attr != "load_state_dict":
                continue
            if isinstance(node.value, ast.Attribute):
                return f"{node.value.attr}."
        return ""

    def defaults(self) -> dict[str, Any]:
        """The defaults of its command line's options."""
        found: dict[str, Any] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
                values = {word.arg: _literal(word.value) for word in node.keywords}
                option = next(
                    (a for a in map(_literal, node.args) if isinstance(a, str) and not a.startswith("-h")), ""
                )
                choices = values.get("choices")
                value = values.get("default") or (choices[0] if isinstance(choices, list | tuple) and choices else None)
                if option and isinstance(value, str):
                    found[option.lstrip("-").replace("-", "_")] = value
        return found

    def run(self, function: str, given: dict[str, Any], flags: bool | None) -> Outcome:
        """Calls `function` with `given` and sources for the rest; `flags` is what its boolean options get."""
        outcome = Outcome()
        try:
            space, targets, saved = self.namespace()
        except BaseException as error:
            outcome.error = f"{type(error).__name__}: {error}"
            return outcome
        try:
            space[function](**self.arguments(function, given, flags))
        except (Exception, SystemExit) as error:
            outcome.error = f"{type(error).__name__}: {error}"
        for target in targets:
            if target._log:
                outcome.written.setdefault(target.__dict__["name"], {}).update(target._log)
        if not outcome.written:
            for state in saved:
                outcome.written.setdefault("", {}).update(dict(state.items()))
        return outcome

    def arguments(self, function: str, given: dict[str, Any], flags: bool | None) -> dict[str, Any]:
        arguments = self.functions()[function].args
        names = [argument.arg for argument in [*arguments.posonlyargs, *arguments.args]]
        defaults = dict(zip(reversed(names), reversed([_literal(d) for d in arguments.defaults]), strict=False))
        out: dict[str, Any] = {}
        for name in names:
            if name in given:
                out[name] = given[name]
            elif isinstance(defaults.get(name), bool) and flags is not None:
                out[name] = flags
            elif name not in defaults:
                out[name] = self.stand_in(name)
        return out

    def stand_in(self, name: str) -> Any:
        if name.endswith("config"):
            wanted = name.removesuffix("config").strip("_").replace("_", "").lower()
            chosen = [c for c in self.configs if wanted and wanted in c.lower()] or self.main_configs()
            return Lenient(models.tiny_config(chosen[0]) if chosen else None)
        if name in ("model", "hf_model", "our_model"):
            return Target()
        return Source()

    def main_configs(self) -> list[str]:
        plain = self.family.replace("_", "")
        return sorted(self.configs, key=lambda c: (c.lower() != f"{plain}config", len(c)))


class _Prepare(ast.NodeTransformer):
    """Leaves out what a run on stand-ins cannot do: checks, decorators, imports, endless loops."""

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        return ast.copy_location(ast.Pass(), node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return ast.copy_location(ast.Pass(), node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.decorator_list = []
        node.returns = None
        for argument in [*node.args.args, *node.args.kwonlyargs]:
            argument.annotation = None
        self.generic_visit(node)
        return node

    def visit_While(self, node: ast.While) -> ast.AST:
        self.generic_visit(node)
        once = ast.If(test=node.test, body=node.body, orelse=[])
        empty = ast.Tuple([ast.Constant(0)], ast.Load())
        return ast.copy_location(ast.For(ast.Name("__once", ast.Store()), empty, [once], []), node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        self.generic_visit(node)
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(ast.Assign(targets=[node.target], value=node.value), node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        self.generic_visit(node)
        first = node.targets[0]
        if isinstance(first, ast.Tuple) and not isinstance(node.value, ast.Tuple):
            count = ast.Constant(len(first.elts))
            node.value = ast.Call(func=ast.Name("__unpack", ast.Load()), args=[node.value, count], keywords=[])
        return node


def _prepared(tree: ast.Module) -> ast.Module:
    body: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            body.append(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            handler = ast.ExceptHandler(ast.Name("Exception", ast.Load()), None, [ast.Pass()])
            body.append(ast.Try(body=[node], handlers=[handler], orelse=[], finalbody=[]))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            if module and module.split(".")[0] in _PURE and module != "__future__":
                body.append(node)
    copy = ast.parse(ast.unparse(ast.fix_missing_locations(ast.Module(body, []))))
    return ast.fix_missing_locations(_Prepare().visit(copy))


def _stand_in(name: str, targets: list[Target], saved: list[Any]) -> Any:
    if models.is_config(name):
        return Lenient(models.tiny_config(name))
    if models.is_model(name):
        return _ModelClass(name, targets)
    if name in _TENSORS:
        return Torch(saved)
    return Source()


class _ModelClass:
    """A transformers class: whatever makes an instance makes a target."""

    def __init__(self, name: str, targets: list[Target]):
        self._name = name
        self._targets = targets

    def __call__(self, *args: Any, **kwargs: Any) -> Target:
        target = Target()
        target.__dict__["name"] = self._name
        config = next((arg for arg in args if isinstance(arg, Lenient)), None)
        target.__dict__["config"] = config or Lenient(models.tiny_config(models.config_of(self._name)))
        self._targets.append(target)
        return target

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self if name in ("from_pretrained", "_from_config", "from_config") else Source()


def _unpack(value: Any, count: int) -> Any:
    if isinstance(value, Source):
        return [value] * count if value._path else [Source() for _ in range(count)]
    return value


def _builtins(targets: list[Target], saved: list[Any]) -> dict[str, Any]:
    def imported(name: str, *_: Any) -> Any:
        return importlib.import_module(name) if name.split(".")[0] in _PURE else _Module(targets, saved)

    table = dict(vars(builtins))
    table.update(dict.fromkeys(_CLOSED, Source()))
    table.update(__import__=imported, print=lambda *_, **__: None, isinstance=_isinstance, int=_Int)
    return table


class _Module:
    """A module that a function imports: its members are what their names say."""

    def __init__(self, targets: list[Target], saved: list[Any]):
        self._made = (targets, saved)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _stand_in(name, *self._made)


class _Int(int):
    """`int` that takes a source as well."""


def _isinstance(value: Any, kind: Any) -> bool:
    try:
        return isinstance(value, kind)
    except TypeError:
        return False


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def entry_points(script: Script) -> Iterator[str]:
    """Its functions that convert a whole checkpoint, the last first."""
    for name in reversed(script.functions()):
        if name.startswith(("convert", "write_model", "load_", "main")) or name in ("convert", "convert_state_dict"):
            yield name
