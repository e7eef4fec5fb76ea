"""Large images made smaller in a process of their own: decoding them may keep Python's lock for seconds.

The process is started for the first large image, decodes one at a time, and ends with this one, however that ends, for
its standard input does too. It gets nothing of this one's environment but where libraries are: there may be keys.
"""

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress

from batchchat.prompt.media import resize
from batchchat.prompt.media.file import MediaError

_KEPT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME")
_COMMAND = ("-P", "-c", "from batchchat.prompt.media.resize_process import serve; serve()")
_READY = b"ready\n"


class ImageProcess:
    """The process, when there is one; any thread may ask it, and waits until those before it have their images."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def shrunk(self, content: bytes, mime_type: str, max_side: int, shown: str) -> bytes:
        """Do what `resize.shrunk` does, a large image apart; in this process where the system starts no other.

        Raises:
            MediaError: as `resize.shrunk`; or the process ended twice while it had the image.
        """
        return resize.shrunk(content, mime_type, max_side, shown, self._apart)

    def end(self) -> None:
        """Take the process down, when the last image is done; the next image starts another."""
        with self._lock:
            self._end()

    def _apart(self, content: bytes, mime_type: str, max_side: int, shown: str) -> bytes:
        head = json.dumps([len(content), mime_type, max_side, shown]).encode()
        with self._lock:
            for _ in range(2):  # something may have ended it since the last image
                try:
                    process = self._process = self._process or _started()
                except OSError:
                    return resize.shrunk(content, mime_type, max_side, shown)
                try:
                    return _exchanged(process, head, content)
                except (OSError, EOFError):
                    code = self._end()
                except MediaError:
                    raise
                except BaseException:  # its reply would be taken for that to the next image
                    self._end()
                    raise
        message = (
            f"{shown} cannot be read as {mime_type}: the process that decoded it ended with {code};"
            " check that the file is whole, and that there is memory for it"
        )
        raise MediaError(message)

    def _end(self) -> int | None:
        if self._process is None:
            return None
        process, self._process = self._process, None
        process.kill()
        process.communicate()
        return process.returncode


def _started() -> subprocess.Popen[bytes]:
    """Start the process.

    Raises:
        OSError: the system starts none, or it cannot do its work.
    """
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, *_COMMAND],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        process_group=0,  # a Ctrl-C is for this process alone, which then ends the other
    )
    assert process.stdout is not None
    if process.stdout.readline() != _READY:
        process.kill()
        process.communicate()
        raise OSError
    return process


def _exchanged(process: subprocess.Popen[bytes], head: bytes, content: bytes) -> bytes:
    """Send an image, and return what it becomes.

    Raises:
        MediaError: what the other side raised.
        OSError, EOFError: there is no other side any more.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(head + b"\n")
    process.stdin.write(content)
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise EOFError
    size, error = json.loads(line)
    if error is not None:
        raise MediaError(error)
    small = process.stdout.read(size)
    if len(small) < size:
        raise EOFError
    return small


def serve() -> None:
    """Shrink the images that come over standard input, until it ends; `ImageProcess` is on the other side."""
    with suppress(OSError), open(0, "rb") as requests, open(1, "wb") as replies:
        resize.require_pillow()
        replies.write(_READY)
        replies.flush()
        for line in requests:
            size, *wanted = json.loads(line)
            content = requests.read(size)
            if len(content) < size:
                return
            small, error = b"", None
            try:
                small = resize.shrunk(content, *wanted)
            except MediaError as problem:
                error = str(problem)
            del content
            replies.write(json.dumps([len(small), error]).encode() + b"\n")
            replies.write(small)
            replies.flush()
            del small


image_process = ImageProcess()
"""The one of this process."""
