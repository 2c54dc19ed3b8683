"""The rows of five contracts that differed or were missing when their clients first met Dispatch, one check for each row.

    target/contract/bin/python tests/clients/contract_rows [WORD…]

A row works, or differs by a decision of docs/compatibility.md: then the row quotes that page, and the check holds the server to it. Prints the
counts of each contract and every row that fails; words choose rows by contract, area or item.
"""

import sys

import dispatched
import runtype_pages
import runtype_routes
import runtype_runs
import runtype_steps
import sdk
import typed
import xraph
from table import quoted
from world import running

RUNTYPE = runtype_runs.ROWS + runtype_steps.ROWS + runtype_routes.ROWS + runtype_pages.ROWS
TABLES = [RUNTYPE, sdk.ROWS, typed.ROWS, dispatched.ROWS, xraph.ROWS]


def failure(row, world):
    """Why the row fails; nothing if it does not."""
    try:
        if row.reason:
            quoted(row.reason)
        row.check(world)
    except Exception as error:  # Each row is judged alone.
        return f"{type(error).__name__}: {str(error)[:700]}"
    return None


def judge(table, words, world):
    rows = [row for row in table if all(word in f"{table.title} {row.area} {row.item}" for word in words)]
    failed = [(row, why) for row in rows if (why := failure(row, world))]
    choices = sum(1 for row in rows if row.reason) - sum(1 for row, _ in failed if row.reason)
    work = len(rows) - choices - len(failed)
    print(f"{table.title}: rows: {len(rows)}, work: {work}, differ by choice: {choices}, fail: {len(failed)}")
    for row, why in failed:
        print(f"  FAILED {row.area}: {row.item}: {why}")
    return len(failed)


def main():
    with running() as world:
        failed = sum(judge(table, sys.argv[1:], world) for table in TABLES)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
