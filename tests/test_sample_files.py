"""Files of samples: the same pixels whatever the container, and one line for everything that cannot be scored as it is."""

import io
import os
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from fmbench.storage.samples import read_samples

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 1, 6, 4), dtype=np.uint8)
RGB = RNG.integers(0, 256, (3, 3, 6, 4), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    """One (c, h, w) picture."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(buffer, format="PNG")
    return buffer.getvalue()


def folder_of(path, images):
    path.mkdir()
    for i, image in enumerate(images):
        (path / f"{i:03d}.png").write_bytes(png(image))
    return path


def zip_of(path, images):
    with zipfile.ZipFile(path, "w") as archive:
        for i in reversed(range(len(images))):
            archive.writestr(f"samples/{i:03d}.png", png(images[i]))
        archive.writestr("__MACOSX/._000.png", b"no picture")
    return path


@pytest.mark.parametrize("images", [GREY, RGB], ids=["grey", "rgb"])
def test_every_container_gives_the_same_samples(tmp_path, images):
    np.save(tmp_path / "first.npy", images)
    np.save(tmp_path / "last.npy", images.transpose(0, 2, 3, 1))
    np.savez(tmp_path / "a.npz", other=np.zeros(3), samples=images)
    save_file({"only": images}, tmp_path / "a.safetensors")
    floats = (images / 127.5 - 1).astype(np.float32)
    np.save(tmp_path / "floats.npy", floats)
    np.save(tmp_path / "unit.npy", (images / 255).astype(np.float32))
    np.save(tmp_path / "levels.npy", images.astype(np.float32))
    np.save(tmp_path / "rows.npy", images.reshape(len(images), -1))
    ranges = {"floats.npy": None, "unit.npy": "unit", "levels.npy": "bytes"}
    paths = [tmp_path / name for name in ("first.npy", "last.npy", "a.npz", "a.safetensors", "rows.npy", *ranges)]
    paths += [folder_of(tmp_path / "pictures", images), zip_of(tmp_path / "pictures.zip", images)]
    for path in paths:
        got, _ = read_samples(path, images.shape[1:], value_range=ranges.get(path.name))
        assert got.shape == images.shape
        assert got.dtype == torch.float32
        np.testing.assert_allclose(got.numpy(), floats, atol=3e-7, err_msg=path.name)
        assert torch.equal((got * 127.5 + 127.5).round().to(torch.uint8), torch.from_numpy(images)), path.name


def test_grey_pictures_need_no_channel_axis(tmp_path):
    np.save(tmp_path / "a.npy", GREY[:, 0])
    assert read_samples(tmp_path / "a.npy", (1, 6, 4))[0].shape == GREY.shape


def test_vectors_stay_as_they_are(tmp_path):
    x = RNG.normal(size=(7, 3)) * 100
    np.save(tmp_path / "a.npy", x)
    np.testing.assert_array_equal(read_samples(tmp_path / "a.npy", (3,))[0].numpy(), x.astype(np.float32))


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 1e8), (1e200, 0.0)])
def test_vectors_that_float32_cannot_tell_apart_are_refused(tmp_path, scale, shift):
    np.save(tmp_path / "a.npy", RNG.normal(size=(7, 3)) * scale + shift)
    with pytest.raises(ValueError, match="common offset"):
        read_samples(tmp_path / "a.npy", (3,))


def test_equal_samples_are_samples(tmp_path):
    """A collapsed model gives one point again and again; that float32 rounds it is no reason to refuse it."""
    np.save(tmp_path / "a.npy", np.full((5, 2), 0.1))
    assert torch.equal(read_samples(tmp_path / "a.npy", (2,))[0], torch.full((5, 2), 0.1))
    np.save(tmp_path / "b.npy", np.full((5, 2), 1e300))
    with pytest.raises(ValueError, match="common offset"):
        read_samples(tmp_path / "b.npy", (2,))


def test_names_in_a_zip_are_only_names(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for i, name in enumerate(("../up.png", "deep/er/x.png", "./here.png", ".hidden.png", "__MACOSX/x.png")):
            archive.writestr(name, png(GREY[i]))
    assert len(read_samples(tmp_path / "a.zip", (1, 6, 4))[0]) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_what_a_model_overshoots_is_counted_not_refused(tmp_path):
    x = np.linspace(-1.25, 1.25, 24, dtype=np.float32).reshape(1, 1, 6, 4)
    np.save(tmp_path / "a.npy", x)
    got, facts = read_samples(tmp_path / "a.npy", (1, 6, 4))
    assert facts["clipped_share"] == pytest.approx(float((abs(x) > 1).mean()))
    np.testing.assert_array_equal(got.numpy(), x)


def save(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    return tmp_path / "a.npy"


@pytest.mark.parametrize(
    ("array", "options", "words"),
    [
        (np.full((2, 1, 6, 4), 0.5, "f4"), {}, ["0.5", "--range unit"]),
        (np.full((2, 1, 6, 4), 200.0, "f4"), {}, ["200", "--range bytes"]),
        (np.full((2, 1, 6, 4), 16.0, "f4"), {}, ["16", "none of", "scaling"]),
        (np.full((2, 1, 6, 4), 200.0, "f4"), {"value_range": "unit"}, ["200", "unit", "-1 to 1"]),
        (np.linspace(0, 1, 48, dtype="f4").reshape(2, 1, 6, 4), {"value_range": "bytes"}, ["0 to 1", "bytes"]),
        (
            np.linspace(-0.24, 0.94, 48, dtype="f4").reshape(2, 1, 6, 4),
            {},
            ["-0.24 to 0.94", "--range signed, or unit"],
        ),
        (np.full((2, 1, 6, 4), "x"), {}, ["<U1", "uint8"]),
        (GREY % 2, {}, ["uint8", "of at most 1 of 255"]),
        (GREY.astype(np.int64), {}, ["int64", "uint8"]),
        (GREY, {"value_range": "1,2"}, ["'1,2'", "bytes"]),
        (RGB, {}, ["(3, 3, 6, 4)", "(1, 6, 4)"]),
        (np.zeros((0, 1, 6, 4), "f4"), {}, ["no samples", "(0, 1, 6, 4)"]),
        (np.float32(3), {}, ["no samples"]),
    ],
)
def test_bad_arrays_are_one_line(tmp_path, array, options, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the words below say which
        read_samples(save(tmp_path, array), (1, 6, 4), **options)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_overshooting_images_on_the_unit_range_are_never_taken_for_signed(tmp_path):
    """Half the contrast of what a signed image would have: a wrong FD, not an error, if it passed."""
    random = np.random.default_rng(0)
    signed = np.clip(random.normal(0, 1, (50, 1, 6, 4)), -1, 1).astype("f4")
    unit = (signed + 1) / 2 + random.normal(0, 0.02, signed.shape).astype("f4")
    assert unit.min() < 0
    with pytest.raises(ValueError, match="--range signed, or unit"):
        read_samples(save(tmp_path, unit), (1, 6, 4))
    told, _ = read_samples(save(tmp_path, unit), (1, 6, 4), value_range="unit")
    np.testing.assert_allclose(told, signed, atol=0.2)
    read_samples(save(tmp_path, signed), (1, 6, 4))


def test_the_suffix_may_be_written_large(tmp_path):
    np.save(tmp_path / "a.npy", GREY)
    (tmp_path / "a.npy").rename(tmp_path / "A.NPY")
    assert len(read_samples(tmp_path / "A.NPY", GREY.shape[1:])[0]) == len(GREY)


def test_nan_is_counted_and_located(tmp_path):
    x = np.zeros((9, 2))
    x[4, 1], x[7, 0] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"2 NaN or infinite values, the first in sample 4"):
        read_samples(save(tmp_path, x), (2,))


def test_bad_files_are_one_line(tmp_path):
    (tmp_path / "a.pt").write_bytes(pickle.dumps([1]))
    with pytest.raises(ValueError, match="pickles run code"):
        read_samples(tmp_path / "a.pt")
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"objects.npy holds Python objects, which run code"):
        read_samples(tmp_path / "objects.npy")
    with pytest.raises(FileNotFoundError, match=r"nothing\.npy"):
        read_samples(tmp_path / "nothing.npy")
    for name in ("b.npz", "b.zip", "b.safetensors", "b.npy"):
        (tmp_path / name).write_bytes(b"not what the name says")
        with pytest.raises(ValueError, match=name):
            read_samples(tmp_path / name)
    np.savez(tmp_path / "two.npz", a=np.zeros((3, 2)), b=np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"several arrays; choose one with --key: a, b"):
        read_samples(tmp_path / "two.npz")
    assert read_samples(tmp_path / "two.npz", key="b")[0].shape == (3, 2)


def test_pictures_are_never_resized_or_lossy(tmp_path):
    mixed = folder_of(tmp_path / "mixed", [GREY[0], GREY[1][:, :5]])
    with pytest.raises(ValueError, match="nothing is resized"):
        read_samples(mixed)
    lossy = folder_of(tmp_path / "lossy", GREY)
    Image.fromarray(GREY[0, 0]).save(lossy / "x.jpg")
    with pytest.raises(ValueError, match=r"x\.jpg; lossy"):
        read_samples(lossy)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no PNG"):
        read_samples(tmp_path / "empty")
    damaged = folder_of(tmp_path / "damaged", GREY)
    (damaged / "002.png").write_bytes(png(GREY[2])[:40])
    with pytest.raises(ValueError, match=r"002\.png"):
        read_samples(damaged)
    deep = tmp_path / "deep"
    deep.mkdir()
    Image.fromarray(np.zeros((6, 4), np.uint16)).save(deep / "a.png")
    with pytest.raises(ValueError, match="mode I;16"):
        read_samples(deep)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def drawn(width: int, height: int, depth: int, colour: int, extra: bytes = b"") -> bytes:
    """A PNG of zeros, with anything between its head and its pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + head + extra + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (drawn(4, 6, 16, 2), "16 bits per channel"),  # Pillow would drop the lower eight
        (drawn(4, 6, 8, 2, chunk(b"tRNS", bytes(6))), "partly transparent"),
        (drawn(4, 6, 8, 0, chunk(b"acTL", struct.pack(">II", 2, 0))), "is animated"),
        (drawn(4, 6, 8, 6), "mode RGBA"),
        (drawn(2**31 - 1, 2**31 - 1, 8, 0), "2147483647 x 2147483647 pixels, more than 16777216"),
        (drawn(60_000, 60_000, 8, 0), "60000 x 60000 pixels"),
        (drawn(4, 6, 8, 0, chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 5, 8, 0, 0, 0, 0))), "damaged or no PNG"),
        (b"GIF89a", "damaged or no PNG"),
    ],
)
def test_pictures_that_would_lose_something_or_never_end_are_refused(tmp_path, recwarn, picture, words):
    folder = folder_of(tmp_path / "pictures", GREY)
    (folder / "x.png").write_bytes(picture)
    with pytest.raises(ValueError, match=words) as error:
        read_samples(folder)
    assert "picture x.png" in str(error.value)
    assert not recwarn.list


def test_no_changed_byte_of_a_picture_gives_other_pixels(tmp_path):
    """Decoders skip the checksum of the pixels; a picture that lost a bit would be another sample."""
    whole = png(RGB[0])
    for position in range(len(whole)):
        (tmp_path / "p").mkdir(exist_ok=True)
        (tmp_path / "p" / "a.png").write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        with pytest.raises(ValueError, match=r"picture a\.png is damaged or no PNG"):
            read_samples(tmp_path / "p")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: os.mkfifo(folder / "x.png"), r"x\.png is no regular file"),
        (lambda folder: (folder / "x.png").symlink_to(folder.parent / "outside.png"), "a link that leaves the folder"),
        (lambda folder: (folder / "x.png").symlink_to("nothing.png"), "a link to nothing"),
    ],
)
def test_what_is_no_picture_of_the_folder_is_named(tmp_path, make, words):
    folder = folder_of(tmp_path / "pictures", GREY)
    (tmp_path / "outside.png").write_bytes(png(GREY[0]))
    make(folder)
    with pytest.raises(ValueError, match=words):
        read_samples(folder)


def test_what_a_folder_or_zip_holds_besides_is_named_in_the_facts(tmp_path):
    folder = folder_of(tmp_path / "pictures", GREY)
    (folder / "labels.csv").write_text("x")
    (folder / ".hidden").write_text("x")
    (folder / "sub").mkdir()
    (folder / "sub" / "notes.txt").write_text("x")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, str(path.relative_to(folder)))
    for path in (folder, tmp_path / "a.zip"):
        points, facts = read_samples(path)
        assert len(points) == len(GREY)
        assert facts["left_out"] == {"files": 2, "first": ["labels.csv", "sub/notes.txt"]}


def test_a_file_of_several_arrays_says_which_was_read(tmp_path):
    np.savez(tmp_path / "a.npz", labels=np.zeros(5), samples=GREY)
    save_file({"only": GREY}, tmp_path / "b.safetensors")
    facts = [read_samples(tmp_path / name)[1] for name in ("a.npz", "b.safetensors")]
    assert [(f["array"], f.get("arrays")) for f in facts] == [("samples", ["labels", "samples"]), ("only", None)]
    np.savez(tmp_path / "many.npz", **{f"array{i}": np.zeros((2, 2)) for i in range(40)})
    with pytest.raises(ValueError, match=r"choose one with --key: array0, .*, array7 and 32 more$"):
        read_samples(tmp_path / "many.npz")
    with pytest.raises(ValueError, match=r"a\.npy has no named arrays, so there is none to choose; leave --key x out"):
        read_samples(save(tmp_path, GREY), key="x")


@pytest.mark.parametrize("array", [np.asfortranarray(RNG.normal(size=(6, 3))), RNG.normal(size=(6, 3)).astype(">f4")])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i2", "u4"])
def test_any_plain_number_in_any_order_is_read(tmp_path, array, dtype):
    given = array.astype(np.dtype(dtype).newbyteorder(array.dtype.byteorder), order="K")
    found = read_samples(save(tmp_path, given))[0].numpy()
    np.testing.assert_array_equal(found, given.astype(np.float32))
