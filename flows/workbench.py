"""What the stages of one PoC run share: settings, store, and things that are costly to load and loaded once."""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flows.errors import PocError
from flows.load_test import planned_path
from flows.progress import Progress, ProgressHook
from flows.questions import Question, load_questions, select_items
from flows.settings import Settings, background_source, base_source, plan_sha256, price_path, resolve
from flows.store import Json, RunFolder, StageResult, Store, sha256_code, sha256_file, sha256_folder
from flows.terms import KINDS as SPAN_KINDS
from flows.terms import TermMatcher, find_spans, load_glossary

if TYPE_CHECKING:
    from skipmodel.data import Blocks, Document
    from skipmodel.engine.masked import AnyEngine
    from skipmodel.evaluate import Item
    from skipmodel.model import SkipLayerForCausalLM

KINDS = ("other", *SPAN_KINDS)
SPLITS = ("train", "validation", "test")
ROOMS = ("flows", "kpis", "reports", "skipmodel")


class NotFinished(Exception):  # noqa: N818 - an answer, not an error
    """A workbench that may only look stages up was asked for one that is not there."""


@dataclass
class Workbench:
    """One run: its plan, its folders, its finished stages, and caches of loaded things."""

    settings: Settings
    settings_path: Path
    store: Store
    progress: Progress
    opened_run: RunFolder | None = None
    find_only: bool = False
    """Look finished stages up and compute nothing."""
    stages: dict[str, StageResult] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    """What the progress lines call the stages that were looked up."""
    _blocks: dict[tuple[str, int], Blocks] = field(default_factory=dict)

    @property
    def run(self) -> RunFolder:
        """The folder of this run; set once the hashes of the inputs are known."""
        if self.opened_run is None:
            raise RuntimeError("the run folder is opened by the flow before any stage needs it")
        return self.opened_run

    def do(
        self, name: str, title: str, inputs: Mapping[str, Any], code: Sequence[str],
        compute: Callable[[Path, ProgressHook], None],
    ) -> StageResult:  # fmt: skip
        """Run one stage through the store, with its progress lines, and remember the result.

        Raises:
            NotFinished: The stage is not there and `find_only` is set.
        """
        if self.find_only:
            found = self.store.find(name, inputs, code)
            if found is None:
                raise NotFinished(name)
            self.stages[name], self.titles[name] = found, title
            return found
        with self.progress.stage(title) as hook:
            result = self.store.run(name, inputs, code, lambda folder: compute(folder, hook))
            hook.reused = result.reused
        self.stages[name] = result
        return result

    def folder(self, stage: str) -> Path:
        """Return the folder of a finished stage."""
        return self.stages[stage].path

    def key(self, stage: str) -> str:
        """Return the key of a finished stage, an input of the stages that read it."""
        return self.stages[stage].key

    # --- inputs -------------------------------------------------------------------------------------------

    @property
    def corpus_path(self) -> Path:
        """Folder of the documents."""
        return resolve(self.settings_path, self.settings.corpus.folder)

    @property
    def glossary_path(self) -> Path | None:
        """The glossary, if there is one."""
        name = self.settings.corpus.glossary
        return None if name is None else resolve(self.settings_path, name)

    @property
    def names_path(self) -> Path | None:
        """The names of people that are masked, if there are any."""
        name = self.settings.corpus.private_names
        return None if name is None else resolve(self.settings_path, name)

    @property
    def background(self) -> str | None:
        """Where the general text for training comes from."""
        return background_source(self.settings, self.settings_path)

    @property
    def questions_path(self) -> Path | None:
        """The questions, if there are any."""
        name = self.settings.corpus.questions
        return None if name is None else resolve(self.settings_path, name)

    @functools.cached_property
    def matcher(self) -> TermMatcher:
        """Finds critical spans with the terms of the glossary."""
        return TermMatcher.from_glossary([] if self.glossary_path is None else load_glossary(self.glossary_path))

    @functools.cached_property
    def questions(self) -> list[Question]:
        """All questions, checked."""
        return [] if self.questions_path is None else load_questions(self.questions_path)

    def base_fingerprint(self) -> dict[str, Json]:
        """Return what identifies the base model: its source, and version or file sizes and dates."""
        source = base_source(self.settings, self.settings_path)
        if source.startswith("package:"):
            name = source.removeprefix("package:")
            try:
                return {"source": source, "version": importlib.metadata.version(name)}
            except importlib.metadata.PackageNotFoundError as error:
                raise PocError(
                    f"the Python package {name} that carries the base model is not installed",
                    where="model.base.source", todo="run `make env`, or name a Hugging Face model folder",
                ) from error  # fmt: skip
        folder = Path(source)
        files = [p for p in sorted(folder.glob("*")) if p.is_file()] if folder.is_dir() else []
        stats = {p.name: [p.stat().st_size, p.stat().st_mtime_ns] for p in files}  # hashing weights takes minutes
        return {"source": self.settings.model.base.source, "files": stats}

    # --- loaded once --------------------------------------------------------------------------------------

    @functools.cached_property
    def tokenizer(self) -> Any:
        """Tokenizer of the base model, which the tuned models keep."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder("base") / "base")

    def load_base(self) -> Any:
        """Load the untuned base model."""
        return self._load_causal_lm(self.folder("base") / "base")

    def load_dense(self) -> Any:
        """Load the dense tuned model."""
        return self._load_causal_lm(self.folder("dense-tune") / "dense")

    def _load_causal_lm(self, folder: Path) -> Any:
        import torch
        from transformers import AutoModelForCausalLM

        from skipmodel.base import default_device

        dtype = getattr(torch, self.settings.model.base.dtype)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        return model.to(default_device()).eval()

    @functools.cached_property
    def documents(self) -> dict[str, list[Document]]:
        """Documents by split."""
        from skipmodel.data import Document, Span

        by_split: dict[str, list[Document]] = {split: [] for split in SPLITS}
        with (self.folder("ingest") / "documents.jsonl").open(encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                spans = tuple(Span(span["start"], span["end"], span["kind"]) for span in row["spans"])
                document = Document(row["document_id"], row["text"], spans, row["language"])
                by_split[row["split"]].append(document)
        return by_split

    def blocks(self, split: str, block_tokens: int) -> Blocks:
        """Return all blocks of a split."""
        from skipmodel.data import cut, tokenize

        if (split, block_tokens) in self._blocks:
            return self._blocks[split, block_tokens]
        tokenizer = self.tokenizer
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        blocks = cut(tokenize(self.documents[split], tokenizer, KINDS), block_tokens, pad_id or 0, KINDS)
        self._blocks[split, block_tokens] = blocks
        return blocks

    def training_blocks(self) -> Blocks:
        """Return the full training blocks in the order in which training uses them."""
        from skipmodel.data import sample

        config = self.settings.model
        blocks = self.blocks("train", config.block_tokens)
        return sample(blocks, int(blocks.n_real_N.sum()), config.seed, full_only=True)

    def items(self, split: str) -> list[tuple[Question, Item]]:
        """Return the question items of a split, with critical spans."""
        from skipmodel.data import Document, Span
        from skipmodel.evaluate import Item

        sweep = self.settings.model.sweep
        n = sweep.validation_items if split == "validation" else sweep.test_items
        if n == 0 or not self.questions:
            return []

        def document(name: str, text: str, language: str) -> Document:
            spans = tuple(Span(s.start, s.end, s.kind) for s in find_spans(text, self.matcher))
            return Document(name, text, spans, language)

        chosen = select_items(self.questions, "validation" if split == "validation" else "test", n,
                              self.settings.model.seed)  # fmt: skip
        return [
            (q, Item(q.item_id, document(q.item_id, q.question, q.language),
                     tuple(document(q.item_id, choice, q.language) for choice in q.choices), q.answer))
            for q in chosen
        ]  # fmt: skip

    @functools.cached_property
    def model(self) -> SkipLayerForCausalLM:
        """The fine-tuned SkipLayer model."""
        from skipmodel.base import default_device
        from skipmodel.model import SkipLayerForCausalLM

        folder = self.folder("skip-tune") / "skiplayer"
        model: Any = SkipLayerForCausalLM.from_pretrained(folder, dtype="auto")
        return cast("SkipLayerForCausalLM", model.to(default_device()).eval())

    @functools.cached_property
    def engine(self) -> AnyEngine:
        """Executes the SkipLayer model, in the fastest way that its family and settings allow."""
        from skipmodel.engine.masked import open_engine

        return open_engine(self.model)

    @functools.cached_property
    def dense_engine(self) -> AnyEngine:
        """Executes the dense tuned model when routing is None: the reference.

        While the fine-tune leaves the base frozen that is the SkipLayer model itself, with the same weights.
        """
        from skipmodel.engine.masked import open_engine
        from skipmodel.model import SkipLayerForCausalLM

        if self.settings.model.skip_tune.lora_rank == 0 or self.settings.model.skip_tune.steps == 0:
            return self.engine
        return open_engine(SkipLayerForCausalLM.from_base(self.load_dense(), self.settings.model.skip))

    def identity(self) -> dict[str, Any]:
        """Return what makes a run this one: hashes of plan, code and inputs."""
        prices = sha256_file(price_path(self.settings, self.settings_path))
        others = {"prices": prices, "names": self.names_hash(), "background": self.background_hash()}
        load_test = planned_path(self.settings, self.settings_path)
        if load_test is not None and load_test.is_file():
            others["load_test"] = sha256_file(load_test)
        return {
            "plan_sha256": plan_sha256(self.settings),
            "code_sha256": sha256_code(ROOMS),
            "input_sha256": self.input_hashes() | others,
        }

    def names_hash(self) -> str:
        """Return the hash of the names that are masked. It stays out of result.json: names are easily guessed."""
        return "" if self.names_path is None else sha256_file(self.names_path)

    def background_hash(self) -> str:
        """Return the hash of a folder of general text; a package is named by the plan."""
        source = self.background
        return "" if source is None or source.startswith("package:") else sha256_folder(Path(source))

    def input_hashes(self) -> dict[str, str]:
        """Return hashes of the files that the user brought."""
        hashes = {"corpus": sha256_folder(self.corpus_path)}
        for name, path in (("glossary", self.glossary_path), ("questions", self.questions_path)):
            hashes[name] = "" if path is None else sha256_file(path)
        return hashes
