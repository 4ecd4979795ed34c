"""Images made to be pulled, as OCI layouts: of many layers, of many files, of one big layer."""

import gzip
import hashlib
import io
import json
import os
import random
import tarfile
from pathlib import Path

from machine import TOP, die

LIBRARIES = Path("/usr/lib")


class Digesting:
    """A file that digests what is written to it."""

    def __init__(self, file):
        self.file = file
        self.digest = hashlib.sha256()

    def write(self, data):
        self.digest.update(data)
        return self.file.write(data)

    def flush(self):
        self.file.flush()


class Layout:
    """An OCI layout with one image, written layer by layer."""

    def __init__(self, folder):
        self.folder = folder
        self.blobs = folder / "blobs" / "sha256"
        self.blobs.mkdir(parents=True)
        self.layers, self.diff_ids = [], []

    def layer(self, fill):
        """Adds the layer that `fill` puts into an archive, packed as most are; returns where it lies."""
        scratch = self.folder / "layer"
        with open(scratch, "wb") as file:
            packed = Digesting(file)
            with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=6, mtime=0) as packer:
                plain = Digesting(packer)
                with tarfile.open(fileobj=plain, mode="w|", format=tarfile.PAX_FORMAT) as archive:
                    fill(archive)
        digest = packed.digest.hexdigest()
        blob = scratch.rename(self.blobs / digest)
        self.layers.append(self._descriptor("layer.v1.tar+gzip", digest, blob.stat().st_size))
        self.diff_ids.append(f"sha256:{plain.digest.hexdigest()}")
        return blob

    def finish(self):
        rootfs = {"type": "layers", "diff_ids": self.diff_ids}
        config = self._document("config.v1+json", {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs})
        manifest = self._document("manifest.v1+json", {
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": self.layers,
        })
        manifest["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
        (self.folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
        (self.folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        return self.folder

    @staticmethod
    def _descriptor(kind, digest, size):
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": size}

    def _document(self, kind, content):
        data = json.dumps(content).encode()
        digest = hashlib.sha256(data).hexdigest()
        (self.blobs / digest).write_bytes(data)
        return self._descriptor(kind, digest, len(data))


def some_libraries(mib):
    """Regular files of this machine's libraries, by name, until they have so many MiB together."""
    left = mib << 20
    for folder, names, files in os.walk(LIBRARIES):
        names.sort()
        for name in sorted(files):
            path = Path(folder) / name
            if path.is_file() and not path.is_symlink():
                yield path
                left -= path.stat().st_size
                if left <= 0:
                    return
    die(f"{LIBRARIES} has not {mib} MiB; install more, or a compiler at least")


def many_layers(folder, count=20, mib=10):
    """So many layers of this size."""
    layout = Layout(folder)
    files = list(some_libraries(count * mib))
    for index in range(count):
        def fill(archive, own=files[index::count]):
            for path in own:
                archive.add(path, recursive=False)
        layout.layer(fill)
    return layout.finish()


def many_files(folder, count=100_000, per_folder=250):
    """So many small files, of up to 4 KiB each, of text that is this project's own."""
    layout = Layout(folder)
    text = b"".join(path.read_bytes() for path in sorted((TOP / "src").rglob("*.rs")))
    chance = random.Random(count)

    def fill(archive):
        for index in range(count):
            if index % per_folder == 0:
                entry = tarfile.TarInfo(f"srv/{index // per_folder}")
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry)
            entry = tarfile.TarInfo(f"srv/{index // per_folder}/{index}.txt")
            entry.size, entry.mtime = chance.randrange(4096), 1_700_000_000
            start = chance.randrange(len(text) - 4096)
            archive.addfile(entry, io.BytesIO(text[start:start + entry.size]))
            # It would remember every entry.
            archive.members.clear()

    layout.layer(fill)
    return layout.finish()


def big_layer(folder, mib=250):
    """One layer of this size before it was packed; returns also where its blob lies."""
    layout = Layout(folder)

    def fill(archive):
        for path in some_libraries(mib):
            archive.add(path, recursive=False)

    blob = layout.layer(fill)
    return layout.finish(), blob
