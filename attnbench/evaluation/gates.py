"""Sanity gates of an attack: without them a robustness figure may only show that the attack was broken."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

NEAR_ZERO = 0.05  # accuracy that the largest radius must push below
SLACK = 0.005  # accuracy by which an order may be violated: an example or two of a small test set


def attack_gates(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """What is wrong with one model's attack rows (table `robustness`), as sentences; empty if nothing is.

    Gates (Carlini et al., arXiv 1902.06705): accuracy falls monotonically with epsilon, starting from the
    clean one; it is near zero at the largest epsilon (PGD); PGD finds at least what FGSM finds at each
    epsilon. Rows: {kind, severity, epsilon, accuracy, ...}; other kinds are passed over.
    """
    by_kind: dict[str, dict[float, float]] = {"clean": {}, "fgsm": {}, "pgd": {}}
    for row in rows:
        if row["kind"] in by_kind:
            by_kind[row["kind"]][float(row["epsilon"] or 0.0)] = float(row["accuracy"])
    if not by_kind["pgd"] and not by_kind["fgsm"]:
        return ["there are no attack rows to judge"]
    wrong = []
    for kind in ("fgsm", "pgd"):
        curve = sorted({**by_kind["clean"], **by_kind[kind]}.items())
        for (eps, accuracy), (larger, after) in itertools.pairwise(curve):
            # a single FGSM step overshoots at large radii, so only the iterated attack must be monotone
            # all the way
            if after > accuracy + SLACK and (kind == "pgd" or eps == 0.0):
                wrong.append(
                    f"{kind}: accuracy rises, {accuracy:.3f} at eps {eps:.3g}, {after:.3f} at {larger:.3g}"
                )
    if by_kind["pgd"]:
        eps, accuracy = max(by_kind["pgd"].items())
        if accuracy > NEAR_ZERO:
            wrong.append(f"pgd: accuracy is still {accuracy:.3f} at the largest eps {eps:.3g}")
    for eps in sorted(by_kind["fgsm"].keys() & by_kind["pgd"].keys()):
        fgsm, pgd = by_kind["fgsm"][eps], by_kind["pgd"][eps]
        if pgd > fgsm + SLACK:
            wrong.append(f"pgd leaves {pgd:.3f} at eps {eps:.3g} where the weaker fgsm leaves {fgsm:.3f}")
    return wrong
