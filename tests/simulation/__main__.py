"""``python -m tests.simulation``: play one seed, or many; see docs/simulation.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.simulation import campaign
from tests.simulation.edge import Edge
from tests.simulation.history import History


def main() -> int:
    parser = argparse.ArgumentParser(prog="make sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="play this seed alone, and show where it breaks")
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop beginning new ones then")
    parser.add_argument("--saved", type=Path, help="file with the totals, from which to go on")
    parser.add_argument("--edge", action="store_true", help="fifty runs at the edge of a team's budget")
    options = parser.parse_args()
    of = Edge if options.edge else History
    if options.seed is not None:
        told = of(options.seed).play()
        print(f"seed {told.seed}: {told.steps} run-steps ({told.events} events), {told.faults}")
        return 0
    totals = campaign.run(options.first, options.seeds, options.processes, options.seconds, options.saved, of)
    for failure in totals.failures:
        print(f"seed {failure.seed}: {failure.error}\n{failure.where}replay: make sim SEED={failure.seed}\n")
    print(totals.summary())
    return 1 if totals.failures else 0


if __name__ == "__main__":
    sys.exit(main())
