"""One message to one URL, once, within a time.

No redirect is followed.
"""

import asyncio
from urllib.parse import urlsplit

import httpx

from batchchat.errors import StopSignal, UsageError
from batchchat.send.http.transport import new_pool


def post(url: str, body: bytes, timeout_s: float) -> str | None:
    """Post JSON; return None when it was taken (any status of 2xx), else a sentence. A signal to stop ends the wait.

    `timeout_s` is for all of it, from the look-up of the host's name to the reply's status.
    """
    host = urlsplit(url).hostname
    try:
        status = asyncio.run(_status(url, body, timeout_s))
    except TimeoutError:
        return f"{host} did not answer within {timeout_s:g} s"
    except (httpx.ConnectError, UsageError) as error:  # whose words are of hosts and certificates
        return f"{host} cannot be reached: {error}"
    except StopSignal:
        return f"{host} had not answered when a signal came"
    except Exception as error:
        return f"{host} did not take the message: {type(error).__name__}"
    return None if 200 <= status < 300 else f"{host} did not take the message: it answered with status {status}"


async def _status(url: str, body: bytes, timeout_s: float) -> int:
    parsed = httpx.URL(url)
    headers = {"content-type": "application/json", "user-agent": "batchchat"}
    pool = new_pool(parsed)
    try:
        async with asyncio.timeout(timeout_s):
            timeout = {"timeout": {"connect": timeout_s}}
            request = httpx.Request("POST", parsed, headers=headers, content=body, extensions=timeout)
            response = await pool.handle_async_request(request)
            await response.aclose()
            return response.status_code
    finally:
        await pool.aclose()
