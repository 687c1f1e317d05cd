"""The network that a run trains, and what it starts from: nothing, a network, a checkpoint."""

from dataclasses import dataclass
from typing import Any, Dict, Optional, Sequence, Tuple

import mxnet as mx

from data.arguments import READERS
from log.notices import Notices
from model import ModelError
from model.checkpoint import Generation
from model.network import Network, load_network
from model.network.checking import load_symbol
from model.network.layers import architecture
from model.network.params import check_image_shape
from model.plan import Plan, before_flags
from model.training.finetune import starting_params
from symbol_xception import ORIGINAL_FILTERS, REDUCED_FILTERS, get_xception_symbol


@dataclass(frozen=True)
class Origin:
    """What a run starts from or resumes: network and pixels.

    network : the trained network of --pretrained, None if the run resumes or has none.
    symbol : of that network or of the checkpoint; None for a new one.
    mean, std : of the pixels, by channel.
    readers : --data-readers.
    pretrained : (prefix, epoch) of the network that the run once started from, or None.
    """

    network: Optional[Network]
    symbol: Optional[mx.sym.Symbol]
    mean: Tuple[float, ...]
    std: Tuple[float, ...]
    readers: int
    pretrained: Optional[Tuple[str, int]]


@dataclass(frozen=True)
class Architecture:
    """The network as it is saved, and the arguments that made it.

    filters : "reduced", "original", or the numbers of a checkpoint that has others.
    """

    symbol: mx.sym.Symbol
    filters: Any
    padding: str
    bn_eps: float


def origin_of(plan: Plan, generation: Optional[Generation]) -> Origin:
    """Return what the run starts from. Unset flags take the value of the checkpoint or network."""
    data, pretrained = plan.data, plan.finetuning.pretrained
    network = symbol = None
    mean: Sequence[float] = (0, 0, 0)
    std: Sequence[float] = (1, 1, 1)
    readers = READERS
    if generation:
        saved = {**before_flags(), **generation.run["settings"]}
        symbol = load_symbol(generation.symbol_json, f"{plan.saving.model_prefix}-symbol.json")
        mean, std, readers = saved["rgb_mean"], saved["rgb_std"], saved["data_readers"]
        pretrained = pretrained or saved.get("pretrained")
    elif pretrained:
        network = load_network(*pretrained)
        symbol, mean, std = network.symbol, network.mean, network.std
    return Origin(
        network,
        symbol,
        data.rgb_mean or tuple(mean),
        data.rgb_std or tuple(std),
        data.data_readers or readers,
        pretrained,
    )


def build_network(plan: Plan, num_classes: int, origin: Origin) -> Architecture:
    """Return the network that the run trains: what the flags don't state is as in the network that
    it starts from or resumes. Raises ModelError if the images are too small for it."""
    filters = {"reduced": REDUCED_FILTERS, "original": ORIGINAL_FILTERS}
    known: Dict[str, Any] = {"filter_list": REDUCED_FILTERS, "padding": "half", "bn_eps": 2e-5}
    if origin.symbol is not None:
        pretrained = plan.finetuning.pretrained if origin.network else None
        known = _architecture_of(origin.symbol, (pretrained or [plan.saving.model_prefix])[0])
    wanted = plan.network.filters
    filter_list = filters[wanted] if wanted else known["filter_list"]
    names = {numbers: name for name, numbers in filters.items()}
    padding = plan.network.padding or known["padding"]
    symbol = get_xception_symbol(
        num_classes=num_classes,
        filter_list=filter_list,
        padding=padding,
        dropout=plan.network.dropout,
        bn_mom=plan.network.bn_mom,
        bn_eps=known["bn_eps"],
        workspace=plan.devices.workspace,
    )
    check_image_shape(symbol, plan.data.image_shape)
    saved_filters = names.get(filter_list) or list(filter_list)
    return Architecture(symbol, saved_filters, padding, known["bn_eps"])


def _architecture_of(symbol: mx.sym.Symbol, prefix: str) -> Dict[str, Any]:
    try:
        return architecture(symbol)
    except ModelError as error:
        raise ModelError(f"{prefix}-symbol.json: {error}") from None


def pretrained_params(
    plan: Plan, symbol: mx.sym.Symbol, origin: Origin, notices: Notices
) -> Optional[Tuple[dict, dict]]:
    """Return (arg_params, aux_params) of the network of --pretrained, None without one."""
    if not origin.network:
        return None
    assumption = origin.network.assumption(mean=plan.data.rgb_mean, std=plan.data.rgb_std)
    if assumption:
        notices.warn(assumption)
    source = ",".join(map(str, origin.pretrained or ()))
    arg_params, aux_params, line = starting_params(origin.network, symbol, source)
    notices.info(line)
    return arg_params, aux_params
