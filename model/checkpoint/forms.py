"""The forms of what a checkpoint says about itself, which the code relies on.

An entry that is there must be of its form, whatever its checksum says: the file may be edited, or
another version's.
"""

import math
from typing import Any

from log import schema

_SIDE = schema.whole(1, 65_535)
_FINITE = schema.one_of("a number", lambda value: _is_number(value))
_ABOVE_0 = schema.one_of("a number above 0", lambda value: _is_number(value) and value > 0)
# For each metric of MXNet's: sum and count since the last line, sum and count of the epoch.
_SUMS = schema.list_of(schema.list_of(schema.number(), 4), least=1)


_FIGURES = schema.map_of(schema.number())


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


_BEST = schema.optional(schema.entries({"epoch": schema.whole(), "accuracy": schema.number()}))

#: What decides what a run computes; of other entries only whether they have changed counts.
SETTINGS = schema.entries(
    {},
    {
        "image_shape": schema.tuple_of(schema.whole(3, 3), _SIDE, _SIDE),
        "rgb_mean": schema.list_of(_FINITE, 3),
        "rgb_std": schema.list_of(_ABOVE_0, 3),
        "short_side": schema.optional(_SIDE),
        "classes": schema.optional(schema.list_of(schema.text)),
        "pretrained": schema.optional(schema.tuple_of(schema.text, schema.whole())),
        "dtype": schema.text,
        "optimizer": schema.text,
        "mom": _FINITE,
        "accumulate": schema.whole(1),
        "data_readers": schema.whole(1),
    },
)

#: What a run writes about itself.
RUN = schema.entries(
    {},
    {
        "settings": SETTINGS,
        "lr": schema.optional(_ABOVE_0),
        "lr_epoch": schema.optional(schema.whole()),
        "updates": schema.whole(),
        "first_update": schema.whole(),
        "batches": schema.optional(schema.whole(1)),
        # Of each worker, or, as earlier versions wrote it, of the only one.
        "figures": schema.optional(schema.any_of(_SUMS, schema.list_of(_SUMS, least=1))),
        "validation": schema.optional(
            schema.all_of(_FIGURES, schema.entries({"accuracy": schema.number()}))
        ),
        "best": _BEST,
        "best_validation": _BEST,
    },
)

#: The entries of `RUN` that a run needs to resume; a conversion writes None for what it can't know.
RESUMABLE = schema.entries(
    {
        "settings": schema.entries(dict.fromkeys(("rgb_mean", "rgb_std"), schema.anything)),
        **dict.fromkeys(
            ("lr", "lr_epoch", "batches", "figures", "validation", "best"), schema.anything
        ),
    }
)

#: And those within an epoch.
RESUMABLE_WITHIN = schema.entries(
    {
        "lr_epoch": schema.whole(),
        "batches": schema.whole(1),
        "figures": schema.list_of(schema.anything),
    }
)

#: The .json of a generation.
DESCRIPTION = schema.entries(
    {"count": schema.whole(), "files": schema.map_of(schema.text), "run": RUN}
)
