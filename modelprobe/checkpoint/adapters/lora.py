"""LoRA layers in a weight file: two small matrices per layer, whose product is added to the layer's weight.

Names of PEFT (`base_model.model.X.lora_A.weight`), of diffusers (`X.lora.down.weight`) and of kohya's trainer
(`lora_unet_X.lora_down.weight`, `.alpha`). The scale stands in `adapter_config.json` beside the file, or in tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelprobe.checkpoint.records import Checkpoint, TensorEntry

ADAPTER_CONFIG = "adapter_config.json"
MAX_CONFIG_BYTES = 1 << 20
MAX_LOOKED_AT = 256
"""Tensors among which one of an adapter is looked for: it has little else."""

_PART = re.compile(
    r"(?P<module>.+?)\.(?:"
    r"(?P<word>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_down|lora_up|lora\.down|lora\.up)"
    r"(?:\.(?P<adapter>(?!weight$|bias$)[^.]+))?(?:\.(?P<leaf>weight|bias))?"
    r"|(?P<magnitude>lora_magnitude_vector)(?:\.[^.]+)?(?:\.weight)?"
    r"|(?P<alpha>alpha))"
)
_INNER = re.compile(r"\.(?:base_layer|modules_to_save(?:\.default)?)\.")
"""What PEFT puts into the names of tensors that it only keeps."""

_PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class LoraLayer:
    """One layer: its name without PEFT's prefix, `down` (rank first) and `up` (rank last), and what goes with them.

    `embedding` layers are transposed. `alpha` is the tensor that holds the scale's numerator, in kohya's files.
    """

    module: str
    down: TensorEntry
    up: TensorEntry
    embedding: bool = False
    bias: TensorEntry | None = None
    magnitude: TensorEntry | None = None
    alpha: TensorEntry | None = None

    @property
    def rank(self) -> int:
        """The inner dimension of the product."""
        return self.down.shape[0]


@dataclass(frozen=True)
class Lora:
    """The LoRA of a file: its layers, the tensors that replace whole ones of the base, and the configuration.

    `config` is empty where no `adapter_config.json` lies beside the file. `incomplete` are layers with one matrix.
    """

    path: str
    layers: tuple[LoraLayer, ...]
    replaced: Mapping[str, TensorEntry]
    config: Mapping[str, Any] = field(default_factory=dict)
    incomplete: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that occur, each once."""
        return tuple(sorted({layer.rank for layer in self.layers}))

    def alpha(self, layer: LoraLayer) -> float | None:
        """The alpha of a layer by the configuration; None where there is none."""
        return self._configured(layer, "alpha_pattern", "lora_alpha")

    @property
    def contradiction(self) -> str:
        """The first layer whose rank is not the configured one, in words: its scale is not known then."""
        for layer in self.layers:
            rank = self._configured(layer, "rank_pattern", "r")
            if rank is not None and rank != layer.rank:
                return f"{layer.module} has rank {layer.rank}, and {ADAPTER_CONFIG} says {rank:g}"
        return ""

    def _configured(self, layer: LoraLayer, pattern: str, otherwise: str) -> float | None:
        """A number of the configuration for a layer: its own by a pattern, or the one of all."""
        patterns = self.config.get(pattern)
        for key, value in patterns.items() if isinstance(patterns, dict) else ():
            if isinstance(value, (int, float)) and _ends_with(layer.module, str(key)):
                return float(value)
        found = self.config.get(otherwise)
        return float(found) if isinstance(found, (int, float)) and not isinstance(found, bool) else None

    def scale(self, layer: LoraLayer, alpha: float | None) -> float | None:
        """What the product of a layer is multiplied with: alpha over the rank, or over its root (rsLoRA)."""
        if alpha is None:
            return None
        return alpha / (layer.rank**0.5 if self.config.get("use_rslora") is True else layer.rank)

    @property
    def base(self) -> str:
        """The name of the base as the configuration has it."""
        found = self.config.get("base_model_name_or_path")
        return found if isinstance(found, str) else ""


def _ends_with(module: str, pattern: str) -> bool:
    """PEFT's way to match the keys of its patterns: a module's last segments, as a regular expression."""
    try:
        return re.fullmatch(rf"(?:.*\.)?(?:{pattern})", module) is not None
    except re.error:
        return False


def find_lora(found: Checkpoint) -> Lora | None:
    """The LoRA that a file is; None for any other file. Reads `adapter_config.json` beside it, nothing else."""
    if not any(".lora" in entry.name for entry in found.tensors[:MAX_LOOKED_AT]):
        return None
    branch = found.branch
    start = len(branch.path) if branch else 0
    named = {".".join(entry.path[start:]): entry for entry in found.tensors_in(branch)} if branch else {}
    parts: dict[tuple[str, str], dict[str, TensorEntry]] = {}
    replaced: dict[str, TensorEntry] = {}
    adapters: dict[str, None] = {}
    for name, entry in named.items():
        match = _PART.fullmatch(name)
        if match is None or (match["alpha"] and not any(n.startswith(f"{match['module']}.lora") for n in named)):
            replaced[_INNER.sub(".", _without_prefix(name))] = entry
            continue
        adapter = match["adapter"] or "default"
        adapters[adapter] = None
        role = match["magnitude"] or match["alpha"] or f"{match['word']}{'.bias' if match['leaf'] == 'bias' else ''}"
        parts.setdefault((_without_prefix(match["module"]), adapter), {})[role] = entry
    layers, incomplete = [], []
    for (module, _), held in parts.items():
        layer = _lora_layer(module, held)
        if layer is None:
            incomplete.append(module)
        else:
            layers.append(layer)
    several = tuple(adapters) if len(adapters) > 1 else ()
    return Lora(found.path, tuple(layers), replaced, _config(found.path), tuple(incomplete), several)


def _without_prefix(name: str) -> str:
    return name.removeprefix(_PEFT_PREFIX)


def _lora_layer(module: str, held: Mapping[str, TensorEntry]) -> LoraLayer | None:
    pairs = (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B"), ("lora_down", "lora_up"))
    for first, second in (*pairs, ("lora.down", "lora.up")):
        down, up = held.get(first), held.get(second)
        if down is not None and up is not None and len(down.shape) == len(up.shape) >= 2:
            if down.shape[0] != up.shape[1] or not down.shape[0]:
                return None
            return LoraLayer(
                module, down, up, "embedding" in first, held.get(f"{second}.bias"), held.get("lora_magnitude_vector"),
                held.get("alpha"),
            )  # fmt: skip
    return None


def _config(path: str) -> Mapping[str, Any]:
    """`adapter_config.json` beside a file; empty where there is none that can be read."""
    from modelprobe.checkpoint.bytes.json import parse_json
    from modelprobe.checkpoint.bytes.source import FileSource
    from modelprobe.errors import ProbeError

    if "://" in path:
        return {}
    place = Path(path)
    place = (place if place.is_dir() else place.parent) / ADAPTER_CONFIG
    if not place.is_file():
        return {}
    try:
        with FileSource(place) as source:
            value = parse_json(source.read(0, MAX_CONFIG_BYTES), str(place), "text")
    except ProbeError:
        return {}
    return value if isinstance(value, dict) else {}


def describe(lora: Lora) -> str:
    """Rank, alpha and layers in words: `rank 8, alpha 16, 24 layers`."""
    ranks = ", ".join(map(str, lora.ranks)) or "?"
    alphas = sorted({alpha for layer in lora.layers if (alpha := lora.alpha(layer)) is not None})
    held = any(layer.alpha is not None for layer in lora.layers)
    shown = ", ".join(f"{alpha:g}" for alpha in alphas) or (
        "in the file" if held else f"unknown without {ADAPTER_CONFIG}"
    )
    kind = "DoRA, " if any(layer.magnitude is not None for layer in lora.layers) else ""
    kind += "rank-stabilized, " if lora.config.get("use_rslora") is True else ""
    layers = "1 layer" if len(lora.layers) == 1 else f"{len(lora.layers):,} layers"
    doubt = f"; {lora.contradiction}" if lora.contradiction else ""
    return f"{kind}rank {ranks}, alpha {shown}, {layers}{doubt}"


@dataclass(frozen=True)
class LoraFit:
    """Which tensor of a base each layer changes, and the modules that have none of the right shape.

    `several` are modules whose name, without dots, is that of two tensors; `transposed` those whose weight in the base
    is inputs x outputs.
    """

    weights: Mapping[str, str]
    lacking: tuple[str, ...]
    several: tuple[str, ...] = ()
    transposed: frozenset[str] = frozenset()


def fit_to_base(lora: Lora, shapes: Mapping[str, tuple[int, ...]]) -> LoraFit:
    """Find the layers among the tensors of a base, by names and shapes.

    The names may have other leading segments: the same ones for all layers.
    """
    modules = [layer.module for layer in lora.layers]
    transposed = lora.config.get("fan_in_fan_out") is True
    best = LoraFit({}, tuple(modules))
    for rename in _renamings(modules, shapes):
        weights, several = {}, []
        for layer in lora.layers:
            names = [name for name in rename(layer.module) if _fits(layer, shapes[name], transposed)]
            if names:
                weights[layer.module] = names[0]
            if len(names) > 1:
                several.append(layer.module)
        if len(weights) > len(best.weights):
            lacking = tuple(module for module in modules if module not in weights)
            best = LoraFit(weights, lacking, tuple(several), _transposed_layers(lora, weights, shapes))
    return best


def _transposed_layers(lora: Lora, weights: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> frozenset[str]:
    """The layers whose weight is inputs x outputs, as in GPT-2. PEFT does not go by the flag for an `nn.Linear`, which
    a weight that is not square shows; square ones are taken for such layers too where one is met.
    """
    if lora.config.get("fan_in_fan_out") is not True:
        return frozenset()
    flat = [layer for layer in lora.layers if len(layer.down.shape) == 2 and not layer.embedding]
    known = [(layer, shapes[weights[layer.module]]) for layer in flat if layer.module in weights]
    apart = [(layer, shape) for layer, shape in known if layer.up.shape[0] != layer.down.shape[1]]
    linear = {layer.module for layer, shape in apart if shape[:2] == (layer.up.shape[0], layer.down.shape[1])}
    square = {layer.module for layer, _ in known} - {layer.module for layer, _ in apart}
    return frozenset(layer.module for layer, _ in known) - linear - (square if linear else set())


def _renamings(modules: Sequence[str], shapes: Mapping[str, tuple[int, ...]]) -> list[Any]:
    """Ways from a module's name to that of its weight, or to several that it may be."""
    if not modules:
        return []
    first = modules[0].split(".")
    ways: list[Any] = []
    for depth in range(min(4, len(first))):
        tail = ".".join(first[depth:])
        heads = [
            name[: -len(f"{tail}.weight")]
            for name in shapes
            if name == f"{tail}.weight" or name.endswith(f".{tail}.weight")
        ]
        ways += [_Prefixed(depth, head, shapes) for head in dict.fromkeys(heads)]
    flat: dict[str, list[str]] = {}
    for name in shapes:
        if name.endswith(".weight"):
            flat.setdefault(name.removesuffix(".weight").replace(".", "_"), []).append(name)
    for prefix in ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", ""):
        ways.append(lambda module, prefix=prefix: flat.get(module.removeprefix(prefix), []))
    return ways


@dataclass(frozen=True)
class _Prefixed:
    """So many leading segments less, and these in front."""

    depth: int
    head: str
    shapes: Mapping[str, tuple[int, ...]]

    def __call__(self, module: str) -> list[str]:
        name = f"{self.head}{'.'.join(module.split('.')[self.depth :])}.weight"
        return [name] if name in self.shapes else []


def _fits(layer: LoraLayer, shape: tuple[int, ...], transposed: bool) -> bool:
    down, up = layer.down.shape, layer.up.shape
    if layer.embedding:
        return shape == (down[1], up[0])
    wanted = (up[0], *down[1:])
    return shape == wanted or (transposed and shape == wanted[::-1]) or (len(down) == 2 and shape == (*wanted, 1, 1))


def fitting_text(lora: Lora, shapes: Mapping[str, tuple[int, ...]], base: str) -> str:
    """Whether an adapter fits a base, in words."""
    fit = fit_to_base(lora, shapes)
    if not fit.lacking:
        return f"it fits {base}"
    return f"{len(fit.lacking):,} of its layers have no weight of their shape in {base}, such as {fit.lacking[0]}"
