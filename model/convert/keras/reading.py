"""A Keras model, or its weights alone, as what a checkpoint holds."""

from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from model import ModelError
from model.convert.checkpoint import Images, Source
from model.convert.heads import ASSUMED_SOFTMAX, classifier
from model.convert.keras.files import Group, KerasFile, Stored, open_file, values
from model.convert.keras.layers import SYMBOL_ARGUMENTS, Variable, keras_layers
from model.convert.keras.structure import Node, Structure, affine, follow, loss_activation
from model.network.layers import HEAD, KERAS_HEAD, shortcut_names

#: Classes of Xception's layers in files by class.
_CLASSES = ("conv2d", "separable_conv2d", "batch_normalization")


class _Found(NamedTuple):
    """Xception's layers in a file, in the order of `keras_layers`; the classifier, None if there is
    none; and the assumptions that were made."""

    layers: List[Stored]
    head: Optional[Stored]
    assumed: Tuple[str, ...] = ()


def read(path: Path, activation: Optional[str] = None) -> Source:
    """Return the network in Keras' file `path`.

    A whole model is followed layer by layer. Weights alone are those of Keras' own Xception and, if
    there is one, a Dense layer on its pooled features; what they do not say is assumed, and listed
    in `Source.assumed`.

    activation : ``softmax`` or ``sigmoid``, of the last layer, where the file does not say it.
    Raises ModelError, naming the first layer that differs, where it is not Keras' Xception.
    """
    with open_file(path) as file:
        if file.config is None:
            found, structure = _of_weights(file), None
            stated = None
        else:
            structure = _structure(file)
            found, stated = _of_model(file, structure), _stated_activation(file, structure)
        params = _params(found.layers, path)
        arguments = dict(SYMBOL_ARGUMENTS)
        assumed = list(found.assumed)
        if structure:
            arguments["bn_eps"] = structure.epsilon
        if found.head:
            kernel, bias = _kernel_and_bias(found.head, path)
            silent = structure is None
            if silent and activation is None:
                assumed.append(ASSUMED_SOFTMAX)
            layer = f"{path}: layer {found.head.name}"
            params[f"arg:{HEAD}_weight"], params[f"arg:{HEAD}_bias"] = classifier(
                layer, kernel.T, bias, stated, activation, silent
            )
        elif structure and not structure.pooled:
            assumed.append("the average as pooling")
        images = _images(file, structure)
    return Source(path, params, arguments, images, assumed=tuple(assumed))


# What a whole model says


def _structure(file: KerasFile) -> Structure:
    assert file.config is not None
    try:
        return follow(file.config)
    except ModelError as error:
        raise ModelError(f"{file.path}: {error}") from None


def _of_model(file: KerasFile, structure: Structure) -> _Found:
    head = _stored(file, structure.head) if structure.head else None
    return _Found([_stored(file, node) for node in structure.layers], head)


def _stored(file: KerasFile, node: Node) -> Stored:
    """The weights of a layer."""
    found = None
    if file.by_name is not None:
        found = file.by_name.get((node.names[0], node.name if len(node.names) > 1 else ""))
    elif file.by_class is not None:
        group: Optional[Group] = file.by_class
        for place in node.places:
            if group is None:
                break
            those = group.children.get(place.kind, [])
            if len(those) == place.of:
                group = those[place.number][1]
            else:  # Layers without weights may have no group.
                group = dict(those).get(place.number)
        found = group.stored() if group else None
    if not found or not found.arrays:
        raise ModelError(f"{file.path}: {node} has no weights in it")
    return Stored("/".join(node.names), found.arrays)


def _stated_activation(file: KerasFile, structure: Structure) -> Optional[str]:
    """The activation of the last layer; None where neither the model nor its loss has one."""
    if structure.activation != "linear":
        return structure.activation
    return loss_activation(file.training)


def _images(file: KerasFile, structure: Optional[Structure]) -> Images:
    """The images that the network takes. Without layers that scale them, as Keras' own."""
    images = Images(shape=structure.image_shape if structure else None, usual_size=299)
    if structure is None or not structure.preprocessing:
        return images._replace(usual_mean=127.5, usual_std=127.5)
    factor, summand = np.ones(3), np.zeros(3)
    for node in structure.preprocessing:
        weights = None
        if node.kind == "Normalization" and node.config.get("mean") is None:
            mean, variance = _stored(file, node).arrays[:2]
            weights = (_pixels_of(mean, node, file), _pixels_of(variance, node, file))
        try:
            by, plus = affine(node, weights)
        except ModelError as error:
            raise ModelError(f"{file.path}: {error}") from None
        factor, summand = factor * by, summand * by + plus
    if not (np.isfinite(factor).all() and factor.min() > 0):
        raise ModelError(f"{file.path}: its layers scale the pixels by {factor.tolist()}")
    mean, std = -summand / factor, 1 / factor
    return images._replace(mean=tuple(mean.tolist()), std=tuple(std.tolist()))


def _pixels_of(array: Any, node: Node, file: KerasFile) -> np.ndarray:
    if array.size > 3:
        raise ModelError(f"{file.path}: {node} has {array.size} means, not one for each colour")
    return values(array, file.path)


# What is found in weights alone


def _of_weights(file: KerasFile) -> _Found:
    if file.by_name is not None:
        return _by_name(file.by_name, file.path)
    assert file.by_class is not None
    return _by_class(file.by_class, file.path)


def _by_name(stored: Dict[Tuple[str, str], Stored], path: Path) -> _Found:
    table = keras_layers()
    named = {inner or group: each for (group, inner), each in stored.items()}
    if not any(name in named for name, _, _ in table if name.startswith("block")):
        return _by_order(list(stored.values()), path)
    if len(named) < len(stored):
        raise ModelError(f"{path}: several layers of the same name: more than one Xception in it?")
    names = shortcut_names(named)
    left = {names.get(name, name): each for name, each in named.items()}
    found = []
    for name, _, _ in table:
        if name not in left:
            raise ModelError(f"{path}: layer {name} is missing: not Keras' Xception?")
        found.append(left.pop(name))
    return _Found(found, _only_head(list(left.values()), path))


def _by_order(stored: List[Stored], path: Path) -> _Found:
    """As Keras loads legacy files. Its published one has names that are numbers of creation."""
    number = len(keras_layers())
    if len(stored) < number:
        raise ModelError(
            f"{path}: layer block1_conv1 is missing; the file has {len(stored)} "
            f"{'layer' if len(stored) == 1 else 'layers'}, not {number}: not Keras' Xception?"
        )
    head = _only_head(stored[number:], path)
    return _Found(stored[:number], head, ("layers in the file's order, as their names are others",))


def _by_class(root: Group, path: Path) -> _Found:
    groups = list(root.all_groups())
    # Xception's is that with the most separable convolutions.
    base = max(groups, key=lambda group: len(group.children.get("separable_conv2d", ())))
    numbers = dict.fromkeys(_CLASSES, 0)
    found, taken = [], set()
    for name, class_name, _ in keras_layers():
        number = numbers[class_name]
        numbers[class_name] += 1
        those = [group for _, group in base.children.get(class_name, ()) if group.arrays]
        if number >= len(those):
            raise ModelError(f"{path}: layer {name} is missing: not Keras' Xception?")
        group = those[number]
        taken.add(id(group))
        found.append(Stored(f"{name} ({group.name})", group.stored().arrays))
    left = [group.stored() for group in groups if group.arrays and id(group) not in taken]
    return _Found(found, _only_head(left, path))


def _only_head(left: List[Stored], path: Path) -> Optional[Stored]:
    """The classifier, if that is all that is left."""
    for stored in left:
        dense = [len(array.shape) for array in stored.arrays] in ([2], [2, 1])
        if not dense and (len(left) > 1 or stored.name.split("/")[-1] != KERAS_HEAD):
            raise ModelError(f"{path}: layer {stored.name} is not in Keras' Xception")
    if len(left) > 1:
        names = ", ".join(stored.name for stored in left)
        raise ModelError(
            f"{path}: {len(left)} Dense layers after the pooling ({names}): a hidden layer, which "
            "this network does not have"
        )
    return left[0] if left else None


# Arrays


def _params(found: List[Stored], path: Path) -> Dict[str, np.ndarray]:
    params = {}
    for stored, (_, _, variables) in zip(found, keras_layers()):
        for variable, array in zip(variables, _checked(stored, variables, path)):
            transposed = array.transpose(variable.axes)
            params[variable.entry] = np.ascontiguousarray(transposed, np.float32)
    return params


def _kernel_and_bias(stored: Stored, path: Path) -> Tuple[np.ndarray, np.ndarray]:
    """Return (kernel, bias) of a Dense layer, which may have no bias."""
    num_classes = max((1, *stored.arrays[0].shape[-1:]))
    _, _, variables = keras_layers(num_classes)[-1]
    kernel, *bias = _checked(stored, variables[: max(1, len(stored.arrays))], path)
    return kernel.astype(np.float32), (bias[0] if bias else np.zeros(num_classes)).astype(
        np.float32
    )


def _checked(stored: Stored, variables: List[Variable], path: Path) -> List[np.ndarray]:
    if len(stored.arrays) != len(variables):
        raise ModelError(
            f"{path}: layer {stored.name} has {len(stored.arrays)} arrays, Xception's has "
            f"{len(variables)}"
        )
    for variable, array in zip(variables, stored.arrays):
        if array.shape != variable.shape:
            raise ModelError(
                f"{path}: layer {stored.name}: {variable.name} has the shape {array.shape}, "
                f"Xception's has {variable.shape}"
            )
    return [values(array, path) for array in stored.arrays]
