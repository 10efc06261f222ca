import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ckncuda.data import open_images
from ckncuda.data.challenge_csv import ChallengeCsv
from ckncuda.errors import InvalidData

FINITE = st.floats(-(2.0**53), 2.0**53, width=32)


def planar(images):
    """Rows of channel after channel, written by index so that it shares nothing with the reader."""
    n, h, w, c = images.shape
    return [[images[i, y, x, k] for k in range(c) for y in range(h) for x in range(w)] for i in range(n)]


def write(path, rows, *, after=",", newline="\n", last="\n", header=None):
    cells = ([f"{v:.9g}" if isinstance(v, np.floating) else str(v) for v in row] for row in rows)
    lines = [] if header is None else [header]
    lines += [",".join(row) + after for row in cells]
    path.write_bytes((newline.join(lines) + last).encode())
    return path


@pytest.fixture
def images():
    return np.random.default_rng(0).standard_normal((7, 4, 3, 2)).astype(np.float32)


@pytest.mark.parametrize("after", [",", ""])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "\n", "\r\n", "\n\n \n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_dialects(tmp_path, images, after, newline, last, mark):
    path = write(tmp_path / "X.csv", planar(images), after=after, newline=newline, last=last)
    path.write_bytes(mark + path.read_bytes())
    source = open_images(path, image_shape=images.shape[1:])
    assert (source.shape, source.dtype) == (images.shape, np.float32)
    np.testing.assert_array_equal(source.read(0, 7), images)
    np.testing.assert_array_equal(source.read(6, 7), images[6:])


@settings(max_examples=40, deadline=None)
@given(
    images=hnp.arrays(np.float32, hnp.array_shapes(min_dims=4, max_dims=4, max_side=5), elements=FINITE),
    size=st.integers(1, 6),
)
def test_round_trip(tmp_path_factory, images, size):
    path = write(tmp_path_factory.mktemp("csv") / "X.csv", planar(images))
    source = ChallengeCsv(path, images.shape[1:])
    np.testing.assert_array_equal(np.concatenate(list(source.blocks(size))), images)


@pytest.mark.parametrize(("values", "shape"), [(3072, (32, 32, 3)), (784, (28, 28, 1))])
def test_shape_by_number_of_values(tmp_path, values, shape):
    rows = 1 + np.arange(2 * values).reshape(2, values)
    source = open_images(write(tmp_path / "X.csv", rows))
    assert source.shape == (2, *shape)
    assert source.description == f"challenge CSV X.csv, 2 images of {shape[0]}x{shape[1]}x{shape[2]}"
    h, w, c = shape
    assert source.read(1, 2)[0, 3, 2, c - 1] == 1 + values + (c - 1) * h * w + 3 * w + 2


def test_more_rows_than_are_parsed_at_once(tmp_path):
    rows = 7 + np.arange(300 * 4).reshape(300, 4)
    source = ChallengeCsv(write(tmp_path / "X.csv", rows), (2, 2, 1))
    np.testing.assert_array_equal(source.read(100, 290).reshape(190, 4), rows[100:290])
    np.testing.assert_array_equal(source.read(5, 9).reshape(4, 4), rows[5:9])


@pytest.mark.parametrize("header", ["r0,r1,r2,r3", "0,1,2,3", '"a","b","c","d",', "0,1,2,3,"])
def test_header(tmp_path, header):
    path = write(tmp_path / "X.csv", [[5, 6, 7, 8], [1, 2, 3, 4]], after="", header=header)
    source = ChallengeCsv(path, (2, 2, 1))
    assert source.read(0, 2).ravel().tolist() == [5, 6, 7, 8, 1, 2, 3, 4]


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("header", [",0,1,2,3", ",a,b,c,d", "Id,a,b,c,d", "a,b,c,d", None])
def test_index_column(tmp_path, header, start):
    rows = [[start + i, 9, 8, 7, 6 + i] for i in range(4)]
    path = write(tmp_path / "X.csv", rows, after="", header=header)
    source = ChallengeCsv(path, (2, 2, 1))
    assert (source.shape, source.read(1, 2).ravel().tolist()) == ((4, 2, 2, 1), [9, 8, 7, 7])


@pytest.mark.parametrize(
    ("header", "firsts"),
    [
        (None, [0, 1]),  # two lines may begin so by chance
        (None, [0, 1, 3]),
        (None, [3, 1, 4, 1]),
        ("label,a,b,c,d", [0, 1, 2, 3]),
        (",a,b,c,d", [2, 3, 4]),
    ],
)
def test_a_column_too_many_that_may_be_labels(tmp_path, header, firsts):
    path = write(tmp_path / "X.csv", [[first, 9, 8, 7, 6] for first in firsts], header=header, after="")
    with pytest.raises(InvalidData, match=r"5 values a line, expected 4 \(2x2x1\).*remove the column"):
        ChallengeCsv(path, (2, 2, 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,c\n5,6,7,8,\n", "3 names, but the lines have 4 values"),
        ("1;2;3;4\n" * 2, "separate the values by commas"),
        ("a,b,c,d\n1,2,3,4\n1,2,3,4\n1,2,3\n", "line 4 has 3 values, expected 4"),
        ("a,b,c,d\n1,2,3,4\n1,2,3,4\n1,2,3,4,5\n", "line 4 has 5 values, expected 4"),
        ("1,2,3,4\n\n1,2,3,4\n", "line 2 is blank"),
        ("", "holds no images"),
        ("\n\n", "holds no images"),
        ("a,b,c,d\n", "holds no images"),
    ],
)
def test_lines_that_are_no_images_of_one_size(tmp_path, text, message):
    (tmp_path / "X.csv").write_text(text)
    with pytest.raises(InvalidData, match=message):
        ChallengeCsv(tmp_path / "X.csv", (2, 2, 1))


def test_first_line_with_a_bad_cell_is_no_header(tmp_path):
    path = write(tmp_path / "X.csv", [[5, "oops", 7, 8], [1, 2, 3, 4]])
    source = ChallengeCsv(path, (2, 2, 1))
    assert len(source) == 2
    with pytest.raises(InvalidData, match="'oops' in line 1, column 2"):
        source.read(0, 1)


def test_number_of_values_that_is_no_images(tmp_path):
    message = r"3 values a line, expected 3072 \(32x32x3\) or 784.*--image-shape"
    with pytest.raises(InvalidData, match=message):
        open_images(write(tmp_path / "X.csv", [[1, 2, 3]]))


@pytest.mark.parametrize("text", ["x", "", "1.2.3", "1_0", "0x10", '"3"', "1 2", "\u0663\u00e9"])
@pytest.mark.parametrize("after", [",", ""])
@pytest.mark.parametrize("indexed", [False, True])
def test_not_a_number(tmp_path, text, after, indexed):
    rows = [[i] * indexed + [5, 6, 7, 8] for i in range(3)]
    rows[1][2 + indexed] = text
    header = ",0,1,2,3" if indexed else None
    path = write(tmp_path / "X.csv", rows, after=after, header=header)
    source = ChallengeCsv(path, (2, 2, 1))
    assert len(source.read(0, 1)) == 1
    with pytest.raises(InvalidData) as caught:
        source.read(0, 3)
    place = f"line {2 + indexed}, column {3 + indexed} (image 2)"
    assert f"{path}: {text!r} in {place}; expected a number" in str(caught.value)


@pytest.mark.parametrize("text", ["nan", "-inf", "1e39"])
def test_not_finite(tmp_path, text):
    rows = [[0] * 8 for _ in range(4)]
    rows[2][5] = text  # planar 2x2x2: channel 2, first row, second column
    path = write(tmp_path / "X.csv", rows)
    with pytest.raises(InvalidData, match=r"line 3, column 6 \(image 3\).*finite"):
        ChallengeCsv(path, (2, 2, 2)).read(0, 4)


@pytest.mark.parametrize("shape", [(2, 2), (0, 4, 1), (2, -2, -1)])
def test_image_shape_that_is_none(tmp_path, shape):
    with pytest.raises(InvalidData, match="expected height, width and channels"):
        open_images(write(tmp_path / "X.csv", [[1, 2, 3, 4]]), image_shape=shape)


@pytest.mark.parametrize("images_a_block", [50, 1000])
def test_memory_is_bounded_by_the_block(tmp_path, peak_memory, images_a_block):
    path = write(tmp_path / "X.csv", np.ones((1000, 784), np.float32) / 3)
    size = path.stat().st_size
    with peak_memory() as peak, open_images(path) as source:
        total = sum(block.sum() for block in source.blocks(images_a_block))
    assert total == pytest.approx(1000 * 784 / 3, rel=1e-5)
    assert peak() < size / 3 + 1.5 * images_a_block * 784 * 4  # a block, what checks it, and some text
