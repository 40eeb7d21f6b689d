"""Run on its own, without this project: check that an exported folder loads and is the same model.

    python -I fresh_process.py FOLDER CHECK

`CHECK` holds as safetensors a batch (`batch.*`), which of its tokens are `real`, the hidden states of each
layer (`hidden.STACK.NUMBER`), their `logits` where there is a head, and for models that write a `prompt` and
what was `written`. `question.json` beside it names the class, and has pairs of a text and its ids. Prints one
JSON object: the relative error of the logits, the first layer that differs, and what else does.
"""

import json
import sys
from pathlib import Path
from typing import Any


def main(folder: str, check: str) -> None:
    """Load, compare, print."""
    import torch
    import transformers
    from safetensors.torch import load_file

    question = json.loads((Path(check).parent / "question.json").read_text(encoding="utf-8"))
    source = {"gguf_file": question["gguf"]} if question["gguf"] else {}
    kind = getattr(transformers, question["architecture"])
    model, report = kind.from_pretrained(folder, dtype=torch.float64, output_loading_info=True, **source)
    model.eval()
    saved = load_file(check)
    batch = {name.removeprefix("batch."): value for name, value in saved.items() if name.startswith("batch.")}
    real = saved["real"]
    with torch.no_grad():
        made = model(**batch, output_hidden_states=True)
    errors = {
        name: error(state[real], saved[f"hidden.{name}"]) for name, state in states(made, saved).items()
    }
    found: dict[str, Any] = {
        "error": error(made.logits[real], saved["logits"]) if "logits" in saved else max(errors.values()),
        "differs": next((name for name, each in errors.items() if not each < question["tolerance"]), None),
        "missing": sorted(report["missing_keys"]),
        "surplus": sorted(report["unexpected_keys"]),
        "texts": [],
        "written": True,
    }
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **source)
    for text, ids in question["texts"]:
        if tokenizer(text, add_special_tokens=False)["input_ids"] != ids:
            found["texts"].append(text)
    if "written" in saved:
        prompt, expected = saved["prompt"], saved["written"].tolist()
        answer = model.generate(prompt, max_new_tokens=max(len(expected), 1), do_sample=False)[0].tolist()
        before = 1 if model.config.is_encoder_decoder else prompt.shape[1]
        found["written"] = answer[before : before + len(expected)] == expected
    print(json.dumps(found))


def error(found: Any, expected: Any) -> float:
    """The relative error."""
    return float((found - expected).norm() / expected.norm())


def states(made: Any, saved: dict[str, Any]) -> dict[str, Any]:
    """Hidden states by `STACK.NUMBER`, in the order in which they are computed."""
    lists = {
        "stack": "hidden_states", "encoder": "encoder_hidden_states", "decoder": "decoder_hidden_states",
    }  # fmt: skip
    return {
        f"{name}.{number}": state
        for name, key in lists.items()
        if f"hidden.{name}.0" in saved
        for number, state in enumerate(made[key])
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
