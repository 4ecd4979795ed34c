"""Time and memory of commands, and the rows that a measurement ends as."""

import json
import os
import statistics
import subprocess
import time
from dataclasses import dataclass, field

from machine import die, quiet


@dataclass
class Row:
    """One thing that was measured: what ours took, and where others did the same, what each of them took."""

    what: str
    ours: float
    unit: str = "ms"
    peers: dict = field(default_factory=dict)


def timed(command):
    """Milliseconds that one command takes as a whole process."""
    begun = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    took = (time.perf_counter() - begun) * 1000
    if done.returncode:
        die(f"{' '.join(map(str, command))} failed ({done.returncode}): {done.stderr.decode()}")
    return took


def held(command):
    """The most memory that one command held, in MiB.

    The kernel counts to a process what it held before it became another, here this program; so a small one is put
    between, whose fork starts anew."""
    between = ["time", "--quiet", "--format=%M", "--output=/dev/stdout", "--", "sh", "-c", 'exec "$@" >/dev/null', "sh"]
    return int(quiet(*between, *command)) / 1024


def interleaved(acts, runs):
    """Medians by name of the milliseconds of acts that are done in turns.

    An act is a function that gets everything ready and returns the command to measure. One turn comes first that is
    not counted."""
    times = {name: [] for name in acts}
    for turn in range(runs + 1):
        for name, prepare in acts.items():
            command = prepare()
            os.sync()
            took = timed(command)
            if turn:
                times[name].append(took)
    return {name: statistics.median(each) for name, each in times.items()}


def report(area, rows, limits, as_json):
    """Prints rows as they come; false when one misses a limit.

    A limit by a peer's name is of the ratio to it; `most` is of ours itself, in the row's unit."""
    every_limit = True
    if not as_json:
        print(f"{'what':<34}{'ours':>10} {'unit':<5}{'peer':<18}{'peer takes':>10}{'ratio':>8}{'limit':>8}")
    for row in rows:
        wanted = limits.get(area, {}).get(row.what, {})
        comparisons = [(name, theirs, row.ours / theirs, wanted.get(name)) for name, theirs in row.peers.items()]
        if "most" in wanted or not comparisons:
            comparisons.append((None, None, None, wanted.get("most")))
        for peer, theirs, ratio, limit in comparisons:
            fine = limit is None or (row.ours if ratio is None else ratio) <= limit
            every_limit &= fine
            if as_json:
                print(json.dumps({
                    "area": area, "what": row.what, "ours": round(row.ours, 3), "unit": row.unit, "peer_name": peer,
                    "peer": theirs and round(theirs, 3), "ratio": ratio and round(ratio, 4), "limit": limit, "ok": fine,
                }), flush=True)
            else:
                cells = "".join(f"{'-' if value is None else format(value, form):>{width}}" for value, form, width in
                                [(theirs, ".1f", 10), (ratio, ".3f", 8), (limit, ".2f", 8)])
                verdict = "" if fine else "  MISSED"
                print(f"{row.what:<34}{row.ours:>10.1f} {row.unit:<5}{peer or '-':<18}{cells}{verdict}", flush=True)
    return every_limit
