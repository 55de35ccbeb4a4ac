"""The adapters on one base: of a forward pass, each row takes its own.

A row's mix names adapters and weights: {indigo: 0.7, kampala: 0.3} adds 0.7 times what the one
changes and 0.3 times what the other does; the empty one is the bare base. Where all rows want the
same, the denoiser computes with merged weights, as fast as without any adapter; the base's own are
put aside for as long, never changed. Else rows of one mix stand together, and what their adapters
change is added, in place, to their part of each layer's output. That costs what one adapter for all
rows would, however many there are.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from .adapter_layers import Layer, Layers, read, weights_of
from .architecture import Architecture

Mix = tuple[tuple[str, float], ...]  # (adapter, weight), sorted by name; () is the bare base
Changeable = nn.Linear | nn.Conv2d


class AdapterGone(RuntimeError):
    """An adapter that was taken away, in one sentence."""


def mix_of(weights: Mapping[str, float]) -> Mix:
    """The mix of adapters by their weights; those of weight 0 are left out."""
    return tuple(sorted((name, float(weight)) for name, weight in weights.items() if weight))


class Adapters:
    """The adapters on the base `model`; not thread-safe, and not to be changed during a pass."""

    def __init__(self, model: Architecture) -> None:
        self.model = model
        self._weights = weights_of(model)
        self._layers: dict[str, Layers] = {}
        self._components = {name: _Component(model.component(name)) for name in model.trainable()}

    def __contains__(self, name: str) -> bool:
        return name in self._layers

    def __len__(self) -> int:
        return len(self._layers)

    def read(self, folder: Path) -> Layers:
        """The layers of the adapter in a folder, to be put on with `add`; changes nothing here, so
        that it may be called during a pass. AdapterError when it does not fit the base."""
        return read(folder, self._weights)

    def add(self, name: str, layers: Layers) -> None:
        """Put an adapter on the base under a name that none has."""
        if name in self._layers:
            raise ValueError(f"there is an adapter {name} already")
        self._layers[name] = layers
        for component, part in self._components.items():
            part.layers[name] = {
                module: layer for (where, module), layer in layers.items() if where == component
            }

    def remove(self, name: str) -> None:
        """Take an adapter away."""
        del self._layers[name]
        for part in self._components.values():
            part.restore()
            del part.layers[name]

    def of_texts(self, mix: Mix) -> Mix:
        """What of a mix changes how texts are encoded. AdapterGone when one of it is not here."""
        if any(name not in self._layers for name, _ in mix):
            raise AdapterGone("an adapter of the request was taken away; ask again")
        return tuple(
            (name, weight)
            for name, weight in mix
            if any(component != self.model.denoiser for component, _ in self._layers[name])
        )

    def use(self, components: Sequence[str], rows: Sequence[Mix]) -> None:
        """Have the next passes of `components` take these mixes, one a row; those of rows with the
        same are best beside each other."""
        for component in components:
            self._components[component].stand_beside(tuple(rows))

    def merge(self, mix: Mix) -> None:
        """Have the next passes of the denoiser take this mix in all rows, by merged weights."""
        self._components[self.model.denoiser].merge(mix)


class _Component:
    """A part of the base, with its own weights, merged ones, or adapters beside them."""

    def __init__(self, part: nn.Module) -> None:
        self.part = part
        self.layers: dict[str, dict[str, Layer]] = {}  # by adapter, then module
        self.now: tuple[str, Any] = ("own", None)  # what is computed with
        self.own: dict[Changeable, nn.Parameter] = {}  # weights put aside
        self.hooks: list[Any] = []

    def restore(self) -> None:
        """The base alone."""
        for hook in self.hooks:
            hook.remove()
        for module, weight in self.own.items():
            module.weight = weight
        self.hooks, self.own, self.now = [], {}, ("own", None)

    @torch.no_grad()
    def merge(self, mix: Mix) -> None:
        if self.now == ("merged", mix):
            return
        self.restore()
        # One after the other: the changes of all layers together are as large as the base.
        for name in sorted({name for adapter, _ in mix for name in self.layers[adapter]}):
            module = self._module(name)
            merged = own = module.weight.float()
            for adapter, weight in mix:
                if (layer := self.layers[adapter].get(name)) is not None:
                    merged = merged + weight * layer.change(own)
            self.own[module] = cast(nn.Parameter, module.weight)
            module.weight = nn.Parameter(merged.to(module.weight.dtype), requires_grad=False)
        self.now = ("merged", mix)

    def stand_beside(self, rows: tuple[Mix, ...]) -> None:
        if self.now == ("beside", rows):
            return
        self.restore()
        groups = [(mix, len(list(group))) for mix, group in groupby(rows)]
        for name in sorted(
            {n for mix, _ in groups for adapter, _ in mix for n in self.layers[adapter]}
        ):
            changes, start = [], 0
            for mix, count in groups:
                for adapter, weight in mix:
                    if (layer := self.layers[adapter].get(name)) is not None:
                        changes.append((slice(start, start + count), layer, weight))
                start += count
            self.hooks.append(self._module(name).register_forward_hook(_hook(changes)))
        self.now = ("beside", rows)

    def _module(self, name: str) -> Changeable:
        module = self.part.get_submodule(name)
        assert isinstance(module, Changeable)
        return module


def _hook(changes: Sequence[tuple[slice, Layer, float]]) -> Any:
    """Adds to a layer's output, [rows, ..., out] or [rows, out, h, w], what adapters with their
    weights change in some of its rows."""

    def add(module: Changeable, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        before = inputs[0]
        plain = output.clone() if any(layer.gain is not None for _, layer, _ in changes) else output
        for rows, layer, weight in changes:
            after = output[rows]
            if layer.gain is not None:
                along = (-1, 1, 1) if isinstance(module, nn.Conv2d) else (-1,)
                own = plain[rows] if module.bias is None else plain[rows] - module.bias.view(along)
                after += weight * layer.gain.view(along) * own
            if isinstance(module, nn.Conv2d):
                found = module._conv_forward(before[rows], layer.down, None).flatten(2)
                up = layer.up.expand(len(found), -1, -1)
                after.view(*after.shape[:2], -1).baddbmm_(up, found, alpha=weight)
            else:
                found = before[rows].flatten(0, -2) @ layer.down.T
                after.view(-1, after.shape[-1]).addmm_(found, layer.up.T, alpha=weight)

    return add
