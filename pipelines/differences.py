"""How two records differ, for whoever gave the same folder twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """`sampling.steps (8 there, 4 here), …` of two records of JSON values; empty where they are equal."""
    old, new = _flat(json.loads(json.dumps(there))), _flat(json.loads(json.dumps(here)))
    differing = [name for name in {**old, **new} if name not in new or old.get(name) != new[name]]
    return ", ".join(f"{name} ({_short(old.get(name))} there, {_short(new.get(name))} here)" for name in differing)


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, list) and any(isinstance(part, dict) for part in value):
            value = {str(i): part for i, part in enumerate(value)}
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:20]}…{text[-38:]}"
