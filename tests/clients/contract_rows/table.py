"""Rows of a contract: what each one checks, and the decision that it names where Dispatch differs by choice."""

import pathlib
from dataclasses import dataclass
from typing import Callable

ROOT = pathlib.Path(__file__).resolve().parents[3]
DECISIONS = ROOT.joinpath("docs/compatibility.md")


@dataclass(frozen=True)
class Row:
    """One row: `check` raises when Dispatch does something else. `reason` quotes the decision by which it differs."""

    area: str
    item: str
    check: Callable
    reason: str | None = None


class Table(list):
    """The rows of one contract, in the order of their registration."""

    def __init__(self, title):
        super().__init__()
        self.title = title

    def __add__(self, other):
        both = Table(self.title)
        both.extend([*self, *other])
        return both

    def add(self, area, item, check, reason=None):
        self.append(Row(area, item, check, reason))

    def row(self, area, item, reason=None):
        """Registers the decorated check. `reason` quotes docs/compatibility.md if Dispatch differs by choice."""

        def keep(check):
            self.add(area, item, check, reason)
            return check

        return keep


def flat(text):
    return " ".join(text.split())


def quoted(reason):
    """Holds the quotation of a decision against the page itself."""
    assert flat(reason) in flat(DECISIONS.read_text()), f"docs/compatibility.md does not say {reason!r}"


def equal(found, wanted):
    assert found == wanted, f"found {short(found)}, wanted {short(wanted)}"


def contains(whole, *parts):
    for part in parts:
        assert part in whole, f"{part!r} is not in {short(whole)}"


def short(value):
    return repr(value)[:700]
