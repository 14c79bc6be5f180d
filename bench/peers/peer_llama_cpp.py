#!/usr/bin/env python3
"""llama.cpp through the PyPI package llama-cpp-python, called at its C interface. See tamp_rows.py."""

import time

from tamp_rows import main


class Peer:
    def __init__(self, model, threads, ctx, streams):
        import ctypes

        import llama_cpp as l
        import numpy as np

        self.l, self.np, self.threads, self.room, self.streams = l, np, threads, ctx, streams
        self.version = l.__version__
        self.quiet = l.llama_log_callback(lambda level, text, data: None)
        l.llama_log_set(self.quiet, ctypes.c_void_p(0))
        l.llama_backend_init()
        params = l.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = l.llama_model_load_from_file(model.encode(), params)
        if not self.model:
            raise RuntimeError("the file was refused")
        self.vocab = l.llama_vocab_n_tokens(l.llama_model_get_vocab(self.model))
        self.ctx, self.setting = None, None

    def settings(self, work):
        return ["fa=0", "fa=1"] if work == "context" else ["fa=auto"]

    def use(self, setting):
        if setting == self.setting:
            return
        l = self.l
        if self.ctx:
            l.llama_free(self.ctx)
        p = l.llama_context_default_params()
        p.n_ctx = -(-self.room // 256) * 256 * self.streams
        p.n_batch, p.n_ubatch, p.n_seq_max = 2048, 512, self.streams
        p.n_threads = p.n_threads_batch = self.threads
        p.flash_attn_type = {"fa=auto": -1, "fa=0": 0, "fa=1": 1}[setting]
        self.ctx = l.llama_init_from_model(self.model, p)
        if not self.ctx:
            raise RuntimeError(f"no context with {setting}")
        self.setting = setting

    def forward(self, rows):
        """Rows of (token, position, stream, wanted)."""
        batch = self.l.llama_batch_init(len(rows), 0, 1)
        batch.n_tokens = len(rows)
        for i, (token, at, stream, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, at, 1
            batch.seq_id[i][0], batch.logits[i] = stream, wanted
        code = self.l.llama_decode(self.ctx, batch)
        self.l.llama_batch_free(batch)
        if code:
            raise RuntimeError(f"llama_decode gave {code}")

    def best(self, row):
        logits = self.l.llama_get_logits_ith(self.ctx, row)
        return int(self.np.argmax(self.np.ctypeslib.as_array(logits, shape=(self.vocab,))))

    def prompt(self, ids, stream):
        for at in range(0, len(ids), 2048):
            chunk = ids[at:at + 2048]
            last = at + len(chunk) == len(ids)
            self.forward([(t, at + i, stream, last and i + 1 == len(chunk)) for i, t in enumerate(chunk)])
        return self.best(-1)

    def clear(self):
        self.l.llama_memory_clear(self.l.llama_get_memory(self.ctx), True)

    def request(self, ids, text, n):
        self.clear()
        start = time.perf_counter()
        token = self.prompt(ids, 0)
        before = time.perf_counter()
        prefill, steps, self.tokens = before - start, [], [token]
        for i in range(n - 1):
            self.forward([(token, len(ids) + i, 0, True)])
            token = self.best(0)
            self.tokens.append(token)
            now = time.perf_counter()
            steps.append(now - before)
            before = now
        return True, prefill, steps, None

    def together(self, lists, n):
        self.clear()
        tokens = [self.prompt(ids, s) for s, ids in enumerate(lists)]
        steps = []
        for i in range(n - 1):
            start = time.perf_counter()
            self.forward([(t, len(lists[s]) + i, s, True) for s, t in enumerate(tokens)])
            tokens = [self.best(s) for s in range(len(lists))]
            steps.append(time.perf_counter() - start)
        return True, steps


if __name__ == "__main__":
    main("llama.cpp", "llama-cpp-python", Peer)
