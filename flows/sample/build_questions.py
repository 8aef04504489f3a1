"""Question items with one right and three wrong choices, made from the directive tables of the manual.

Kinds: ``directive`` (description -> name, wrong names from the same module), ``default`` (name -> default value, or
for On/Off which of four directives is On), ``module`` and ``context`` (name -> closed set). Each fact is asked with
four templates; the last one is held out for the final test. Everything is ordered by hashes, so a rebuild gives
the same bytes.
"""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from flows.sample.build_tables import MUST_PASS_DIRECTIVES, Directive

__all__ = ["question_lines"]

TEMPLATES: dict[str, tuple[str, ...]] = {
    "en_directive": (
        "Question: Which directive of Apache HTTP Server has this purpose: {text}?\nAnswer:",
        "Description: {text}\nDirective:",
        'In the Apache HTTP Server manual, the directive described as "{text}" is called',
        "I am configuring Apache and need this: {text}. The directive to use is",
    ),
    "ja_directive": (
        "質問: Apache HTTP サーバで「{text}」という働きを持つディレクティブはどれですか。\n答え:",
        "説明: {text}\nディレクティブ:",
        "Apache HTTP サーバのマニュアルで「{text}」と説明されているディレクティブは",
        "Apache の設定で次のことをしたい。{text}。使うディレクティブの名前は",
    ),
    "en_default": (
        "Question: What is the default value of the {name} directive of Apache HTTP Server?\nAnswer:",
        "Directive: {name}\nDefault:",
        "If {name} is not set in the Apache configuration, its value is",
        "Apache administrators should know that {name} defaults to",
    ),
    "ja_default": (
        "質問: Apache HTTP サーバの {name} ディレクティブのデフォルト値は何ですか。\n答え:",
        "ディレクティブ: {name}\nデフォルト:",
        "Apache の設定に {name} を書かない場合、その値は",
        "Apache の管理者向けの覚え書き。{name} の既定の値は",
    ),
    "en_toggle": (
        "Question: Which directive of Apache HTTP Server is {value} by default?\nAnswer:",
        "Default: {value}\nDirective:",
        "One Apache directive that is {value} unless it is configured otherwise is",
        "Apache administrators should know which directive defaults to {value}:",
    ),
    "ja_toggle": (
        "質問: Apache HTTP サーバで、デフォルト値が {value} のディレクティブはどれですか。\n答え:",
        "デフォルト: {value}\nディレクティブ:",
        "Apache の設定に書かない場合に {value} となるディレクティブは",
        "Apache の管理者向けの覚え書き。既定の値が {value} のディレクティブは",
    ),
    "en_module": (
        "Question: Which module of Apache HTTP Server provides the {name} directive?\nAnswer:",
        "Directive: {name}\nModule:",
        "The {name} directive of Apache HTTP Server is implemented by the module",
        "Before using {name} in the Apache configuration, load the module",
    ),
    "ja_module": (
        "質問: Apache HTTP サーバの {name} ディレクティブを提供するモジュールはどれですか。\n答え:",
        "ディレクティブ: {name}\nモジュール:",
        "Apache HTTP サーバの {name} ディレクティブを実装しているモジュールは",
        "Apache の設定で {name} を使う前に組み込んでおくモジュールは",
    ),
    "en_context": (
        "Question: In which contexts may the {name} directive of Apache HTTP Server be used?\nAnswer:",
        "Directive: {name}\nContext:",
        "The {name} directive of Apache HTTP Server is allowed in these contexts:",
        "Places of the Apache configuration where {name} may be written:",
    ),
    "ja_context": (
        "質問: Apache HTTP サーバの {name} ディレクティブを使えるコンテキストはどれですか。\n答え:",
        "ディレクティブ: {name}\nコンテキスト:",
        "Apache HTTP サーバの {name} ディレクティブが使用できるコンテキスト:",
        "Apache の設定で {name} を書いてよい場所:",
    ),
}
MUST_PASS_KINDS = ("directive", "default")
CONTEXT_CAP = 30
MODULE_CAP = 8


@dataclass(frozen=True)
class Fact:
    """One question before templates: the right choice and three wrong ones."""

    directive: Directive
    kind: str
    answer: str
    wrong: tuple[str, ...]


def question_lines(directives: Sequence[Directive], english_defaults: Mapping[str, str]) -> list[str]:
    """JSON lines of all items by language and kind.

    A default value that the older Japanese page gives differently from the English page is not asked for.
    """
    lines: list[str] = []
    for language in ("ja", "en"):
        rows = _unique([d for d in directives if d.language == language])
        current = [d for d in rows if d.default == english_defaults.get(d.name)]
        for kind, facts in (
            ("directive", _directive_facts(rows)),
            ("default", _default_facts(current)),
            ("module", _module_facts(rows)),
            ("context", _context_facts(rows)),
        ):
            facts.sort(key=lambda fact: _rank(kind, language, fact.directive.name))
            for position, fact in enumerate(facts):
                lines.extend(_items(fact, kind, position))
    return lines


def _rank(*parts: object) -> str:
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()


def _unique(directives: Iterable[Directive]) -> list[Directive]:
    """Drop directives that several modules define, and descriptions that several directives share."""
    rows = list(directives)
    names = Counter(d.name for d in rows)
    descriptions = Counter(d.description for d in rows)
    return [d for d in rows if names[d.name] == 1 and descriptions[d.description] == 1]


def _pick(candidates: Iterable[str], answer: str, seed: str, n: int = 3) -> tuple[str, ...]:
    """First ``n`` different candidates in hash order, without the answer (case ignored)."""
    different = {c.lower(): c for c in sorted(candidates) if c.lower() != answer.lower()}
    return tuple(sorted(different.values(), key=lambda c: _rank(seed, c))[:n])


def _words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]+|[a-z]{3,}", name) if len(word) > 2}


def _overlap(name: str, text: str) -> float:
    """How many of a name's words occur in a text, over the root of their number: neither long nor short names win."""
    words = _words(name)
    return sum(word in text for word in words) / max(len(words), 1) ** 0.5


def _directive_facts(rows: Sequence[Directive]) -> list[Fact]:
    """Description -> name. Wrong names of the same module that also occur in the description go first."""
    facts = []
    for d in rows:
        if d.bare_name.lower() in d.description.lower() or len(d.description) < 8:
            continue
        same = [o for o in rows if o.module == d.module and o.name != d.name and o.bare_name != d.bare_name]
        text = d.description.lower()
        same.sort(
            key=lambda o: (
                (o.name[0] == "<") != (d.name[0] == "<"),
                -_overlap(o.name, text),
                _rank("directive", d.name, o.name),
            )
        )
        if len(same) >= 3:
            facts.append(Fact(d, "directive", d.name, tuple(o.name for o in same[:3])))
    return facts


def _default_facts(rows: Sequence[Directive]) -> list[Fact]:
    """Name -> default value; On/Off directives become "which of these is On"."""
    numbers = sorted({d.default for d in rows if _is_number(d.default)}, key=lambda v: (float(v), v))
    words = {d.default for d in rows if _value_class(d.default) == "word"}
    paths = {d.default for d in rows if _value_class(d.default) == "path"}
    facts = []
    for d in rows:
        value_class = _value_class(d.default)
        if value_class == "toggle":
            facts.append(_toggle_fact(d, rows))
            continue
        if value_class == "number":
            wrong = _neighbours(numbers, d)
        elif value_class == "word":
            named = re.findall(r"(?<![\w\[-])[A-Za-z]\w+(?=\s*[|\]])|(?<=\|)\s*[A-Za-z]\w+", d.syntax)
            wrong = _pick((v.strip() for v in named), d.default, d.name)
            wrong += _pick(words - set(wrong), d.default, d.name, 3 - len(wrong))
        elif value_class == "path":
            wrong = _pick(paths, d.default, d.name)
        else:
            continue
        if len(wrong) == 3:
            facts.append(Fact(d, "default", d.default, wrong))
    return [fact for fact in facts if len(fact.wrong) == 3]


def _is_number(value: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?", value) is not None


def _value_class(value: str) -> str:
    if value.lower() in {"on", "off"}:
        return "toggle"
    if _is_number(value):
        return "number"
    if re.fullmatch(r"[./][\w./-]+|\w+/[\w./-]+", value):
        return "path"
    return "word" if re.fullmatch(r"[A-Za-z][\w-]{2,24}", value) else "other"


def _neighbours(numbers: Sequence[str], d: Directive) -> tuple[str, ...]:
    """Four neighbouring defaults with the right one at a position given by the hash, without it."""
    at = numbers.index(d.default)
    first = min(max(at - int(_rank("number", d.name), 16) % 4, 0), max(len(numbers) - 4, 0))
    return tuple(v for v in numbers[first : first + 4] if v != d.default)


def _toggle_fact(d: Directive, rows: Sequence[Directive]) -> Fact:
    opposite = {"on": "off", "off": "on"}[d.default.lower()]
    others = [o for o in rows if o.default.lower() == opposite and o.name[0] != "<"]
    others.sort(key=lambda o: (o.module != d.module, _rank("toggle", d.name, o.name)))
    return Fact(d, "toggle", d.name, tuple(o.name for o in others[:3]))


def _module_facts(rows: Sequence[Directive]) -> list[Fact]:
    """Name -> module, for names that do not give the module away; wrong modules of the same family first."""
    modules = sorted({d.module for d in rows if re.fullmatch(r"mod_\w+|core", d.module)})
    facts = []
    for d in rows:
        hints = [part for part in d.module.removeprefix("mod_").split("_") if len(part) > 2]
        if d.module not in modules or any(_overlaps(hint, d.bare_name.lower()) for hint in hints):
            continue
        family = [m for m in modules if m[:8] == d.module[:8]]
        near = _pick(family, d.module, d.name, 2 + int(_rank(d.name), 16) % 2) if d.module != "core" else ()
        wrong = near + _pick(["core"], d.module, d.name, 3 - len(near))
        wrong += _pick(set(modules) - set(wrong), d.module, d.name, 3 - len(wrong))
        if len(wrong) == 3:
            facts.append(Fact(d, "module", d.module, wrong))
    return _capped(facts, MODULE_CAP)


def _overlaps(hint: str, name: str) -> bool:
    return hint in name or any(hint.startswith(name[i : i + 4]) for i in range(max(len(name) - 3, 0)))


def _context_facts(rows: Sequence[Directive]) -> list[Fact]:
    """Name -> context, at most ``CONTEXT_CAP`` facts per answer so that no answer dominates."""
    is_japanese = any(d.language == "ja" for d in rows)
    contexts = {d.context for d in rows if (re.match(r"[a-z]", d.context) is None) == is_japanese and d.context}
    facts = [Fact(d, "context", d.context, _pick(contexts, d.context, d.name)) for d in rows if d.context in contexts]
    return _capped([fact for fact in facts if len(fact.wrong) == 3], CONTEXT_CAP)


def _capped(facts: Iterable[Fact], cap: int) -> list[Fact]:
    by_answer: dict[str, list[Fact]] = defaultdict(list)
    for fact in sorted(facts, key=lambda f: _rank("cap", f.kind, f.directive.name)):
        by_answer[fact.answer].append(fact)
    return [fact for answer in sorted(by_answer) for fact in by_answer[answer][:cap]]


def _items(fact: Fact, kind: str, position: int) -> list[str]:
    """One JSON line per template; the right choice moves through the four places."""
    d = fact.directive
    group = f"{d.module.split(',')[0]}/{d.bare_name}/{kind}"
    lines = []
    for number, template in enumerate(TEMPLATES[f"{d.language}_{fact.kind}"]):
        question = template.format(text=d.description, name=d.name, value=d.default.capitalize())
        index = (position + number) % 4
        choices = sorted(fact.wrong, key=lambda c: _rank("order", d.name, number, c))
        choices.insert(index, fact.answer)
        item = {
            "item_id": f"{d.language}/{group}/{number + 1}",
            "group": group,
            "language": d.language,
            "slice": f"{d.language}_{kind}",
            "template_id": f"{d.language}_{fact.kind}_{number + 1}",
            "held_out": number == 3,
            "question": question,
            "choices": [_joined(choice, question) for choice in choices],
            "answer": index,
            "must_pass": d.bare_name in MUST_PASS_DIRECTIVES and kind in MUST_PASS_KINDS,
            "source_document": f"{d.language}/{d.document}.txt",
        }
        lines.append(json.dumps(item, ensure_ascii=False, separators=(",", ":")))
    return lines


def _joined(choice: str, question: str) -> str:
    """Choice with the leading space that Latin text, or any text after a colon, needs."""
    return f" {choice}" if choice[0].isascii() or question.endswith(":") else choice
