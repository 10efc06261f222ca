"""`ckn search` from end to end: results, going on, Ctrl-C, bad input."""

import signal

import pytest

pytest.importorskip("optuna", reason="Optuna, the extra `search`, is not installed")

ONE = ("--trials", "1", "--hold-out", "0")


def test_a_search_goes_on_where_it_stopped(works, data, tmp_path):
    images = (data.csv, "--labels", data.labels_csv, "--image-shape", "12x12x3")
    first = works("search", *images, "-o", "m.ckn", *ONE)
    assert "trial 0: " in first.stderr
    assert first.stdout.split()[:6] == ["rank", "trial", "accuracy", "seconds", "features", "system"]
    assert "is the best of 1, and so optimistic" in first.stdout
    assert first.stdout.endswith("wrote m.ckn\n")
    assert {path.name for path in (tmp_path / "m.ckn.search").iterdir()} == {
        *("journal.log", "search.json", "leaderboard.md", "accuracy.png", "lock")
    }
    options = ("--folder", "m.ckn.search", "--trials", "2", "--hold-out", "0", "--json")
    again = works("search", *images, "-o", "other.ckn", *options)
    assert "trial 0: " not in again.stderr
    assert "trial 1: " in again.stderr
    board = again.told["leaderboard"]
    assert sorted(row["trial"] for row in board) == [0, 1]
    expected = {"best": board[0], "trials": 2, "held_out_accuracy": None}
    assert again.told | expected == again.told
    works("predict", "other.ckn", data.csv, "-o", "p.csv")


def test_the_best_is_measured_on_what_was_held_out(works, data):
    done = works("search", data.npz, "-o", "m.ckn", "--trials", "1", "--hold-out", "0.2")
    assert "on 8 images that the search did not see; then all images were fitted" in done.stdout
    assert "held_out_accuracy" in works("info", "m.ckn").stdout


def test_ctrl_c_leaves_a_search_that_goes_on(start, works, data, tmp_path):
    arguments = ("search", data.npz, "-o", "m.ckn", "--hold-out", "0")
    process = start(*arguments, "--time", "10min")
    assert any(line.startswith("trial 0: ") for line in process.stderr)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stdout == ""
    assert "Traceback" not in stderr
    assert "m.ckn.search holds what was found; the same command goes on with it" in stderr
    assert not (tmp_path / "m.ckn").exists()
    assert not list(tmp_path.rglob("*.part"))
    result = works(*arguments, "--time", "0", "--json").told
    assert result["trials"] >= 1
    assert result["counts"]["failed"] == 0
    assert (tmp_path / "m.ckn").exists()


@pytest.mark.parametrize("given", ["soon", "-3s", "10 weeks", "1e3", ""])
def test_a_bad_time(refused, data, given):
    refused("search", data.npz, "-o", "m.ckn", "--time", given, words=[f"'{given}' is not a time", "10min"])


def test_a_folder_of_another_search(works, refused, data):
    works("search", data.npz, "-o", "m.ckn", *ONE)
    words = ["m.ckn.search", "seed was 0, is 4"]
    refused("search", data.npz, "-o", "m.ckn", *ONE, "--seed", "4", words=words)


def test_images_without_labels(refused, data):
    refused("search", data.npy, "-o", "m.ckn", words=["holds no labels: give --labels"])


def test_without_optuna_it_says_what_to_install(refused, data, tmp_path):
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "optuna.py").write_text("raise ImportError('as if it were not installed')\n")
    env = {"PYTHONPATH": str(tmp_path / "without"), "PYTHONDONTWRITEBYTECODE": "1"}
    refused("search", data.npz, "-o", "m.ckn", words=["pip install ", "'optuna<"], env=env)
