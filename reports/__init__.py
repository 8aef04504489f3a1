"""From result.json to one self-contained HTML page, in Japanese and English."""
