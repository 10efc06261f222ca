import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ckncuda.data import open_images
from ckncuda.data.challenge_csv import ChallengeCsv
from ckncuda.errors import InvalidData, InvalidSpec

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
        ("tag,a,b,c,d", [0, 1, 2, 3]),
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
        ("1;2;3;4\n" * 2, "by semicolons; .*separate the values by commas"),
        ("1,5;2,5;3,5;4,5\n" * 2, "by semicolons, and decimal commas"),
        (
            '"1,5","2,5","3,5","4,5"\n' * 2,
            "8 values a line.*decimal commas: write decimal points",
        ),
        ('"1,5","2,5","3,5","4,5"\n1,2,3,4\n', "8 values a line, expected 4.*decimal commas"),
        ("1\t2\t3\t4\n" * 2, "by tabs"),
        ("1 2 3 4\n" * 2, "by spaces"),
        ("1,2,3,4\r5,6,7,8\r", "lines end in CR alone"),
        ("a,b,c,d\r5,6,7,8\r", "lines end in CR alone"),
        ("# by hand\n1,2,3,4\n", "line 1 is a comment"),
        ("1,2,3,4\n# more\n1,2,3,4\n", "line 2 has 1 values, expected 4.*is a comment"),
        ("\n1,2,3,4\n", "line 1 is blank"),
        ("\n\na,b,c,d\n1,2,3,4\n", "line 1 is blank"),
        (",,,\n1,2,3,4\n", "line 1 holds empty cells alone"),
        ("filename,label\na.png,3\n", "seem to be labels: .*--labels"),
        ("a.png,3\nb.png,4\n", "seem to be labels: .*--labels"),
        (
            "id,label,a,b,c,d\n1,0,1,2,3,4\n",
            "remove the columns that are not pixels: id, label; with cut -d, -f3- ",
        ),
        (
            ",label,a,b,c,d\n1,0,1,2,3,4\n",
            "not pixels: the first, which has no name, label; with cut -d, -f3- ",
        ),
        ("1,2,3,4,,,\n" * 2, "the lines end in empty cells, 2 each: remove them"),
        ("3,1,2,3,4\n" * 2, "the first, with cut -d, -f2- .*; if the last, with cut -d, -f-4 "),
        ("Id,Prediction\n1,4\n2,5\n", "seem to be labels: .*--labels"),
        ("id,label,split\n1,4,0\n2,5,0\n", "seem to be labels: .*--labels"),
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


def test_number_of_values_that_is_no_image_of_a_size_that_is_given(tmp_path):
    message = r"3 values a line, expected 16 \(4x4x1\): give images of this size"
    with pytest.raises(InvalidData, match=message):
        open_images(write(tmp_path / "X.csv", [[1, 2, 3]]), image_shape=(4, 4, 1))


@pytest.mark.parametrize("text", ["x", "", "1.2.3", "1_0", "0x10", '"x"', "1 2", "\u0663\u00e9"])
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
    with pytest.raises(InvalidSpec, match="expected height, width and channels"):
        open_images(write(tmp_path / "X.csv", [[1, 2, 3, 4]]), image_shape=shape)


@pytest.mark.parametrize("images_a_block", [50, 1000])
def test_memory_is_bounded_by_the_block(tmp_path, peak_memory, images_a_block):
    path = write(tmp_path / "X.csv", np.ones((1000, 784), np.float32) / 3)
    size = path.stat().st_size
    with peak_memory() as peak, open_images(path) as source:
        total = sum(block.sum() for block in source.blocks(images_a_block))
    assert total == pytest.approx(1000 * 784 / 3, rel=1e-5)
    assert peak() < size / 3 + 1.5 * images_a_block * 784 * 4  # a block, what checks it, and some text


NO_HEADERS = [
    *("NA,NA,NA,NA", "NULL,NULL,NULL,NULL", "nan,nan,nan,nan", "N/A,N/A,N/A,N/A", "-,-,-,-", "?,?,?,?"),
    *("a,b,NA,d", "a,b,,d", "a,b,3,d", "5,b,c,d", "inf,-inf,inf,inf", "None,None,None,None"),
    *(
        "true,false,true,false",
        "<NA>,<NA>,<NA>,<NA>",
        ",,,,",
        "1e9999,a,b,c",
        "NA,0,1,2",
        '"NA","NA","NA","NA"',
    ),
]


@pytest.mark.parametrize("line", NO_HEADERS)
def test_a_first_line_that_may_be_an_image_is_not_left_out(tmp_path, line):
    (tmp_path / "X.csv").write_text(f"{line}\n1,2,3,4\n5,6,7,8\n")
    source = ChallengeCsv(tmp_path / "X.csv", (2, 2, 1))
    assert len(source) == 3
    with pytest.raises(InvalidData, match="line 1, column"):
        source.read(0, 3)


@pytest.mark.parametrize("quoted", [[0], [1], [0, 1, 2], [2]])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_numbers_in_quotes_are_numbers(tmp_path, quoted, newline):
    rows = [["5", "-6.5", "7e1", "8"], ["1", "2", "3", "4"], ["0", "1", "2", "3"]]
    lines = [",".join(f'"{cell}"' if i in quoted else cell for cell in row) for i, row in enumerate(rows)]
    (tmp_path / "X.csv").write_bytes((newline.join(lines) + newline).encode())
    source = open_images(tmp_path / "X.csv", image_shape=(2, 2, 1))
    np.testing.assert_array_equal(source.read(0, 3).reshape(3, 4), np.array(rows, np.float32))


@pytest.mark.parametrize(
    ("header", "names"),
    [
        ("pixel0,pixel1,pixel2,pixel3", "pixel0, pixel1, pixel2, ..."),
        ("0,1,2,3", "0, 1, 2, ..."),
        ('"a,b",c,d\x1b[31m,e', r"a,b, c, d\x1b[31m, ..."),
    ],
)
def test_a_header_is_said(tmp_path, header, names):
    path = write(tmp_path / "X.csv", [[5, 6, 7, 8], [1, 2, 3, 4]], after="", header=header)
    source = ChallengeCsv(path, (2, 2, 1))
    assert len(source) == 2
    assert source.notes == (f"line 1 is taken for a header, not an image: {names}",)


@pytest.mark.parametrize(
    ("header", "labels"),
    [
        ([*range(16)], None),
        ([*range(1, 17)], None),  # where pandas' first column was taken out
        ([*range(2, 18)], None),
        (["", *range(16)], None),
        (["label", *range(16)], 0),
        (["label", *range(1, 17)], 0),
        ([*range(16), "label"], 16),
        ([*range(1, 17), "class"], 16),
    ],
)
def test_a_header_that_counts(tmp_path, header, labels):
    pixels = np.arange(3 * 16).reshape(3, 16) * 2 + 1
    rows = pixels.tolist()
    for i, row in enumerate(rows):
        row[len(row) if labels else 0 : 0] = [] if len(header) == 16 else [i]
    write(tmp_path / "X.csv", rows, after="", header=",".join(map(str, header)))
    source = ChallengeCsv(tmp_path / "X.csv", (4, 4, 1))
    np.testing.assert_array_equal(source.read(0, 3).reshape(3, 16), pixels)
    assert (source.labels is None) == (labels is None)


@pytest.mark.parametrize(("start", "step"), [(0, 1), (1, 1), (7, 1), (0, 2), (-3, 1)])
@pytest.mark.parametrize(("after", "last"), [("", ""), (",", "\n")])
def test_images_that_count_on_have_no_header(tmp_path, start, step, after, last):
    rows = start + step * np.arange(3 * 16).reshape(3, 16)
    source = ChallengeCsv(write(tmp_path / "X.csv", rows, after=after, last=last), (4, 4, 1))
    np.testing.assert_array_equal(source.read(0, 3).reshape(3, 16), rows)


@pytest.mark.parametrize("row", [[1, 2, 3, 4], [5, 6, 7, 8], [0, 1, 2, 4], [0, 0, 0, 0], [0, 0.1, 0.2, 0.3]])
def test_a_first_image_that_counts_a_little_is_no_header(tmp_path, row):
    source = ChallengeCsv(write(tmp_path / "X.csv", [row, [9, 9, 9, 9]], after=""), (2, 2, 1))
    np.testing.assert_allclose(source.read(0, 2).reshape(2, 4), [row, [9, 9, 9, 9]])


@pytest.mark.parametrize(
    "first", [[0] * 16, [0, 0, 0, 7] * 4, [0.5] * 16, [-1.5, 0.5] * 8, [255] * 11 + [3] * 5]
)
@pytest.mark.parametrize("quote", ["", '"'])
def test_a_first_image_that_became_names_of_columns_is_refused(tmp_path, first, quote):
    seen, names = {}, []
    for value in map(str, first):  # as pandas makes names unique
        seen[value] = seen.get(value, -1) + 1
        names.append(value if not seen[value] else f"{value}.{seen[value]}")
    header = ",".join(f"{quote}{name}{quote}" for name in names)
    path = write(tmp_path / "X.csv", [[3] * 16, [4] * 16], after="", header=header)
    with pytest.raises(InvalidData, match=r"line 1 is an image that pandas took.*header=None.*header=False"):
        ChallengeCsv(path, (4, 4, 1))


def test_a_column_that_counts_the_images_is_said(tmp_path):
    path = write(tmp_path / "X.csv", [[i, 9, 8, 7, 6] for i in range(4)], after="")
    assert ChallengeCsv(path, (2, 2, 1)).notes == ("column 1 counts the images, and is left out",)


LABEL_HEADERS = ["label,a,b,c,d", "a,b,c,d,label", '"Label","a","b","c","d"', "class,0,1,2,3", "y,a,b,c,d,"]


@pytest.mark.parametrize("header", LABEL_HEADERS)
@pytest.mark.parametrize("form", ["{}", '"{}"', "{}.0"])
def test_a_column_that_the_header_names_holds_the_labels(tmp_path, header, form):
    last = header.startswith("a,")
    labels, pixels = [3, 0, 7, 7], [[9, 8, 7, 6 + i] for i in range(4)]
    rows = [list(map(str, row)) for row in pixels]
    for row, label in zip(rows, labels, strict=True):
        row.insert(4 if last else 0, form.format(label))
    source = ChallengeCsv(write(tmp_path / "X.csv", rows, after="", header=header), (2, 2, 1))
    assert source.labels.tolist() == labels
    np.testing.assert_array_equal(source.read(1, 4).reshape(3, 4), pixels[1:])
    assert source.notes[1] == f"column {5 if last else 1} holds the labels"


def test_mnist_of_a_competition(tmp_path):
    header = ",".join(["label", *(f"pixel{i}" for i in range(784))])
    rows = [[i, *range(784)] for i in (7, 2, 1)]
    source = open_images(write(tmp_path / "train.csv", rows, after="", header=header))
    assert (source.shape, source.labels.tolist()) == ((3, 28, 28, 1), [7, 2, 1])
    pixels = [row[1:] for row in rows]
    test = open_images(write(tmp_path / "test.csv", pixels, after="", header=header.removeprefix("label,")))
    assert (test.shape, test.labels) == ((3, 28, 28, 1), None)
    np.testing.assert_array_equal(test.read(0, 3), source.read(0, 3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,a,b,c,d\ncat,1,2,3,4\n", "label 'cat' in line 2; expected an integer"),
        ("label,a,b,c,d\n1,1,2,3,4\n-1,1,2,3,4\n", "label '-1' in line 3; expected an integer"),
        ("label,a,b,c,d\n1.5,1,2,3,4\n", "label '1.5' in line 2"),
        ("label,a,b,c\n1,1,2,3\n", "names a column of labels, label, and with it there are 4 values"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path, text, message):
    (tmp_path / "X.csv").write_text(text)
    with pytest.raises(InvalidData, match=message):
        ChallengeCsv(tmp_path / "X.csv", (2, 2, 1))


@pytest.mark.parametrize("unit", [b"1", b"1,", b"\0", b"a", b'"', b" ", b"1,2,3,4\r"])
def test_an_endless_line_ends_at_a_bound(tmp_path, unit):
    (tmp_path / "X.csv").write_bytes(unit * ((40 << 20) // len(unit)))
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(InvalidData, match="longer than|zero bytes|CR alone"):
        ChallengeCsv(tmp_path / "X.csv", (2, 2, 1))
    seconds, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 2
    assert peak < 100 << 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-9], "shorter while it was read"),
        (lambda text: b"", "shorter while it was read"),
        (lambda text: text.replace(b"\n", b","), "was changed while it was read"),
        (lambda text: text.replace(b",", b"\n"), "was changed while it was read"),
        (lambda text: b"x" * len(text), "was changed while it was read"),
    ],
)
def test_files_that_change_while_they_are_read(tmp_path, change, message):
    path = write(tmp_path / "X.csv", [[i, 2, 3, 4] for i in range(9)])
    source = ChallengeCsv(path, (2, 2, 1))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InvalidData, match=message):
        source.read(0, 9)


@pytest.mark.parametrize("begin", [b"", b"1," * 783 + b"1\n", b"\xef\xbb\xbf"])
def test_lines_that_stay_blank_are_given_up(tmp_path, begin):
    (tmp_path / "x.csv").write_bytes(begin + b"\n" * (8 << 20))
    start = time.process_time()
    with pytest.raises(InvalidData, match="is blank, but not the last"):
        ChallengeCsv(tmp_path / "x.csv")
    assert time.process_time() - start < 0.3
