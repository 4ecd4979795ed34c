"""Start of a container from an image that is there."""

from machine import TOP
from measure import Row, interleaved, timed
from tools import Agent, Containerd, Podman

IMAGES = ["base"]


def measure(machine, runs):
    reference = machine.push(TOP / "target" / "images" / "base", "base")
    tools = [Agent(machine), Containerd(machine), Podman(machine)]
    for tool in tools:
        tool.fresh()
        timed(tool.pull(reference))
    medians = interleaved({tool.name: lambda tool=tool: tool.run(reference) for tool in tools}, runs)
    for tool in tools:
        tool.close()
    yield Row("run --rm --network none true", medians.pop("agent"), peers=medians)
