"""Readers of mail: the subject and the body of a message, and its attachments as further texts."""

import contextlib
import mailbox
import mimetypes
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from pathlib import Path

from flows.corpus.decode import decode
from flows.corpus.limits import Limits
from flows.corpus.names import suffix_of, unused
from flows.corpus.readers_html import html_text
from flows.corpus.reasons import Refused
from flows.corpus.types import Rejected, Text

__all__ = ["ReadPart", "read_mail", "read_mail_box"]

MEDIA_TYPE = "message/rfc822"

Found = list[Text | Rejected]
ReadPart = Callable[[bytes, str], Found]
"""Reads an attachment: its bytes, and its source, whose suffix says how."""


def read_mail(raw: bytes, source: str, limits: Limits, read_part: ReadPart) -> Found:
    """Return subject and body as one text, and what the attachments of supported types hold.

    Raises:
        Refused: ``damaged`` when there is no mail header.
    """
    message = BytesParser(_class=EmailMessage, policy=default).parsebytes(raw)
    if not message.keys():
        raise Refused("damaged", "no mail header")
    return list(_message(message, source, limits, read_part, depth=0))


def read_mail_box(path: Path, source: str, limits: Limits, read_part: ReadPart) -> Found:
    """Return the texts of all messages of an mbox file; the message at index 12 is ``mail.mbox!/12``."""
    found: Found = []
    with contextlib.closing(mailbox.mbox(path, create=False)) as box:
        for index, key in enumerate(box.iterkeys()):
            member = f"{source}!/{index}"
            try:
                found.extend(read_mail(box.get_bytes(key), member, limits, read_part))
            except Refused as refused:
                found.append(Rejected(member, refused.reason, refused.detail))
            except MemoryError:
                raise
            except Exception as error:
                # the parser of the standard library raises anything on broken headers; the other messages are fine
                found.append(Rejected(member, "damaged", f"{type(error).__name__} in the message"))
    if not found:
        raise Refused("damaged", "no message starts with a From line")
    return found


def _message(
    message: EmailMessage, source: str, limits: Limits, read_part: ReadPart, depth: int
) -> Iterator[Text | Rejected]:
    if depth > limits.max_archive_depth:
        yield Rejected(source, "nested_too_deep", f"a mail within {depth} others")
        return
    yield _body(message, source)
    if message.get_content_type() == "multipart/encrypted":
        return
    seen: set[str] = set()
    for index, part in enumerate(message.iter_attachments()):
        member = unused(f"{source}!/{_name(part, index)}", seen)
        inner = part.get_content() if part.get_content_type() == MEDIA_TYPE else None
        if isinstance(inner, EmailMessage):
            yield from _message(inner, member, limits, read_part, depth + 1)
            continue
        payload = part.get_payload(decode=True)
        if isinstance(payload, bytes):
            yield from read_part(payload, member)
        else:
            yield Rejected(member, "unsupported_type", "an attachment of several parts")


def _name(part: EmailMessage, index: int) -> str:
    """File name of an attachment; where the mail names none, its place and the suffix of its type."""
    name = part.get_filename()
    content_type = part.get_content_type()
    if not name or not suffix_of(name):
        suffix = ".eml" if content_type == MEDIA_TYPE else mimetypes.guess_extension(content_type) or ""
        name = f"{name or index}{suffix}"
    return name.replace("\\", "/").rpartition("/")[2]


def _body(message: EmailMessage, source: str) -> Text | Rejected:
    if message.get_content_type() in {"multipart/encrypted", "application/pkcs7-mime"}:
        return Rejected(source, "encrypted", "an encrypted mail")
    body = message.get_body(("plain", "html"))
    payload = None if body is None else body.get_payload(decode=True)
    if body is None or not isinstance(payload, bytes):
        return Rejected(source, "empty", "a mail without a body of text")
    try:
        text, encoding = decode(payload, body.get_content_charset())
    except Refused as refused:
        return Rejected(source, refused.reason, refused.detail)
    if body.get_content_subtype() == "html":
        text = html_text(text)
    subject = " ".join(str(message["subject"] or "").split())
    return Text(source, "\n\n".join(part for part in (subject, text) if part), MEDIA_TYPE, encoding)
