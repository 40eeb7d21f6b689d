"""Run by itself, without this project: does an exported folder load, and is it the same model?

    python -I fresh_process.py FOLDER CHECK

`CHECK` holds as safetensors a batch (`batch.*`), which of its tokens are `real`, their `logits`, and for
models that write a `prompt` and what was `written`; `texts.json` beside it holds pairs of a text and its
ids. Prints one JSON object: the relative error of the logits, and what else differs.
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

    config = transformers.AutoConfig.from_pretrained(folder)
    kind = getattr(transformers, config.architectures[0])
    model, report = kind.from_pretrained(folder, dtype=torch.float64, output_loading_info=True)
    model.eval()
    saved = load_file(check)
    batch = {name.removeprefix("batch."): value for name, value in saved.items() if name.startswith("batch.")}
    with torch.no_grad():
        logits = model(**batch).logits[saved["real"]]
    found: dict[str, Any] = {
        "error": float((logits - saved["logits"]).norm() / saved["logits"].norm()),
        "missing": sorted(report["missing_keys"]),
        "surplus": sorted(report["unexpected_keys"]),
        "texts": [],
        "written": True,
    }
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text, ids in json.loads((Path(check).parent / "texts.json").read_text(encoding="utf-8")):
        if tokenizer(text, add_special_tokens=False)["input_ids"] != ids:
            found["texts"].append(text)
    if "written" in saved:
        prompt, expected = saved["prompt"], saved["written"].tolist()
        answer = model.generate(prompt, max_new_tokens=max(len(expected), 1), do_sample=False)[0].tolist()
        before = 1 if config.is_encoder_decoder else prompt.shape[1]
        found["written"] = answer[before : before + len(expected)] == expected
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
