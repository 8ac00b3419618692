"""What an `nn.attention` asks for beyond softmax(q k^T) v: masks, order, biases. Forms say which of it they can do."""

from __future__ import annotations

from nomul.ir.graph import Node, Value
from nomul.ir.ops.attention import LENGTHS, MASK, RELATIVE, TILES
from nomul.ir.shapes import ONE


def demands(node: Node) -> dict[str, str]:
    """What it asks for, by name, in words.

    padding: keys that no query of a sequence sees.  mask: any other mask.  bias: by distance.  tiles, window, causal.
    order: blocks or a prefix.  past: keys of earlier tokens too.  cross: keys of other tokens.  softcap."""
    attrs, found = node.attrs, {}
    mask = node.operand(MASK)
    if mask is not None and hides_keys(mask, node):
        found["padding"] = "its mask of keys"
    elif mask is not None:
        found["mask"] = f"its mask {mask.type}"
    if node.operand(LENGTHS) is not None:
        found["padding"] = "the lengths of its sequences"
    if node.operand(RELATIVE) is not None:
        found["bias"] = "its bias by distance"
    if node.operand(TILES) is not None:
        found["tiles"] = "its mask of tiles"
    if attrs["window"]:
        found["window"] = f"its window of {attrs['window']}"
    if attrs["causal"]:
        found["causal"] = "that queries see earlier keys only"
    if attrs["block"] != 1 or attrs["prefix"] != 0:
        found["order"] = "its blocks or prefix"
    if attrs["softcap"]:
        found["softcap"] = f"its limit of scores {attrs['softcap']:g}"
    return found | _places(node)


def _places(node: Node) -> dict[str, str]:
    """How the tokens of queries and keys belong together."""
    q, k = node.args[:2]
    assert q is not None and k is not None
    queries, keys, offset = q.shape[1], k.shape[1], node.attrs["offset"]
    if queries == keys:
        return {}
    if offset != 0 and queries + offset == keys:
        return {"past": f"keys of {offset} earlier tokens"}
    return {"cross": f"keys of {keys} other tokens than its {queries} queries"}


def hides_keys(mask: Value, node: Node) -> bool:
    """Whether a mask is the same for all queries and heads: [B or 1, 1, 1, T], or with fewer axes."""
    shape = (ONE,) * (4 - mask.type.rank) + mask.shape
    keys = node.args[1]
    assert keys is not None
    return shape[1] == ONE and shape[2] == ONE and shape[3] == keys.shape[1]
