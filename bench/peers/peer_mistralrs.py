#!/usr/bin/env python3
"""mistral.rs through its PyPI package. It takes text, not ids: `same_ids` says whether it cut the text alike.
See tamp_rows.py."""

import importlib.metadata
import os

from tamp_rows import Unsupported, main


class Peer:
    def __init__(self, model, threads, ctx, streams):
        for name in ("RAYON_NUM_THREADS", "CANDLE_NUM_THREADS", "TOKIO_WORKER_THREADS"):
            os.environ[name] = str(threads)
        import mistralrs

        self.m = mistralrs
        self.version = importlib.metadata.version("mistralrs")
        folder, name = os.path.split(os.path.abspath(model))
        which = mistralrs.Which.GGUF(quantized_model_id=folder, quantized_filename=name)
        self.runner = mistralrs.Runner(which=which, prefix_cache_n=0, max_seqs=max(1, streams))

    def settings(self, work):
        return ["default"]

    def use(self, setting):
        pass

    def request(self, ids, text, n):
        own = self.runner.tokenize_text(text, add_special_tokens=False, enable_thinking=None)
        ask = self.m.CompletionRequest(prompt=text, model="default", max_tokens=n, temperature=0.0, ignore_eos=True)
        answer = self.runner.send_completion_request(ask)
        usage, self.text = answer.usage, answer.choices[0].text
        if usage.completion_tokens != n:
            raise RuntimeError(f"{usage.completion_tokens} of {n} tokens")
        # The completion's time starts at the first token.
        return list(own) == list(ids), usage.total_prompt_time_sec, n - 1, usage.total_completion_time_sec

    def together(self, lists, n):
        raise Unsupported("several streams in one step cannot be told apart from its interface")


if __name__ == "__main__":
    main("mistral.rs", "mistralrs", Peer)
