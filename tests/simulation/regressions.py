"""Seeds that once broke an invariant; each is played by ``make test``.

A seed stands for its history as long as the simulation draws from chance in the same order. So each bug
that was found also has a test of its own, named here, or a switch in ``bugs`` that brings it back. The
histories of the seeds below were drawn anew when crowds and moves came: the tests still hold.
"""

from __future__ import annotations

SEEDS: dict[int, str] = {
    10005: "a parent left memory, or for the history, while an ended child's attempt was under way: its end "
    "found no parent, and no recovery could go on "
    "(``Engine.in_memory``)",
    69: "a doubled request to attach: leases that had begun were given out again "
    "(shell_test.test_a_request_to_attach_that_comes_late_takes_no_lease_away)",
}
