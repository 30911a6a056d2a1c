"""Writes `data_prep/assets/goals-sharegpt` from a file of annotations, scrubbed and without quotations.

    python scripts/ship_goals.py goals_sharegpt.jsonl [--data data/sharegpt]

It keeps annotations of conversations that `usersim prep sharegpt` keeps, in the file of their split, unless they name a
private person. Personal data become placeholders. Facets with eight consecutive words of the person are left out; a
goal
with them removes the whole annotation. Words of personas that reveal the goal are masked.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from data_prep.goals.annotations import Annotation, phrase
from data_prep.goals.overlap import shared, words
from data_prep.personas.goal_leak import mask_personas
from data_prep.pii.scrub import scrub_text
from data_prep.pipeline.annotated import SHIPPED
from data_prep.pipeline.first_pass import prepare
from data_prep.pipeline.splits import SPLITS
from data_prep.settings import PrepSettings, SourceSettings
from data_prep.sources import open_source
from usersim.cli import run_main
from usersim.storage.records import read_records, write_records
from usersim.types import Conversation

LONGEST_RUN = 7
"""Maximum consecutive words that a goal may share with the person; more are a quotation."""
OUT = SHIPPED["sharegpt"]
NAMES_A_PERSON = """
    0H2GvsV 2eg7Q1F 3QhRHdT 494kXrQ 4dtMFDI 76wlNmz BzGyUWn DQ0K9HJ DqcWUPa I900U0S KhwaSAo LB0oYQv LG0uJvY LjKovbp
    MkVrKHN N9VPCnN PJhY2Nb Px3GuN3 QCDq2Ey UApFhWh WWfmYfz XJr6p0g Xqna9oM XyFPYOw Z32G1Ew dZavJE3 g4eVioE iKOoUUk
    k3yQrLH p9ghwwz pFDqaHg rQoxMNq s2n1zFv sIMwLZY thhlCgB va12fAt xCB0VN2 yvzWqFu zMR1wwf zkFKBAy
"""
"""Ids of annotations that name a person, from reading goals with two capitalised words, a title or a relative."""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("annotations", type=Path, help="JSON Lines as `usersim prep --goals` reads them")
    parser.add_argument(
        "--data", type=Path, help="output folder of `usersim prep sharegpt` (default: run it, 1 min)"
    )
    args = parser.parse_args(argv)
    annotations = {one.id: one for one in read_records(args.annotations, Annotation)}
    counts: Counter[str] = Counter(annotations=len(annotations))
    own = {c.id: c.user_texts for c in open_source("sharegpt").chats if c.id in annotations}
    splits = split_of_ids(args.data)
    named = set(NAMES_A_PERSON.split())
    counts["name_a_person"] = len(named & splits.keys() & annotations.keys())
    shipped: dict[str, Annotation] = {}
    for id_ in splits:
        if id_ not in annotations or id_ in named:
            continue
        if one := without_quotations(scrubbed(annotations[id_], counts), own[id_], counts):
            shipped[id_] = one
    shipped = with_masked_personas(shipped, counts)
    for split in SPLITS:
        counts[split] = write_records(
            OUT / f"{split}.jsonl", (one for id_, one in shipped.items() if splits[id_] == split)
        )
    sys.stdout.write(json.dumps(counts, indent=2) + "\n")
    return 0


def split_of_ids(prepared: Path | None) -> dict[str, str]:
    """Returns the split of every conversation that `usersim prep sharegpt` keeps, by id."""
    if prepared is None:
        with tempfile.TemporaryDirectory() as folder:
            sources = (SourceSettings(spec="sharegpt"),)
            prepare(PrepSettings(sources=sources, out=Path(folder), shipped_goals=False))
            return split_of_ids(Path(folder))
    return {
        conversation.id: split
        for split in SPLITS
        for conversation in read_records(prepared / f"{split}.jsonl", Conversation)
    }


def scrubbed(annotation: Annotation, counts: Counter[str]) -> Annotation:
    replacements: Counter[str] = Counter()
    facets = tuple(
        facet.model_copy(update={"text": scrub_text(facet.text, replacements)}) for facet in annotation.facets
    )
    goal, persona = (
        scrub_text(annotation.goal, replacements),
        scrub_text(annotation.persona or "", replacements),
    )
    counts["personal_data"] += replacements.total()
    return annotation.model_copy(update={"goal": goal, "facets": facets, "persona": persona or None})


def without_quotations(
    annotation: Annotation, texts: tuple[str, ...], counts: Counter[str]
) -> Annotation | None:
    """Removes facets and a persona that quote the person. Returns None if the goal does."""
    if quotes(annotation.goal, texts):
        counts["goals_with_a_quotation"] += 1
        return None
    facets = tuple(facet for facet in annotation.facets if not quotes(facet.text, texts))
    counts["facets"] += len(facets)
    counts["facets_with_a_quotation"] += len(annotation.facets) - len(facets)
    if annotation.persona and quotes(annotation.persona, texts):
        counts["personas_with_a_quotation"] += 1
        annotation = annotation.model_copy(update={"persona": None})
    return annotation.model_copy(update={"facets": facets})


def quotes(text: str, texts: tuple[str, ...]) -> bool:
    return len(words(text)) > LONGEST_RUN and bool(shared(text, texts, n=LONGEST_RUN + 1)[0])


def with_masked_personas(
    annotations: Mapping[str, Annotation], counts: Counter[str]
) -> dict[str, Annotation]:
    written = {id_: (one.persona, phrase(one.goal)) for id_, one in annotations.items() if one.persona}
    masked = mask_personas(written)
    counts["persona_words_masked"] = masked.words_masked
    sys.stdout.write(f"goal found from persona: {masked.before} before, {masked.after} after\n")
    return {
        id_: one.model_copy(update={"persona": masked.personas.get(id_) or None})
        for id_, one in annotations.items()
    }


if __name__ == "__main__":
    sys.exit(run_main(main))
