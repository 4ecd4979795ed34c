"""One folder for everything a measurement makes, and the daemons in it: registry, containerd."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent


def die(message):
    sys.exit(f"bench: {message}")


def quiet(*command, **options):
    """Runs a command that must succeed; its output is shown only when it does not."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        die(f"{' '.join(map(str, command))} failed ({done.returncode}): {done.stdout}{done.stderr}")
    return done.stdout


def wait_until(what, condition, limit=30):
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            die(f"{what} did not come within {limit} s")
        time.sleep(0.02)


class Machine:
    """The folder, and the daemons that run in it."""

    def __init__(self, folder):
        self.folder = folder
        # Some tools refuse the paths of a deep checkout for their sockets.
        self.short = Path(tempfile.mkdtemp(prefix="bench-"))
        self.daemons = []
        self.port = self._start_registry()

    def daemon(self, name, command):
        log = open(self.folder / f"{name}.log", "ab")
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self.daemons.append(process)
        return process

    def end(self, process):
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self.daemons.remove(process)

    def _start_registry(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        config = self.folder / "registry.yml"
        config.write_text(
            f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {self.folder}/registry}}}}\n"
            f"http: {{addr: '127.0.0.1:{port}'}}\n"
        )
        self.daemon("registry", ["docker-registry", "serve", config])

        def up():
            with socket.socket() as client:
                return client.connect_ex(("127.0.0.1", port)) == 0

        wait_until("the registry", up)
        return port

    def push(self, layout, name):
        """Puts an OCI layout into the registry, and returns the reference to it."""
        reference = f"127.0.0.1:{self.port}/bench/{name}:latest"
        quiet("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}:latest", f"docker://{reference}")
        return reference

    def remove(self, folder):
        """Removes a folder with what is mounted in it."""
        for mount in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            place = mount.split()[1]
            if Path(place).is_relative_to(folder):
                subprocess.run(["umount", "-l", place], check=False)
        shutil.rmtree(folder, ignore_errors=True)

    def stop(self):
        for process in reversed(list(self.daemons)):
            self.end(process)
        self.remove(self.short)
        self.remove(self.folder)


def settle(folder):
    """Waits until the disk below a folder is done with what was removed: ext4 discards blocks behind one's back."""
    os.sync()
    device = os.stat(folder).st_dev
    counters = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    if not counters.exists():
        return
    # Others may remove things too.
    end = time.monotonic() + 20
    last = None
    # Field 12 counts finished discards (Documentation/block/stat.rst).
    while (now := counters.read_text().split()[11:12]) != last and time.monotonic() < end:
        last = now
        time.sleep(1)
