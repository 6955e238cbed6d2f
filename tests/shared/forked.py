"""Processes of their own that need not import anything: forked from a server that has imported the package once."""

from __future__ import annotations

import multiprocessing

METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
processes = multiprocessing.get_context(METHOD)
if METHOD == "forkserver":
    processes.set_forkserver_preload(["captum_attattr", "transformers.models.bert.modeling_bert", "accelerate"])
