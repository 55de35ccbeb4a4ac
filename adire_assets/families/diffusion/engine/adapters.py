"""The adapters on one base: of a forward pass, each row takes its own.

A row's mix names adapters and weights: {indigo: 0.7, kampala: 0.3} adds 0.7 times what the one
changes and 0.3 times what the other does; the empty one is the bare base. Where all rows want the
same, the denoiser computes with merged weights, as fast as without any adapter; the base's own are
put aside for as long, never changed. Otherwise each row has low-rank matrices of its own, and two
batched matrix products add what its mix changes to each layer's output, in place. That is as much
work as one adapter for all rows would be, however many there are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from .adapter_layers import Layer, Layers, read, weights_of
from .architecture import Architecture
from .layouts import set_weight, unpacked

Mix = tuple[tuple[str, float], ...]  # (adapter, weight), sorted by name; () is the bare base
Changeable = nn.Linear | nn.Conv2d


class AdapterGone(RuntimeError):
    """An adapter that was taken away, in one sentence."""


def mix_of(weights: Mapping[str, float]) -> Mix:
    """The mix of adapters by their weights; those of weight 0 are left out."""
    return tuple(sorted((name, float(weight)) for name, weight in weights.items() if weight))


class Adapters:
    """The adapters on the base `model`. `read` and `add` may be called during a pass, from any
    thread; all else is for the one that draws, between passes."""

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
        """The layers of the adapter in a folder, to be put on with `add`; changes nothing here.
        AdapterError when it does not fit the base."""
        return read(folder, self._weights)

    def add(self, name: str, layers: Layers) -> None:
        """Put an adapter on the base under a name that none has."""
        if name in self._layers:
            raise ValueError(f"there is an adapter {name} already")
        for component, part in self._components.items():
            part.layers[name] = {
                module: layer for (where, module), layer in layers.items() if where == component
            }
        self._layers[name] = layers

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


@dataclass(frozen=True)
class _Changes:
    """What mixes change in a layer; lower ranks are filled up with zeros.

    `down`: [mixes, rank, in], of a convolution [mixes, rank, in, height, width]; `up`: [mixes, out,
    rank], by the weights of the mix; `gain`: [mixes, out], None where no adapter is a DoRA.
    """

    down: Tensor
    up: Tensor
    gain: Tensor | None


@dataclass(frozen=True)
class _Rows:
    """Which mix each row of a pass takes: `each` [rows]; and `groups`, [groups], of equally many
    neighbouring rows: as many as divide each run of rows with one mix."""

    each: Tensor
    groups: Tensor


class _Component:
    """A part of the base, with its own weights, merged ones, or adapters beside them."""

    def __init__(self, part: nn.Module) -> None:
        self.part = part
        self.layers: dict[str, dict[str, Layer]] = {}  # by adapter, then module
        self.now: tuple[str, Any] = ("own", None)  # what is computed with
        self.own: dict[Changeable, nn.Parameter] = {}  # weights put aside
        self.hooks: list[Any] = []
        self.rows: _Rows | None = None  # of the next pass, where adapters stand beside

    def restore(self) -> None:
        """The base alone."""
        for hook in self.hooks:
            hook.remove()
        for module, weight in self.own.items():
            module.weight = weight
        self.hooks, self.own, self.now, self.rows = [], {}, ("own", None), None

    @torch.no_grad()
    def merge(self, mix: Mix) -> None:
        if self.now == ("merged", mix):
            return
        self.restore()
        # One after the other: the changes of all layers together are as large as the base.
        for name in self._changed([mix]):
            module = self._module(name)
            merged = own = unpacked(module.weight).float()
            for adapter, weight in mix:
                if (layer := self.layers[adapter].get(name)) is not None:
                    merged = merged + weight * layer.change(own)
            self.own[module] = cast(nn.Parameter, module.weight)
            set_weight(module, merged.to(module.weight.dtype))
        self.now = ("merged", mix)

    @torch.no_grad()
    def stand_beside(self, rows: tuple[Mix, ...]) -> None:
        mixes = tuple(sorted(set(rows)))
        if self.now != ("beside", mixes):
            self.restore()
            for name in self._changed(mixes):
                hook = self._hook(self._stack(name, mixes))
                self.hooks.append(self._module(name).register_forward_hook(hook))
            self.now = ("beside", mixes)
        each = torch.tensor([mixes.index(mix) for mix in rows])
        together = math.gcd(*torch.unique_consecutive(each, return_counts=True)[1].tolist())
        device = next(self.part.parameters()).device
        self.rows = _Rows(each.to(device), each[::together].to(device))

    def _changed(self, mixes: Sequence[Mix]) -> list[str]:
        """The modules that these change."""
        return sorted({n for mix in mixes for adapter, _ in mix for n in self.layers[adapter]})

    def _stack(self, name: str, mixes: Sequence[Mix]) -> _Changes:
        """What each of these mixes changes in a module."""
        found = [
            [
                (layer, weight)
                for adapter, weight in mix
                if (layer := self.layers[adapter].get(name)) is not None
            ]
            for mix in mixes
        ]
        one = next(layer for layers in found for layer, _ in layers)
        rank = max(sum(len(layer.down) for layer, _ in layers) for layers in found)
        down = one.down.new_zeros(len(mixes), rank, *one.down.shape[1:])
        up = one.up.new_zeros(len(mixes), len(one.up), rank)
        gain = None
        if any(layer.gain is not None for layers in found for layer, _ in layers):
            gain = one.up.new_zeros(len(mixes), len(one.up))
        for index, layers in enumerate(found):
            start = 0
            for layer, weight in layers:
                end = start + len(layer.down)
                down[index, start:end], up[index, :, start:end] = layer.down, weight * layer.up
                if gain is not None and layer.gain is not None:
                    gain[index] += weight * layer.gain
                start = end
        return _Changes(down, up, gain)

    def _hook(self, mixes: _Changes) -> Any:
        """Adds to a layer's output, [rows, ..., out] or [rows, out, h, w], what the mixes of the
        rows change in it."""

        def add(module: Changeable, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            assert self.rows
            before = inputs[0]
            rows = self.rows.groups if isinstance(module, nn.Linear) else self.rows.each
            down, up = mixes.down.index_select(0, rows), mixes.up.index_select(0, rows)
            gain = None if mixes.gain is None else mixes.gain.index_select(0, rows)
            # As [rows, positions, channels], the memory layout of prepacked convolutions' outputs.
            if isinstance(module, nn.Linear):
                after = output.view(len(rows), -1, output.shape[-1])
                low = before.reshape(len(rows), -1, before.shape[-1]) @ down.mT
            else:
                after = output.permute(0, 2, 3, 1).view(len(rows), -1, output.shape[1])
                low = _convolved(module, before, down).flatten(2).mT
            if gain is not None:
                _amplify(after, gain[:, None], module.bias)
            after.baddbmm_(low, up.mT)

        return add

    def _module(self, name: str) -> Changeable:
        module = self.part.get_submodule(name)
        assert isinstance(module, Changeable)
        return module


def _convolved(module: nn.Conv2d, before: Tensor, down: Tensor) -> Tensor:
    """[rows, rank, h, w]: each row convolved with its own of `down`, [rows, rank, in, height,
    width], as the module does it."""
    if module.kernel_size == module.stride == (1, 1) and module.padding == (0, 0):
        return (down.flatten(2) @ before.flatten(2)).unflatten(2, before.shape[2:])
    padding: Any = module.padding
    if module.padding_mode != "zeros":
        before = pad(before, module._reversed_padding_repeated_twice, mode=module.padding_mode)
        padding = 0
    # One image in which each row is a group of channels: one call, however many mixes there are.
    found = conv2d(
        before.flatten(0, 1)[None],
        down.flatten(0, 1),
        stride=module.stride,
        padding=padding,
        dilation=module.dilation,
        groups=len(down) * module.groups,
    )
    return found[0].unflatten(0, down.shape[:2])


def _amplify(output: Tensor, gain: Tensor, bias: Tensor | None) -> None:
    """Adds in place what a DoRA's magnitudes change: `gain` times the output without the bias."""
    output.addcmul_(output if bias is None else output - bias, gain)
