"""The supported model families; to add one, write a module here and add its class to the list."""

from pipeline.interop.families.bart import Bart, Marian, MarianWithTable
from pipeline.interop.families.bert import Bert, Roberta
from pipeline.interop.families.gpt2 import GPT2
from pipeline.interop.families.llama import Llama, Qwen2, Qwen3
from pipeline.interop.families.t5 import T5
from pipeline.interop.table import Family

FAMILIES: tuple[Family, ...] = (
    Qwen3(),
    Llama(),
    Qwen2(),
    GPT2(),
    Bert(),
    Roberta(),
    Marian(),
    MarianWithTable(),
    Bart(),
    T5(),
)


def family_of(model_type: str) -> Family | None:
    """Return the family for models of this `model_type`; None if there is none."""
    return next((family for family in FAMILIES if family.model_type == model_type), None)
