"""The room that turns a folder of in-house files into clean, masked, de-duplicated and split text.

Files are read in isolated processes and streamed through cleaning and masking; per document only a small row is
kept in memory. `flows.ingest` is the entry; nothing outside `flows` imports this room.
"""
