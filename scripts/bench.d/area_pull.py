"""Pull and unpack of images into an empty store, of an unchanged one, and the memory it takes."""

import gzip
import shutil
import tempfile
from pathlib import Path

import layouts
from machine import TOP, die, settle
from measure import Row, held, interleaved, timed
from tools import Agent, Containerd, Podman

IMAGES = ["base", "tomcat"]
# What the stores of all turns of one image take at most, and the images themselves.
ROOM = 14 << 30


def measure(machine, runs):
    # A pull takes as long as many starts do.
    runs = max(3, runs // 4)
    if shutil.disk_usage(machine.folder).free < ROOM:
        die(f"{machine.folder} needs {ROOM >> 30} GiB of free space")
    made = machine.folder / "layouts"
    tools = [Agent(machine), Containerd(machine), Podman(machine)]
    for name in IMAGES:
        yield from image(machine, tools, name, TOP / "target" / "images" / name, runs)
    yield from image(machine, tools, "20 layers", layouts.many_layers(made / "20"), runs)
    yield from image(machine, tools, "100,000 files", layouts.many_files(made / "100000"), runs)
    big, blob = layouts.big_layer(made / "big")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        yield from image(machine, tools, "one big layer", big, runs, bounds(machine, blob, Path(memory)))


def image(machine, tools, name, layout, runs, others=None):
    """The rows of one image: time beside the peers', memory, and the second pull."""
    reference = machine.push(layout, name.replace(" ", "-").replace(",", ""))

    def cold(tool):
        tool.fresh()
        return tool.pull(reference)

    acts = {tool.name: lambda tool=tool: cold(tool) for tool in tools}
    medians = interleaved(acts | (others or {}), runs)
    ours = medians.pop("agent")
    if others:
        medians["slower of these"] = max(medians[name] for name in others)
    yield Row(f"pull {name}", ours, peers=medians)
    yield Row(f"memory of pull {name}", max(held(cold(tools[0])) for _ in range(3)), "MiB")
    again = interleaved({"agent": lambda: tools[0].pull(reference)}, 3 * runs)
    yield Row(f"pull {name} again", again["agent"])
    for tool in tools:
        tool.close()
    machine.remove(machine.folder / "stores")
    settle(machine.folder)


def bounds(machine, blob, memory):
    """What a pull of one layer cannot do without: inflating it on one core, and writing what comes out."""
    packed, plain = memory / "layer.tar.gz", memory / "layer.tar"
    shutil.copy(blob, packed)
    with gzip.open(packed) as source, open(plain, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    programs = [["igzip", "-d", "-c"], ["libdeflate-gunzip", "-c"], ["pigz", "-d", "-c", "-p", "1"]]
    inflate = min(programs, key=lambda words: min(timed(one_core(words, packed)) for _ in range(3)))
    turn = 0

    def tar():
        nonlocal turn
        turn += 1
        folder = machine.folder / "stores" / f"tar-{turn}"
        folder.mkdir(parents=True)
        return ["tar", "-x", "-f", plain, "-C", folder]

    return {inflate[0]: lambda: one_core(inflate, packed), "tar -x": tar}


def one_core(words, *more):
    return ["taskset", "-c", "0", *words, *more]
