"""agent and the tools it is measured beside: each gives the commands for the same acts."""

import subprocess

from machine import TOP, quiet, wait_until

BINARIES = TOP / "target" / "x86_64-unknown-linux-gnu" / "release"


class Tool:
    """One tool with its state in a folder of its own, empty after `fresh`."""

    def __init__(self, machine):
        self.machine = machine
        self.turn = 0
        self.home = None

    def fresh(self):
        """Goes on with an empty store in a new folder. The old one stays: a removal would slow the next turn."""
        self.turn += 1
        self.home = self.machine.folder / "stores" / f"{self.name}-{self.turn}"
        self.home.mkdir(parents=True)
        self.open()

    def open(self):
        """Gets the empty store ready."""

    def close(self):
        """Leaves nothing on this machine but files in the folder."""


class Agent(Tool):
    """Ours."""

    name = "agent"

    def open(self):
        config = self.home / "config" / "registries.d"
        config.mkdir(parents=True)
        (config / "local.toml").write_text(f'[host."127.0.0.1:{self.machine.port}"]\nplain-http = true\n')

    def close(self):
        quiet(*self.command("reset", "--force"))

    def command(self, *args):
        roots = ["--root", self.home / "root", "--run-root", self.home / "run", "--config-root", self.home / "config"]
        return [BINARIES / "agent", *roots, "--cgroup-parent", "/agent-bench", *args]

    def pull(self, reference):
        return self.command("pull", "--quiet", reference)

    def run(self, reference):
        return self.command("run", "--rm", "--network", "none", reference, "true")


class Containerd(Tool):
    """containerd by ctr: the runc it starts is Debian's."""

    name = "ctr"
    process = None
    count = 0

    def open(self):
        self.close()
        config = self.home / "config.toml"
        self.socket = self.machine.short / "containerd.sock"
        config.write_text(
            f'version = 2\nroot = "{self.home}/root"\nstate = "{self.machine.short}/containerd"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{self.socket}"\n'
        )
        self.process = self.machine.daemon("containerd", ["containerd", "--config", config])
        check = self.command("version")
        wait_until("containerd", lambda: subprocess.run(check, capture_output=True, check=False).returncode == 0)

    def close(self):
        if self.process:
            self.machine.end(self.process)
            self.process = None

    def command(self, *args):
        return ["ctr", "-a", self.socket, *args]

    def pull(self, reference):
        return self.command("image", "pull", "--plain-http", reference)

    def run(self, reference):
        self.count += 1
        return self.command("run", "--rm", reference, f"bench-{self.count}", "true")


class Podman(Tool):
    """podman with crun, Debian's default pair."""

    name = "podman"

    def open(self):
        # Its database is made before the clock runs.
        quiet(*self.command("images", "--quiet"))

    def command(self, *args):
        run = self.machine.short / f"podman-{self.turn}"
        roots = ["--root", self.home / "root", "--runroot", run, "--tmpdir", run / "tmp"]
        return ["podman", *roots, "--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--runtime", "crun", *args]

    def pull(self, reference):
        return self.command("pull", "--quiet", "--tls-verify=false", reference)

    def run(self, reference):
        # podman asks for higher limits than may be had everywhere; these may.
        limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
        return self.command("run", "--rm", "--network", "none", *limits, reference, "true")
