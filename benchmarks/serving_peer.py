"""Serve an exported model with FastAPI and `generate` of transformers, one request at a time.

python -m benchmarks.serving_peer FOLDER PORT
"""

import sys
from typing import Any


def main(folder: str, port: int) -> None:
    """Serve on the loopback interface until killed."""
    import torch
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)  # in evaluation mode
    app = FastAPI()

    class Prompt(BaseModel):
        prompt: str
        max_tokens: int

    def complete(body: Prompt) -> dict[str, str]:
        ids = tokenizer(body.prompt, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            made = model.generate(ids, max_new_tokens=body.max_tokens, do_sample=False)
        return {"text": str(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))}

    app.post("/v1/completions")(complete)
    app.get("/health")(lambda: {"status": "ok"})
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
