"""Reader of PDF: the text layer, page by page."""

import io
import logging

from pypdf import PdfReader
from pypdf.errors import LimitReachedError

from flows.corpus.limits import Limits
from flows.corpus.reasons import Refused

__all__ = ["read_pdf"]

TAIL = 1024
"""Where the end mark of a complete file stands. [bytes]"""

# its messages may quote the document
logging.getLogger("pypdf").disabled = True


def read_pdf(raw: bytes, limits: Limits) -> tuple[str, None]:
    r"""Return the text of all pages, separated by form feeds.

    A file that opens without a password is read, whatever it says about printing and copying.

    Raises:
        Refused: ``encrypted``, ``damaged`` (``pypdf`` would repair a file that is cut off and lose pages),
            ``no_text_layer``, ``archive_bomb`` for a stream that unpacks beyond the limits of ``pypdf``.
    """
    del limits
    if b"%%EOF" not in raw[-TAIL:]:
        raise Refused("damaged", "no end mark: the file is cut off")
    reader = PdfReader(io.BytesIO(raw))
    if reader.is_encrypted and not reader.decrypt(""):
        raise Refused("encrypted", "it needs a password")
    pages: list[str] = []
    for number, page in enumerate(reader.pages, start=1):
        try:
            pages.append(page.extract_text().replace("\f", "\n").strip())
        except LimitReachedError:
            raise Refused("archive_bomb", f"page {number} unpacks to more than its limit") from None
        except MemoryError:
            raise
        except Exception as error:
            raise Refused("damaged", f"page {number}: {type(error).__name__}") from None
    if pages and not any(pages):
        raise Refused("no_text_layer", f"{len(pages)} pages without text")
    return "\f".join(pages), None
