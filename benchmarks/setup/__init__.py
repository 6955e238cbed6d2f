"""Experimental setup of the benchmarks: options, results and their tables, machine, models, sentences, the rival."""
