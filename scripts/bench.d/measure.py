"""Time and memory of commands, and the rows that a measurement ends as."""

import json
import os
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass, field

from machine import die


@dataclass
class Row:
    """One thing that was measured: what ours took, and where others did the same, what each of them took."""

    what: str
    ours: float
    unit: str = "ms"
    peers: dict = field(default_factory=dict)


def timed(command):
    """Milliseconds that one command takes as a whole process, and the most memory it held, in MiB.

    Below some 20 MiB the memory is this program's own, which a new process bears until it has become another."""
    with tempfile.TemporaryFile() as errors:
        begun = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        took = (time.perf_counter() - begun) * 1000
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            die(f"{' '.join(map(str, command))} failed ({process.returncode}): {errors.read().decode()}")
    return took, usage.ru_maxrss / 1024


def interleaved(acts, runs):
    """Medians by name of the milliseconds of acts that are done in turns, and by name the most MiB of any.

    An act is a function that gets everything ready and returns the command to measure. One turn comes first that is
    not counted."""
    times = {name: [] for name in acts}
    memory = dict.fromkeys(acts, 0)
    for turn in range(runs + 1):
        for name, prepare in acts.items():
            command = prepare()
            os.sync()
            took, held = timed(command)
            memory[name] = max(memory[name], held)
            if turn:
                times[name].append(took)
    return {name: statistics.median(each) for name, each in times.items()}, memory


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
