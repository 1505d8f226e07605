"""Pictures and labels: every format reads the same pictures, and what is wrong is named."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from algo.datasets import CIFAR10_CLASSES, Dataset, load_dataset
from hdl.config import MvqError
from tests.algo.conftest import DATA

MEAN, STD = (0.4, 0.5, 0.6), (0.25, 0.5, 1.0)


def pixels(count, rows=32, columns=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, rows, columns, 3), dtype=np.uint8)


def normalised(x):
    return ((x / 255 - MEAN) / STD).transpose(0, 3, 1, 2)


def agrees(dataset, x, labels):
    assert dataset.images.shape == torch.Size((len(x), 3, *x.shape[1:3]))
    np.testing.assert_allclose(dataset.images[:].numpy(), normalised(x), rtol=1e-5, atol=1e-5)
    assert dataset.images.dtype == torch.float32
    assert dataset.labels.dtype == torch.int64
    assert dataset.labels.tolist() == list(labels)


def write_binary(folder, x, y):
    """CIFAR-10's files of 2 images each: five of training, one of test."""
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    for at, name in enumerate(names):
        part = slice(2 * at, 2 * at + 2)
        records = [
            bytes([label]) + image.transpose(2, 0, 1).tobytes() for image, label in zip(x[part], y[part], strict=True)
        ]
        (folder / f"{name}.bin").write_bytes(b"".join(records))


def write_png(folder, x, y):
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    for at, name in enumerate(names):
        Image.fromarray(x[2 * at : 2 * at + 2].reshape(2, 1024, 3)).save(folder / f"{name}.png")
    (folder / "train_lables.json").write_text(json.dumps([int(label) for label in y[:10]]))
    (folder / "test_lables.json").write_text(json.dumps([int(label) for label in y[10:]]))


LABELS = np.arange(12) % 10


@pytest.mark.parametrize("write", [write_binary, write_png])
@pytest.mark.parametrize("below", ["", "package", "cifar-10-batches-bin"])
def test_cifar10_batches(tmp_path, write, below):
    x, folder = pixels(12), tmp_path / below
    folder.mkdir(exist_ok=True)
    write(folder, x, LABELS)
    steps = []
    train = load_dataset(tmp_path, split="train", mean=MEAN, std=STD, progress=lambda *step: steps.append(step))
    agrees(train, x[:10], LABELS[:10])
    assert steps[-1] == ("read", 5, 5)
    assert train.classes == list(CIFAR10_CLASSES)
    agrees(load_dataset(tmp_path, mean=MEAN, std=STD), x[10:], LABELS[10:])
    agrees(load_dataset(tmp_path, split="train", mean=MEAN, std=STD, count=3), x[:3], LABELS[:3])


def test_npz_of_pixels_and_of_numbers(tmp_path):
    x = pixels(3, 4, 5)
    np.savez(tmp_path / "test.npz", x=x, y=np.uint8([7, 8, 9]))
    agrees(load_dataset(tmp_path / "test.npz", mean=MEAN, std=STD), x, [7, 8, 9])
    agrees(load_dataset(tmp_path, mean=MEAN, std=STD, count=2), x[:2], [7, 8])
    fails(r"split = 'train': .* has only test\.npz; the nearest legal value is 'test'", tmp_path, split="train")
    real = np.random.default_rng(0).normal(size=(2, 6, 4, 4))
    np.savez(tmp_path / "real.npz", x=real)
    dataset = load_dataset(tmp_path / "real.npz")
    assert dataset.labels is None
    np.testing.assert_array_equal(dataset.images.numpy(), real.astype(np.float32))


@pytest.fixture
def folder(tmp_path):
    """Three pictures of class "bee", two of "ant", all of 8 x 8."""
    x = pixels(5, 8, 8)
    for name, images in (("bee", x[:3]), ("ant", x[3:])):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / "set" / name / f"{number}.png")
    (tmp_path / "set" / "notes").mkdir()
    return tmp_path / "set", np.concatenate([x[3:], x[:3]])


def test_a_folder_for_each_class(folder):
    path, x = folder
    dataset = load_dataset(path, mean=MEAN, std=STD)
    agrees(dataset, x, [0, 0, 1, 1, 1])
    assert dataset.classes == ["ant", "bee"]
    assert load_dataset(path, count=2).labels.tolist() == [0, 1]  # something of each class


def test_pictures_are_indexed_like_a_tensor(folder):
    path, x = folder
    images = load_dataset(path, mean=MEAN, std=STD).images
    expected = torch.from_numpy(normalised(x)).float()
    for index in (2, -1, slice(1, 4), [4, 0], torch.tensor([3, 3]), torch.tensor([True, False, True, False, False])):
        torch.testing.assert_close(images[index], expected[index], rtol=1e-5, atol=1e-5)
    assert [part.shape[0] for part in images.split(2)] == [2, 2, 1]
    assert images[[]].shape == (0, 3, 8, 8)
    with pytest.raises(IndexError):
        images[5]


def test_pictures_are_read_only_when_asked_for(folder, monkeypatch):
    path, _ = folder
    opened, real = [], Image.open
    monkeypatch.setattr(Image, "open", lambda file: opened.append(file.name) or real(file))
    images = load_dataset(path, size=8).images
    assert opened == []
    images[3]
    assert opened == ["1.png"]


def test_table_of_pictures(tmp_path):
    x = pixels(3, 6, 6)
    for name, image in zip("abc", x, strict=True):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    (tmp_path / "images.csv").write_text("ImageId,Author,TrueLabel\nc,x,306\na,y,1\n")
    agrees(load_dataset(tmp_path, mean=MEAN, std=STD), x[[2, 0]], [305, 0])
    (tmp_path / "images.csv").unlink()
    unlabelled = load_dataset(tmp_path)
    assert (len(unlabelled), unlabelled.labels) == (3, None)


def test_imagenet_crops_the_middle(tmp_path):
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, 16:48] = 255
    for split, wnid in (("train", "n01440764"), ("val", "n01440764"), ("val", "n01443537")):
        (tmp_path / split / wnid).mkdir(parents=True)
        Image.fromarray(wide).save(tmp_path / split / wnid / "x.JPEG", quality=100)
    (tmp_path / "train" / "n01440764").rename(tmp_path / "away")
    fails("split = 'train': .* has only val; the nearest legal value is 'test'", tmp_path, split="train")
    (tmp_path / "away").rename(tmp_path / "train" / "n01440764")
    dataset = load_dataset(tmp_path, size=28)  # short side to 32, then the middle 28
    assert dataset.images.shape == (2, 3, 28, 28)
    assert float(dataset.images[0].min()) > 0.95
    assert dataset.labels.tolist() == [0, 1]
    assert len(load_dataset(tmp_path, split="train")) == 1
    assert load_dataset(tmp_path).images.shape == (2, 3, 224, 224)
    half = load_dataset(tmp_path, size=16, resize=16).images[0]  # shrinks to 16 x 32
    assert float(half[:, :, 2:-2].min()) > 0.9


def test_arrays_are_resized_like_pictures(tmp_path):
    x = pixels(2, 8, 16)
    np.savez(tmp_path / "x.npz", x=x)
    for name, image in zip("ab", x, strict=True):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    arrays, pictures = load_dataset(tmp_path / "x.npz", size=4), load_dataset(tmp_path, size=4)
    assert torch.equal(arrays.images, pictures.images[:])


def test_grey(tmp_path):
    Image.fromarray(np.full((4, 4), 51, np.uint8)).save(tmp_path / "a.png")
    images = load_dataset(tmp_path, channels=1, std=0.5).images
    torch.testing.assert_close(images[:], torch.full((1, 1, 4, 4), 0.4))


# ---- what is wrong ------------------------------------------------------------------------------------------------


def fails(match, *arguments, **options):
    def read():
        return load_dataset(*arguments, **options).images[:]

    with pytest.raises(MvqError, match=match) as caught:
        read()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "dev"}, "split = 'dev': must be one of train, test"),
        ({"size": 0}, "size = 0: must be at least 1"),
        ({"count": -1}, "count = -1"),
        ({"mean": (0.1, 0.2)}, "mean has 2 values, but the images have 3 channels"),
        ({"std": (0.1, 0.0, 0.2)}, "std = .*above 0"),
        ({"size": 8, "resize": 4}, "resize = 4: must be at least the size that is cut out, 8"),
        ({"channels": 4}, "channels = 4"),
    ],
)
def test_options_that_cannot_be(folder, options, message):
    fails(message, folder[0], **options)


def test_files_that_are_not_there(tmp_path):
    fails("nowhere: there is no such file or folder", tmp_path / "nowhere")
    fails("holds no images; it must be .npz", tmp_path)
    write_binary(tmp_path, pixels(12), LABELS)
    (tmp_path / "data_batch_3.bin").unlink()
    fails("lacks data_batch_3.bin of CIFAR-10's train split", tmp_path, split="train")


def test_npz_that_does_not_fit(tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(b"no zip")
    fails(r"x.npz: cannot be read as \.npz", path)
    for arrays, message in (
        ({"y": np.zeros(3)}, "holds no 'x'"),
        ({"x": np.zeros((3, 4))}, r"'x' of shape \(3, 4\)"),
        ({"x": np.zeros((2, 4, 4, 3), np.int16)}, "not int16"),
        ({"x": pixels(3, 4, 4), "y": np.zeros(2, int)}, r"has 3 images, but labels of shape \(2,\)"),
        ({"x": np.full((1, 1, 2, 2), np.nan)}, "NaN or infinity"),
    ):
        np.savez(path, **arrays)
        fails(message, path)
    np.savez(path, x=np.zeros((1, 1, 2, 2)))
    fails("mean, std and size are for uint8", path, mean=(0.5,))


def test_batches_that_do_not_fit(tmp_path):
    write_binary(tmp_path, pixels(12), LABELS)
    (tmp_path / "test_batch.bin").write_bytes(bytes(3074))
    fails("test_batch.bin: has 3074 bytes, but must have 3073 for each image", tmp_path)
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    write_png(tmp_path, pixels(12), LABELS)
    (tmp_path / "test_lables.json").write_text("[1, 2, 3]")
    fails("test_lables.json: must hold a label for each of 2 images, but holds 3", tmp_path)
    (tmp_path / "test_lables.json").write_text("[1,")
    fails("is truncated or no JSON", tmp_path)
    (tmp_path / "test_lables.json").unlink()
    fails("lacks the labels, test_lables.json", tmp_path)
    Image.fromarray(pixels(1, 2, 100)[0]).save(tmp_path / "test_batch.png")
    fails("rows of 100 pixels, but an image has 1024", tmp_path)


def test_pictures_that_do_not_fit(folder):
    path, _ = folder
    file = path / "bee" / "1.png"
    Image.fromarray(pixels(1, 9, 8)[0]).save(file)
    fails(r"bee/1.png: is 9 x 8 pixels, but the first picture is 8 x 8", path)
    file.write_bytes(file.read_bytes()[:60])
    fails(r"bee/1.png: cannot be read as a picture", path, size=8)
    file.write_text("no picture")
    fails(r"bee/1.png: cannot be read as a picture", path, size=8)


def test_tables_that_do_not_fit(tmp_path):
    Image.fromarray(pixels(1)[0]).save(tmp_path / "a.png")
    for table, message in (
        ("ImageId,Class\na,1\n", "lacks the column TrueLabel"),
        ("ImageId,TrueLabel\na,1\nb,1\n", "line 3 names the picture 'b', which is not in"),
        ("ImageId,TrueLabel\na,cat\n", "line 2: TrueLabel = 'cat' is no number"),
    ):
        (tmp_path / "images.csv").write_text(table)
        fails(message, tmp_path)


def test_datasets_that_do_not_fit_a_network():
    images = torch.zeros(3, 3, 8, 8)
    dataset = Dataset(images, torch.tensor([0, 9, 4]), None, "pets")
    dataset.check((3, 8, 8), 10)
    with pytest.raises(MvqError, match=r"images are 3 x 8 x 8, but the network takes 3 x 32 x 32; .*--size 32"):
        dataset.check((3, 32, 32))
    with pytest.raises(MvqError, match="pets: holds the label 9, but the network has 5 classes, 0 to 4"):
        dataset.check((3, 8, 8), 5)
    with pytest.raises(MvqError, match="pets: has no labels"):
        Dataset(images, None, None, "pets").check((3, 8, 8), 5)
    with pytest.raises(MvqError, match="label -1"):
        Dataset(images, torch.tensor([0, -1, 4])).check((3, 8, 8), 5)


# ---- real ones ----------------------------------------------------------------------------------------------------


def test_nips1000():
    if not (DATA / "nips1000").is_dir():
        pytest.skip(f"the pictures are not in {DATA / 'nips1000'}")
    dataset = load_dataset(DATA / "nips1000", size=224)
    assert dataset.images.shape == (1000, 3, 224, 224)
    dataset.check((3, 224, 224), 1000)
    assert dataset.labels[:2].tolist() == [305, 883]
    assert dataset.images[[0, 999]].shape == (2, 3, 224, 224)


def test_cifar10_test_images():
    if not (DATA / "cifar10" / "test.npz").is_file():
        pytest.skip(f"the images are not in {DATA / 'cifar10'}")
    dataset = load_dataset(DATA / "cifar10", count=100)
    dataset.check((3, 32, 32), 10)
    assert dataset.labels[:8].tolist() == [3, 8, 8, 0, 6, 6, 1, 6]
