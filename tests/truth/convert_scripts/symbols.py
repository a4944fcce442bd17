"""Stand-ins for tensors, modules, state dicts and configs that remember where they came from.

A convert script runs on them as it would on a checkpoint: whatever it reads is a `Source` that knows its name, and
whatever it writes to a `Target` is written down.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

LAYERS = 2
"""How many layers every model has here; what a source gives wherever a number is asked of it."""

_SAME = frozenset((
    "eval", "half", "float", "double", "cpu", "cuda", "detach", "clone", "to", "contiguous", "numpy", "type",
    "requires_grad_", "state_dict", "astype", "bfloat16", "train", "module_dict",
))  # fmt: skip
_TURNED = frozenset(["t", "transpose", "permute", "swapaxes", "T"])
_PART = frozenset(["chunk", "split", "tensor_split", "unbind"])
_RESHAPED = frozenset(["view", "reshape", "squeeze", "unsqueeze", "flatten", "ravel", "expand", "repeat"])
_DATA = frozenset(("data", "module"))


class Source:
    """A tensor or module of the foreign side, or its state dict; at the root, a dict that makes up what it lacks.

    Attributes:
        _path: Its name in the foreign checkpoint; the names stay out of the way of a module's own.
        _ops: What was done to it: "T" turned, "P" a part of it taken, "R" reshaped.
    """

    def __init__(self, path: str = "", ops: tuple[str, ...] = (), parent: Source | None = None, key: bool = False):
        state = self.__dict__
        state["_path"] = path
        state["_ops"] = ops
        state["_parent"] = parent
        state["_key"] = key
        state["_stored"] = {}

    def _with(self, op: str) -> Source:
        return Source(self._path, (*self._ops, op))

    def _child(self, name: str, key: bool = False) -> Source:
        container = not self._path or (self._key and key and "." not in self._path)
        return Source(name if container else f"{self._path}.{name}", self._ops, self, key)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in _DATA:
            return self
        if name == "T":
            return self._with("T")
        return self._child(name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name = self._path.rsplit(".", 1)[-1]
        owner = self._parent
        if owner is None:
            return Source()
        if name in _SAME:
            return owner
        for op, names in (("T", _TURNED), ("P", _PART), ("R", _RESHAPED)):
            if name in names:
                return owner._with(op)
        return Source()

    # As a dict.

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self._stored[key] if key in self._stored else self._child(key, key=True)
        if isinstance(key, int) and not isinstance(key, bool):
            return self._child(str(key)) if self._path else self
        return self._with("P")

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(key, str):
            self._stored[key] = value

    def __delitem__(self, key: Any) -> None:
        self._stored.pop(key, None)

    def __contains__(self, key: object) -> bool:
        return key in self._stored

    def pop(self, key: Any, *default: Any) -> Any:
        if key in self._stored:
            return self._stored.pop(key)
        return default[0] if default else self[key]

    def get(self, key: Any, *default: Any, **_: Any) -> Any:
        return self._stored[key] if key in self._stored else default[0] if default else Source()

    def keys(self) -> Any:
        return self._stored.keys()

    def values(self) -> Any:
        return self._stored.values()

    def items(self) -> Any:
        return self._stored.items()

    def update(self, *args: Any, **kwargs: Any) -> None:
        self._stored.update(*args, **kwargs)

    def copy(self) -> Source:
        other = Source(self._path, self._ops, self._parent, self._key)
        other._stored.update(self._stored)
        return other

    def __deepcopy__(self, memo: Any) -> Source:
        return self.copy()

    __copy__ = copy

    # As a list of layers, and as a number.

    def __iter__(self) -> Iterator[Any]:
        if self._stored:
            return iter(list(self._stored))
        return iter([self[i] for i in range(LAYERS)]) if self._path else iter(())

    def __len__(self) -> int:
        return len(self._stored) or LAYERS

    def __bool__(self) -> bool:
        return True

    def __index__(self) -> int:
        return LAYERS

    def __int__(self) -> int:
        return LAYERS

    def __float__(self) -> float:
        return float(LAYERS)

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = object.__hash__

    def _same(self, *_: Any) -> Source:
        return self

    def _true(self, _: Any) -> bool:
        return True

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _same
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __neg__ = __matmul__ = _same
    __lt__ = __le__ = __gt__ = __ge__ = _true
    __enter__ = _same

    def __exit__(self, *_: Any) -> None:
        return None

    def __setattr__(self, name: str, value: Any) -> None:
        return None


class Joined(Source):
    """Several sources put together into one tensor."""

    def __init__(self, parts: list[Source]):
        super().__init__("joined", ("J",))
        self.__dict__["_parts"] = parts

    def _with(self, op: str) -> Source:
        return Joined([part._with(op) for part in self._parts])


class Target(Source):
    """A module of our side; an assignment to anything below it is written into `log`."""

    def __init__(self, path: str = "", log: dict[str, Any] | None = None, owner: Target | None = None):
        super().__init__(path, (), owner)
        self.__dict__["_log"] = {} if log is None else log

    def _child(self, name: str, key: bool = False) -> Target:
        return Target(f"{self._path}.{name}" if self._path else name, self._log, self)

    def _with(self, op: str) -> Source:
        return self

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice | tuple) or key is Ellipsis:
            return self
        return self._child(str(int(key)) if isinstance(key, Source) else str(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(key, str | int):
            self._write(f"{self._path}.{key}", value)
        else:
            self._write(self._path, value)

    def __setattr__(self, name: str, value: Any) -> None:
        self._write(self._path if name in _DATA else f"{self._path}.{name}" if self._path else name, value)

    def _write(self, path: str, value: Any) -> None:
        if isinstance(value, Source) and not isinstance(value, Target):
            self._log[path] = value

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name = self._path.rsplit(".", 1)[-1]
        owner = self._parent
        if not isinstance(owner, Target):
            return Source()
        if name == "load_state_dict" and args:
            for key, value in _items(args[0]):
                self._write(f"{owner._path}.{key}" if owner._path else key, value)
            if isinstance(args[0], Source) and not args[0]._stored and args[0]._path:
                self._write(owner._path, args[0])
            return [], []
        if name == "copy_" and args:
            self._write(owner._path, args[0])
            return owner
        if name in _SAME:
            return owner
        return Source()

    def __iter__(self) -> Iterator[Any]:
        return iter([self[i] for i in range(LAYERS)])

    def copy(self) -> Source:
        return self


def _items(state: Any) -> list[tuple[str, Any]]:
    if isinstance(state, Source | Mapping):
        return [(key, value) for key, value in state.items() if isinstance(key, str)]
    return []


class Torch:
    """What stands for `torch` and the like: functions of tensors give their sources back."""

    def __init__(self, saved: list[Any], name: str = "torch"):
        self._saved = saved
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Torch(self._saved, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name = self._name
        if name in ("save", "save_file", "safe_save_file"):
            self._saved.extend(arg for arg in args if isinstance(arg, Source | Mapping))
            return None
        if name.startswith(("zeros", "ones", "arange", "empty", "full", "rand", "eye")):
            return None
        if name in ("cat", "concat", "concatenate", "stack", "vstack", "hstack", "from_numpy", "Parameter", "tensor",
                    "as_tensor", "asarray", "array", "FloatTensor", "Tensor", "ascontiguousarray"):  # fmt: skip
            value = args[0] if args else None
            if isinstance(value, list | tuple):
                if not all(isinstance(part, Source) for part in value):
                    return Source()
                parts = [part for part in value if isinstance(part, Source)]
                parts = [part._parts if isinstance(part, Joined) else [part] for part in parts]
                return Joined(list(itertools.chain.from_iterable(parts)))
            return value
        first = next((arg for arg in args if isinstance(arg, Source)), None)
        if first is None:
            return Source()
        for op, names in (("T", _TURNED), ("P", _PART), ("R", _RESHAPED)):
            if name in names:
                return first._with(op)
        return Source() if name in ("load", "hub", "load_file") else first._with("R")


class Lenient:
    """A config that keeps its sizes whatever a script sets, and gives a source for what it lacks."""

    def __init__(self, config: Any):
        self.__dict__["config"] = config

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        config = self.__dict__["config"]
        if callable(getattr(type(config), name, None)):
            return self
        value = getattr(config, name, None)
        if value is None:
            if config is not None and name.endswith("_config"):
                return Lenient(None)
            return Source() if config is None or not hasattr(config, name) else None
        return Lenient(value) if hasattr(value, "model_type") else value

    def __setattr__(self, name: str, value: Any) -> None:
        return None

    def __call__(self, *args: Any, **kwargs: Any) -> Lenient:
        return self
