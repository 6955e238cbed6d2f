"""Files damaged by chance, the same chance every time: bytes changed, keys dropped, values put in place of others."""

from __future__ import annotations

import copy
import json
import math
import random

ODD = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, math.inf, -math.inf, math.nan, "", "1",
    "NaN", "\ud800", "x" * 5000, "\x00", [], [[]], [None], {}, {"": {}}, [[1, 2], [3]], [1e999],
]  # fmt: skip


def of_bytes(data: bytes, seed: int) -> bytes:
    """Some bytes flipped, cut off, doubled, or put in."""
    chance = random.Random(seed)
    data = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 3])):
        at = chance.randrange(len(data))
        match chance.randrange(5):
            case 0:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                data[at] = chance.randrange(256)
            case 2:
                del data[at:]
            case 3:
                del data[at : at + chance.randrange(1, 50)]
            case 4:
                data[at:at] = data[at : at + chance.randrange(1, 50)]
        if not data:
            break
    return bytes(data)


def of_values(content, seed: int):
    """A value somewhere inside in place of another, a key or an entry dropped, added or doubled, or a deep nest."""
    chance = random.Random(seed)
    content = copy.deepcopy(content)
    parent, key = chance.choice(list(_places(content)))
    match chance.randrange(6):
        case 0 | 1:
            parent[key] = copy.deepcopy(chance.choice(ODD))
        case 2:
            del parent[key]
        case 3:
            if isinstance(parent, dict):
                parent["odd"] = parent[key]
            else:
                parent.append(copy.deepcopy(parent[key]))
        case 4:
            parent[key] = [parent[key]] if chance.random() < 0.5 else {"inside": parent[key]}
        case 5:
            value = parent[key]
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            parent[key] = value * chance.choice([-1, 2, 1e3, 10**6]) if number else str(value)
    return content


def nested(depth: int) -> str:
    return '{"version": ' + "[" * depth + "]" * depth + "}"


def as_json(content) -> str:
    return json.dumps(content)


def _places(content):
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in list(items):
        yield content, key
        if isinstance(value, (dict, list)) and value:
            yield from _places(value)
