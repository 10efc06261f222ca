"""Commands in processes of their own: they end, and say, as calls within the tests do."""

import pytest

BAD = {
    "no command": (("train",), "No such command 'train'"),
    "missing argument": (("fit",), "Missing argument 'IMAGES'"),
    "missing option": (("fit", "x.npy"), "Missing option '-o'"),
    "bad value": (("fit", "x.npy", "-o", "m.ckn", "--seed", "-1"), "--seed"),
    "missing images": (("fit", "nowhere.npy", "-o", "m.ckn"), "no such file or folder: nowhere.npy"),
    "missing model": (("info", "nowhere.ckn"), "no model file nowhere.ckn"),
    "unwritable output": (("gram", "x.npy", "-o", "nowhere/K.zarr"), "cannot write nowhere/K.zarr"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(refused, case):
    arguments, words = BAD[case]
    assert refused(*arguments, words=[words], process=True) == refused(*arguments, words=[words])


def test_what_is_right_is_done(ckn, works, data, model, tmp_path):
    """A command that computes and writes, one that tells, and one that warns."""
    (tmp_path / "labels.csv").write_text("Id,Prediction\n" + "".join(f"{i},77\n" for i in range(1, 41)))
    for arguments in (
        ("extract", model, data.npy, "-o", "f.npy", "--json"),
        ("info", model),
        ("evaluate", model, data.npy, "--labels", "labels.csv"),
    ):
        in_a_process, in_a_call = (works(*arguments, process=process) for process in (True, False))
        assert in_a_process.stderr == in_a_call.stderr
        if arguments[0] == "info":
            assert in_a_process.stdout == in_a_call.stdout
    assert "never saw the labels 77" in in_a_process.stderr
