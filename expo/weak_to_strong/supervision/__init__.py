"""What makes good supervision: hard tasks with errors, easy subtasks, and their mix.

    decompose.decompose(tasks, subtasks, ...), judge.judge(samples, tasks, judged, ...)
    corrupt.corrupt(rows, outcome, steps=...), mix.mix(parts, folder, ...)
    stages.run_stages(grid.build(runfile.load_supervision("running-sum")), folder)

Source: He, Yin, Peng, "Guiding Through Complexity", arXiv:2410.20533. The single steps read JSONL files of any origin.
Importing this costs nothing; models load when a step needs one.
"""
