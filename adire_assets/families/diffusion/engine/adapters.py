"""The adapters on one base: of a forward pass, each row takes its own.

A row's mix names adapters and weights: {indigo: 0.7, kampala: 0.3} adds 0.7 times what the one
changes and 0.3 times what the other does; the empty one is the bare base. Where all rows want the
same, the denoiser computes with merged weights, as fast as without any adapter. Else the first
matrices of all adapters in the pass stand below the base's weight, so that one product gives both,
and each row masks the columns that are not its own before the second matrices. A layer costs one
small product more, however many adapters there are. Neither touches the base's own weights: they
are put aside for as long, and a pass without adapters has them back bit for bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
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


@dataclass(frozen=True)
class _Side:
    """What stands beside a layer's weight for the adapters of a pass."""

    layers: tuple[tuple[str, Layer], ...]  # by adapter
    up: Tensor  # [out, columns], one column for each row below the weight


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
        """Have the next passes of `components` take these mixes, one a row."""
        for component in components:
            self._components[component].stand_beside(tuple(rows))

    def merge(self, mix: Mix) -> None:
        """Have the next passes of the denoiser take this mix in all rows, by merged weights."""
        self._components[self.model.denoiser].merge(mix)


class _Component:
    """A part of the base, with its own weights, merged ones, or others below them."""

    def __init__(self, part: nn.Module) -> None:
        self.part = part
        self.layers: dict[str, dict[str, Layer]] = {}  # by adapter, then module
        self.now: tuple[str, Any] = ("own", None)  # what the weights are for
        self.own: dict[Changeable, tuple[nn.Parameter, nn.Parameter | None]] = {}  # put aside
        self.hooks: list[Any] = []
        self.rows: tuple[Mix, ...] = ()
        self.masks: dict[Any, Tensor] = {}  # of these rows, by the columns of a layer

    def restore(self) -> None:
        """The base's own weights."""
        for hook in self.hooks:
            hook.remove()
        for module, (weight, bias) in self.own.items():
            module.weight, module.bias = weight, bias
        self.hooks, self.own, self.now, self.masks = [], {}, ("own", None), {}

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
            self._put(module, merged.to(module.weight.dtype), module.bias)
        self.now = ("merged", mix)

    @torch.no_grad()
    def stand_beside(self, rows: tuple[Mix, ...]) -> None:
        if rows != self.rows:
            self.rows, self.masks = rows, {}
        adapters = sorted({name for mix in rows for name, _ in mix})
        if self.now == ("beside", adapters):
            return
        self.restore()
        for name in sorted({name for adapter in adapters for name in self.layers[adapter]}):
            module = self._module(name)
            layers = tuple((a, self.layers[a][name]) for a in adapters if name in self.layers[a])
            side = _Side(layers, torch.cat([layer.up for _, layer in layers], dim=1))
            below = torch.cat([module.weight, *(layer.down for _, layer in layers)])
            bias = module.bias
            if bias is not None:
                bias = torch.cat([bias, bias.new_zeros(len(below) - len(bias))])
            self._put(module, below, bias)
            self.hooks.append(module.register_forward_hook(self._hook(side)))
        self.now = ("beside", adapters)

    def _module(self, name: str) -> Changeable:
        module = self.part.get_submodule(name)
        assert isinstance(module, Changeable)
        return module

    def _put(self, module: Changeable, weight: Tensor, bias: Tensor | None) -> None:
        own = module.weight, module.bias
        self.own[module] = cast("tuple[nn.Parameter, nn.Parameter | None]", own)
        module.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            module.bias = nn.Parameter(bias, requires_grad=False)

    def _hook(self, side: _Side) -> Any:
        def add(module: Changeable, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            """The output [rows, ..., out] or [rows, out, h, w] with what the rows' adapters add."""
            channels = 1 if isinstance(module, nn.Conv2d) else -1
            size, columns = side.up.shape
            own, found = output.split([size, columns], dim=channels)
            mask = self._mask(side)
            if isinstance(module, nn.Conv2d):
                added = F.conv2d(found * mask[:, :, None, None], side.up[:, :, None, None])
            else:
                added = F.linear(found * _along(mask, found, channels), side.up)
            gain = self._gain(side)
            if gain is not None:
                bias = self.own[module][1]
                plain = own if bias is None else own - _along(bias[None], own, channels)
                added = added + _along(gain, own, channels) * plain
            return own + added

        return add

    def _mask(self, side: _Side) -> Tensor:
        """[rows, columns]: the weight of each column in a row's mix."""
        key = tuple((adapter, layer.down.shape[0]) for adapter, layer in side.layers)
        if key not in self.masks:
            ranks = torch.tensor([rank for _, rank in key])
            shares = [[dict(mix).get(adapter, 0.0) for adapter, _ in key] for mix in self.rows]
            mask = torch.tensor(shares).repeat_interleave(ranks, dim=1)
            self.masks[key] = mask.to(side.up.device, side.up.dtype)
        return self.masks[key]

    def _gain(self, side: _Side) -> Tensor | None:
        """[rows, out] of the DoRAs among the adapters."""
        gains = [(a, layer.gain) for a, layer in side.layers if layer.gain is not None]
        if not gains:
            return None
        if (key := id(side)) not in self.masks:
            found = torch.zeros(len(self.rows), len(gains[0][1]))
            for row, mix in enumerate(self.rows):
                for adapter, gain in gains:
                    found[row] += dict(mix).get(adapter, 0.0) * gain.float().cpu()
            self.masks[key] = found.to(side.up.device, side.up.dtype)
        return self.masks[key]


def _along(values: Tensor, output: Tensor, channels: int) -> Tensor:
    """[rows, channels] values, shaped to be multiplied with an output."""
    ones = [1] * (output.dim() - 2)
    shape = (len(values), -1, *ones) if channels == 1 else (len(values), *ones, -1)
    return values.view(shape)
