"""Wording of generated question items: by language and kind, the last template of each is for the one test.

The reading items show one solved example first; it is about a library, so that it gives nothing away.
"""

__all__ = ["GAP", "TEMPLATES"]

GAP = "____"

_EN_EXAMPLE = "The reading room opens at 9:00.\nBooks may be borrowed for 14 days.\nA lost card costs 300 yen."
_JA_EXAMPLE = "閲覧室は 9 時に開きます。\n本は 14 日間借りられます。\nカードの再発行には 300 円かかります。"


def _one_shot(example: str, passage: str, sentence: str, answer: str, gap: str, solved: str) -> str:
    return (
        f"{passage}{example}\n{sentence}{gap}\n{answer}{solved}\n\n"
        f"{passage}{{passage}}\n{sentence}{{text}}\n{answer}".rstrip()
    )


def _english(passage: str, sentence: str, answer: str) -> str:
    return _one_shot(_EN_EXAMPLE, passage, sentence, answer, f"Books may be borrowed for {GAP}.", "14 days")


def _japanese(passage: str, sentence: str, answer: str) -> str:
    return _one_shot(_JA_EXAMPLE, passage, sentence, answer, f"本は {GAP}借りられます。", "14 日間")


TEMPLATES: dict[str, tuple[str, ...]] = {
    "en_cloze": (
        f"Fill in the gap ({GAP}).\n{{text}}\nGap:",
        "Text: {text}\nMissing word:",
        f"Which word stands at {GAP} in this sentence? {{text}}\nAnswer:",
        'A document says "{text}" What has been left out is',
    ),
    "ja_cloze": (
        f"空欄（{GAP}）に入る語を答えてください。\n{{text}}\n答え:",
        "文: {text}\n空欄の語:",
        f"次の文の {GAP} に入る語はどれですか。{{text}}\n答え:",
        "文書に「{text}」と書かれています。抜けている語は",
    ),
    "en_definition": (
        "Question: Which term fits this description: it {text}\nAnswer:",
        "Description: it {text}\nTerm:",
        'The documents use a certain term of which they say that it "{text}" The term is',
        "Someone asks for the name of the thing that {text} Its name is",
    ),
    "ja_definition": (
        "質問: 次の説明に当てはまる用語はどれですか。{text}\n答え:",
        "説明: {text}\n用語:",
        "文書で「{text}」と説明されている用語は",
        "次のものの名前を知りたい。{text}その名前は",
    ),
    "en_reading": (
        _english("Passage: ", "Sentence: ", "Missing: "),
        _english("Text:\n", "Fill the gap: ", "Gap: "),
        _english("Read this:\n", "Complete: ", "Answer: "),
        _english("Excerpt:\n", "According to the excerpt: ", "What was left out: "),
    ),
    "ja_reading": (
        _japanese("文章: ", "文: ", "空欄: "),
        _japanese("本文:\n", "穴埋め: ", "空欄の語: "),
        _japanese("次を読んでください。\n", "完成させる文: ", "答え: "),
        _japanese("抜粋:\n", "抜粋によれば: ", "抜けている語: "),
    ),
}
"""Fields: `text`, the sentence with its gap or the description; `passage`."""
