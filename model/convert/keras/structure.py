"""What a whole Keras model computes, read from its configuration.

Models within models are opened, and what does nothing in inference (dropout, augmentation) is left
out. Then the layers are followed from the input to the output, as they stand in Xception:

    Rescaling, Normalization ... -> Xception -> pooling -> Dense -> activation

Whatever else is there is refused by its name: weights of the right shapes prove nothing.
"""

import re
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np

from model import ModelError
from model.network.layers import Layer, layers
from symbol_xception import ORIGINAL_FILTERS

_MODELS = ("Functional", "Model", "Sequential")
_ELEMENTWISE = {
    # Keras 3's operations, and TensorFlow's.
    "TrueDivide": "/", "Divide": "/", "Subtract": "-", "Multiply": "*", "Add": "+",
    "math.truediv": "/", "math.divide": "/", "math.subtract": "-", "math.multiply": "*",
    "math.add": "+", "__operators__.add": "+",
}  # fmt: skip
#: What gives its input in inference.
_IDENTITY = {
    "Dropout", "SpatialDropout2D", "AlphaDropout", "GaussianDropout", "GaussianNoise",
    "ActivityRegularization", "Identity",
    "RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomContrast",
    "RandomBrightness", "RandomShear", "RandomHue", "RandomSaturation", "RandomSharpness",
    "RandomColorJitter", "RandomErasing", "RandomPerspective",
}  # fmt: skip


class Place(NamedTuple):
    """Where a layer is within its model: the `number`-th of `of` layers of class `kind`."""

    kind: str
    number: int
    of: int


@dataclass(eq=False)
class Node:
    """A call of a layer.

    names, places : of the models that it is in, from the outermost in, and its own.
    constants : the numbers that are arguments, next to `inputs`.
    """

    kind: str
    config: Dict[str, Any]
    names: Tuple[str, ...]
    places: Tuple[Place, ...]
    inputs: List["Node"]
    constants: List[Any] = field(default_factory=list)
    consumers: List["Node"] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.names[-1]

    def __str__(self) -> str:
        return f"layer {self.name} ({self.kind})"


@dataclass(frozen=True)
class Structure:
    """What was followed.

    layers : each convolution and its BatchNorm, in the order of model.network.layers.layers.
    epsilon : of every BatchNorm.
    preprocessing : layers before Xception, which shift and scale the pixels.
    image_shape : (3, height, width), None where the model takes images of any size.
    pooled : whether the model pools.
    head : the Dense layer after the pooling, None if there is none.
    activation : its activation: softmax, sigmoid or linear.
    """

    layers: List[Node]
    epsilon: float
    preprocessing: List[Node]
    image_shape: Optional[Tuple[int, int, int]]
    pooled: bool
    head: Optional[Node]
    activation: str


def follow(config: Dict[str, Any]) -> Structure:
    """Return the structure of a model. Raises ModelError, without the file's name, naming the first
    layer that is not Xception's."""
    source = Node("InputLayer", {}, ("the input",), (), [])
    end = _expand(config, (), (), source)
    _connect(end)
    preprocessing, first = _preprocessing(source)
    walk = _Xception(first)
    pooled, head, activation = _head(walk.end)
    epsilons = {float(node.config.get("epsilon", 1e-3)) for node in walk.found[1::2]}
    if len(epsilons) > 1:
        raise ModelError(f"its BatchNormalization layers have several epsilons: {epsilons}")
    return Structure(
        walk.found, epsilons.pop(), preprocessing, _image_shape(config), pooled, head, activation
    )


def loss_activation(training: Dict[str, Any]) -> Optional[str]:
    """Return the activation that the loss of a compiled model applies itself, None if it has none:
    softmax or sigmoid for losses `from_logits`."""
    loss = training.get("loss")
    if not isinstance(loss, dict) or not (loss.get("config") or {}).get("from_logits"):
        return None
    return {
        "CategoricalCrossentropy": "softmax",
        "SparseCategoricalCrossentropy": "softmax",
        "BinaryCrossentropy": "sigmoid",
    }.get(loss.get("class_name", ""))


# From the configuration to a graph


def _layers_of(model: Dict[str, Any]) -> List[Dict[str, Any]]:
    """The configurations of a model's layers. That of an early Sequential is a list of them."""
    config = model["config"]
    return config if isinstance(config, list) else config["layers"]


def _name(layer: Dict[str, Any]) -> str:
    config = layer["config"]
    return str(layer.get("name") or (isinstance(config, dict) and config.get("name")) or "")


def _expand(
    model: Dict[str, Any], names: Tuple[str, ...], places: Tuple[Place, ...], source: Node
) -> Node:
    """Return the output of `model`, whose input is `source`, with the models in it opened."""
    if model["class_name"] not in _MODELS:
        raise ModelError(
            f"its model is of a class of its own, {model['class_name']}: save a Sequential or "
            "functional model, or its weights alone"
        )
    listed = _layers_of(model)
    numbers = _places(listed)

    def call(layer: Dict[str, Any], arguments: List[Any], keywords: Dict[str, Any]) -> Node:
        name = _name(layer)
        own_names, own_places = (*names, name), (*places, numbers[id(layer)])
        inputs = [each for each in arguments if isinstance(each, Node)]
        kind, config = layer["class_name"], layer["config"]
        if keywords.get("training"):
            raise ModelError(f"layer {name} ({kind}) is called with training=True")
        if kind in _MODELS and len(inputs) == 1:
            return _expand(layer, own_names, own_places, inputs[0])
        if _does_nothing(kind, config) and len(inputs) == 1:
            return inputs[0]
        if kind in _ELEMENTWISE and not isinstance(arguments[0], Node):
            raise ModelError(f"layer {name} ({kind}) begins with a number")
        constants = [each for each in arguments if not isinstance(each, Node)]
        if kind == "TFOpLambda":
            kind = config.get("function", kind)
            constants.extend(keywords[key] for key in ("y",) if key in keywords)
        return Node(kind, config, own_names, own_places, inputs, constants)

    if model["class_name"] == "Sequential":
        for layer in listed:
            if layer["class_name"] != "InputLayer":
                source = call(layer, [source], {})
        return source

    by_name = {_name(layer): layer for layer in listed}
    known: Dict[str, Optional[Node]] = {
        _only(model["config"]["input_layers"], "inputs", _name(model)): source
    }

    def output_of(name: str) -> Node:
        if name not in known:
            if name not in by_name:
                raise ModelError(f"layer {name} is not in model {_name(model)}")
            layer = by_name[name]
            known[name] = None
            arguments, keywords = _call_of(layer)
            found = [output_of(x.name) if isinstance(x, _Tensor) else x for x in arguments]
            known[name] = call(layer, found, keywords)
        node = known[name]
        if node is None:
            raise ModelError(f"layer {name} is its own input")
        return node

    return output_of(_only(model["config"]["output_layers"], "outputs", _name(model)))


def _does_nothing(kind: str, config: Dict[str, Any]) -> bool:
    return kind in _IDENTITY or (kind == "Activation" and _activation(config) == "linear")


def _places(listed: List[Dict[str, Any]]) -> Dict[int, Place]:
    """Return the place of each layer's configuration, by its id()."""
    by_class: Dict[str, List[int]] = {}
    for layer in listed:
        kind = re.sub(r"\W", "", layer["class_name"])
        kind = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", kind)
        kind = re.sub(r"([a-z])([A-Z])", r"\1_\2", kind).lower()
        by_class.setdefault(kind, []).append(id(layer))
    return {
        each: Place(kind, number, len(of_class))
        for kind, of_class in by_class.items()
        for number, each in enumerate(of_class)
    }


class _Tensor(NamedTuple):
    """The output of the layer `name`, in a configuration."""

    name: str


def _call_of(layer: Dict[str, Any]) -> Tuple[List[Any], Dict[str, Any]]:
    """Return the arguments of the only call of a layer, tensors as _Tensor."""
    calls = layer.get("inbound_nodes") or []
    if len(calls) != 1:
        raise ModelError(f"layer {_name(layer)} is used {len(calls)} times, not once")
    (made,) = calls
    if isinstance(made, dict):  # Keras 3
        return list(_keras_3_arguments(made["args"])), made.get("kwargs") or {}
    if isinstance(made[0], str):
        made = [made]
    if any(each[0] == "_CONSTANT_VALUE" for each in made):
        raise ModelError(f"layer {_name(layer)} ({layer['class_name']}) begins with a number")
    keywords = {key: value for each in made for key, value in (each[3:] or [{}])[0].items()}
    return [_Tensor(each[0]) for each in made], keywords


def _keras_3_arguments(arguments: Any) -> Iterator[Any]:
    for each in arguments:
        if isinstance(each, list):
            yield from _keras_3_arguments(each)
        elif isinstance(each, dict) and each.get("class_name") == "__keras_tensor__":
            yield _Tensor(each["config"]["keras_history"][0])
        else:
            yield each


def _only(listed: List[Any], what: str, model: str) -> str:
    """The name in Keras' list of a model's inputs or outputs: [[name, 0, 0]] or [name, 0, 0]."""
    names = [listed[0]] if isinstance(listed[0], str) else [each[0] for each in listed]
    if len(names) != 1:
        raise ModelError(f"model {model} has {len(names)} {what}: {', '.join(names)}")
    return names[0]


def _connect(end: Node) -> None:
    """Fill in the consumers of `end` and all that is before it."""
    seen, left = {id(end)}, [end]
    while left:
        node = left.pop()
        for source in node.inputs:
            source.consumers.append(node)
            if id(source) not in seen:
                seen.add(id(source))
                left.append(source)


def _image_shape(config: Dict[str, Any]) -> Optional[Tuple[int, int, int]]:
    """What the model's input layer says, or the first of an early Sequential."""
    listed = _layers_of(config)
    if config["class_name"] != "Sequential":
        name = _only(config["config"]["input_layers"], "inputs", "")
        listed = [layer for layer in listed if _name(layer) == name]
    shape = None
    while shape is None and listed:
        first = listed[0]
        shape = first["config"].get("batch_shape") or first["config"].get("batch_input_shape")
        listed = _layers_of(first) if first["class_name"] in _MODELS else []
    shape = shape or [None] * 4
    if len(shape) != 4 or shape[3] not in (3, None):
        raise ModelError(f"its input has the shape {tuple(shape)}, not (None, height, width, 3)")
    return (3, int(shape[1]), int(shape[2])) if shape[1] and shape[2] else None


# Along the graph


def _next(node: Node) -> Node:
    if len(node.consumers) != 1:
        raise ModelError(f"{node} goes to {len(node.consumers)} layers, in Xception to one")
    return node.consumers[0]


def _expect(node: Node, kind: str, **attributes: Any) -> Node:
    """Raise ModelError where a layer has another class or other attributes than Xception's."""
    if node.kind != kind:
        raise ModelError(f"{node} is where Xception has a layer {kind}")
    for name, wanted in attributes.items():
        found = node.config.get(name, wanted)
        if name == "activation":
            found = _activation(node.config)
        elif isinstance(found, list):
            found = tuple(found)
        elif isinstance(wanted, tuple) and isinstance(found, int):
            found = (found,) * len(wanted)
        if found != wanted:
            raise ModelError(f"{node}: its {name} is {found}, Xception's is {wanted}")
    return node


def _activation(config: Dict[str, Any]) -> str:
    """The name of an activation; Keras 3 may write it as a function's."""
    found = config.get("activation") or "linear"
    return str(found.get("config")) if isinstance(found, dict) else str(found)


_PLAIN = {"activation": "linear", "dilation_rate": (1, 1), "data_format": "channels_last"}


class _Xception:
    """Follows Xception from its first layer `node`.

    found : as Structure.layers. end : the last layer.
    """

    def __init__(self, node: Node):
        self.found: List[Node] = []
        parts: Dict[str, List[Layer]] = {}
        for layer in layers(ORIGINAL_FILTERS):
            parts.setdefault(layer.name.rsplit("_", 1)[0], []).append(layer)
        before = node.inputs[0]
        for name, of_block in parts.items():
            if name == "Entry_flow_b1":
                for layer, stride in zip(of_block, (2, 1)):
                    first = node if layer is of_block[0] else None
                    before = self._relu(self._conv(before, layer, stride, ("valid",), first))
            elif name == "Exit_flow_b6":
                for layer in of_block:
                    before = self._relu(self._separable(before, layer))
            else:
                before = self._residual(before, of_block, relu_first=name != "Entry_flow_b2")
        self.end = before

    def _residual(self, before: Node, of_block: List[Layer], relu_first: bool) -> Node:
        kinds = [node.kind for node in before.consumers]
        aside = "Conv2D" if not of_block[-1].separable else "Add"
        if len(kinds) != 2 or aside not in kinds:
            raise ModelError(
                f"{before} goes to {', '.join(kinds) or 'no layer'}; in Xception to a shortcut too"
            )
        number = kinds.index(aside)
        node: Optional[Node] = before.consumers[1 - number]
        x = before
        for layer in of_block:
            if layer.separable:
                if relu_first:
                    x, node = self._relu(x, node), None
                relu_first = True
                x, node = self._separable(x, layer, node), None
        shortcut = before
        if aside == "Conv2D":
            pool = {"pool_size": (3, 3), "strides": (2, 2), "padding": "same"}
            pool["data_format"] = "channels_last"
            x = _expect(_next(x), "MaxPooling2D", **pool)
            first = before.consumers[number]
            shortcut = self._conv(before, of_block[-1], 2, ("same", "valid"), first)
        added = _expect(_next(x), "Add")
        if len(added.inputs) != 2 or {id(each) for each in added.inputs} != {id(x), id(shortcut)}:
            raise ModelError(f"{added} does not add {x} and {shortcut}")
        return added

    def _conv(
        self, x: Node, layer: Layer, stride: int, paddings: Tuple[str, ...], node: Optional[Node]
    ) -> Node:
        node = node or _next(x)
        pair = (layer.kernel, layer.kernel)
        _expect(
            node, "Conv2D", filters=layer.num_filter, kernel_size=pair, strides=(stride, stride),
            use_bias=False, groups=1, **_PLAIN,
        )  # fmt: skip
        if node.config.get("padding") not in paddings:
            _expect(node, "Conv2D", padding=paddings[0])
        return self._norm(node)

    def _separable(self, x: Node, layer: Layer, node: Optional[Node] = None) -> Node:
        node = _expect(
            node or _next(x), "SeparableConv2D", filters=layer.num_filter, kernel_size=(3, 3),
            strides=(1, 1), padding="same", depth_multiplier=1, use_bias=False, **_PLAIN,
        )  # fmt: skip
        return self._norm(node)

    def _norm(self, node: Node) -> Node:
        norm = _expect(_next(node), "BatchNormalization", center=True, scale=True)
        if norm.config.get("axis", -1) not in (-1, 3, [3], [-1]):
            _expect(norm, norm.kind, axis=-1)
        self.found += [node, norm]
        return norm

    def _relu(self, x: Node, node: Optional[Node] = None) -> Node:
        node = node or _next(x)
        if node.kind == "ReLU":
            return _expect(node, "ReLU", max_value=None, negative_slope=0, threshold=0)
        return _expect(node, "Activation", activation="relu")


def _preprocessing(source: Node) -> Tuple[List[Node], Node]:
    """Return (layers that shift and scale the pixels, the first layer of Xception)."""
    found: List[Node] = []
    node = _next(source)
    while node.kind in ("Rescaling", "Normalization", "Cast", "cast") or (
        node.kind in _ELEMENTWISE and len(node.inputs) == 1
    ):
        found.append(node)
        node = _next(node)
    if len(node.inputs) != 1 or node.kind != "Conv2D":
        raise ModelError(f"{node} is before Xception: only the scaling of pixels can be there")
    return found, node


def _head(end: Node) -> Tuple[bool, Optional[Node], str]:
    """Return (whether there is pooling, the Dense layer, its activation)."""
    pooled, node, activation = False, end, "linear"
    head: Optional[Node] = None
    while node.consumers:
        node = _next(node)
        if not pooled:
            _expect(node, "GlobalAveragePooling2D", data_format="channels_last")
            pooled = True
        elif node.kind == "Flatten" and head is None:
            pass
        elif node.kind == "Dense" and head is None:
            head, activation = node, _activation(node.config)
        elif node.kind == "Dense":
            raise ModelError(f"{head} is a hidden layer before {node}: this network has none")
        elif head is not None and activation == "linear" and node.kind in ("Activation", "Softmax"):
            activation = "softmax" if node.kind == "Softmax" else _activation(node.config)
        else:
            raise ModelError(f"{node} is after Xception's pooling: only a Dense layer can be there")
    return pooled, head, activation


def affine(
    node: Node, mean_and_variance: Optional[Tuple[np.ndarray, np.ndarray]]
) -> Tuple[np.ndarray, np.ndarray]:
    """Return (factor, summand), each for the three colours, of a layer of `preprocessing`.

    mean_and_variance : of a Normalization, if its configuration has none.
    """
    config = node.config
    factor, summand = np.ones(3), np.zeros(3)
    if node.kind == "Rescaling":
        factor, summand = _colours(node, config["scale"]), _colours(node, config.get("offset", 0))
    elif node.kind == "Normalization":
        if config.get("invert") or config.get("axis") not in (None, -1, 3, [-1], [3], []):
            raise ModelError(f"{node}: it is inverted, or its axis is not that of the colours")
        given = mean_and_variance or (config["mean"], config["variance"])
        mean, variance = (_colours(node, each) for each in given)
        factor = 1 / np.maximum(np.sqrt(variance), 1e-7)
        summand = -mean * factor
    elif node.kind in _ELEMENTWISE:
        if len(node.constants) != 1:
            raise ModelError(f"{node}: not with one number, but with {node.constants}")
        constant = _colours(node, node.constants[0])
        sign = _ELEMENTWISE[node.kind]
        if sign in "*/":
            factor = constant if sign == "*" else 1 / constant
        else:
            summand = constant if sign == "+" else -constant
    return factor, summand


def _colours(node: Node, value: Any) -> np.ndarray:
    """A number, or one for each colour, as three."""
    if isinstance(value, dict):  # Keras 3 may write an array so
        value = value.get("config", {}).get("value")
    numbers = np.asarray(value, np.float64).reshape(-1)
    if numbers.size not in (1, 3) or not np.isfinite(numbers).all():
        raise ModelError(f"{node}: {value} is not a number, or three")
    return np.broadcast_to(numbers, 3)
