"""Weak-to-strong pipelines: what a weak model writes, a strong model learns from, chooses among, and outgrows.

    select.select(weak, icl, folder), vote.vote_files(samples, out), pairs.pair_files(weak, votes, out, Rule())
    validate.validate(file, weak=..., others=...), questions.gsm8k(folder, raw=...)
    stages.run_stages(reasoning.build(runfile.load_run("running-sum")), folder)
    stages.run_stages(ensemble.build(runfile.load_run("running-sum", kind=ensemble_run.EnsembleRun)), folder)

The single steps read JSONL files of any origin. Importing this costs nothing; models load when a stage needs one.
"""
