"""Where an output is not written, by whatever name it is reached: the input, pipes and devices."""

import os
from pathlib import Path

import pytest

from batchchat.errors import OutputError
from batchchat.write.sink import check_output


def _input(folder: Path) -> Path:
    path = folder / "in.csv"
    path.write_text("a\n1\n")
    return path


@pytest.mark.parametrize("is_link", [False, True])
def test_pipe_is_refused(tmp_path: Path, is_link: bool) -> None:
    """A run would wait for a reader for ever, or replace the pipe that somebody reads from."""
    pipe, link = tmp_path / "pipe.csv", tmp_path / "out.csv"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    with pytest.raises(OutputError, match=r"is not a regular file; name a file in output\.path"):
        check_output(link if is_link else pipe, [_input(tmp_path)])
    assert pipe.is_fifo()


@pytest.mark.parametrize("device", ["/dev/null", "/dev/full", "/dev/zero"])
def test_link_to_a_device_is_refused(tmp_path: Path, device: str) -> None:
    """The device must not be replaced by a file, not even where the user could."""
    link = tmp_path / "out.csv"
    link.symlink_to(device)
    with pytest.raises(OutputError, match="is not a regular file"):
        check_output(link, [_input(tmp_path)])


@pytest.mark.parametrize("hops", [1, 3])
@pytest.mark.parametrize("is_hard", [False, True])
def test_input_by_other_names_is_refused(tmp_path: Path, hops: int, is_hard: bool) -> None:
    """Links of both kinds and links to links lead to the input, which is never modified."""
    source = _input(tmp_path)
    reached = source
    for hop in range(hops):
        link = tmp_path / f"link{hop}.csv"
        os.link(reached, link) if is_hard and not hop else link.symlink_to(reached)
        reached = link
    with pytest.raises(OutputError, match="which is never modified"):
        check_output(reached, [source])
    assert source.read_text() == "a\n1\n"


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/null", "/proc/self/fd/1"])
def test_device_by_its_own_name_is_refused(tmp_path: Path, path: str) -> None:
    """It has no suffix that names a format."""
    with pytest.raises(OutputError, match="there is no suffix to tell the format"):
        check_output(Path(path), [_input(tmp_path)])
